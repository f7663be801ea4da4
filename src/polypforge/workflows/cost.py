"""What a run will cost, measured on this machine before it starts."""

from __future__ import annotations

import time

from polypforge.proposals.plan import Planner
from polypforge.recipes import Job, Recipe


def seconds_per_case(recipe: Recipe, planner: Planner, load, probe: int = 4) -> float:
    """Seconds to plan and generate one case, from one small batch (its results are thrown away)."""
    start = time.monotonic()
    requests = [r for i in range(probe) for r in planner.requests(i) if not r.parent]
    recipe.generate([Job(r, load(r.background)) for r in requests])
    return (time.monotonic() - start) / len(requests)
