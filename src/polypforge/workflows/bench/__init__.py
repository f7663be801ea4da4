"""`polypforge bench`: ours against the usual alternative, with the same weights, in one process."""

from polypforge.workflows.bench.run import CONTESTS, bench

__all__ = ["CONTESTS", "bench"]
