"""What a run will cost, measured on this machine before it starts, and what it held."""

from __future__ import annotations

import sys
import time

import torch

from polypforge.models.memory import Room
from polypforge.recipes import Job, Recipe
from polypforge.workflows.plan import AnyPlanner


def seconds_per_case(recipe: Recipe, planner: AnyPlanner, load, probe: int = 4) -> float:
    """Seconds to plan and generate one case, from one small batch (its results are thrown away); a smaller one where memory is short."""
    start = time.monotonic()
    requests = [r for i in range(probe) for r in planner.requests(i) if not r.parent]
    Room(probe).run(recipe.generate, [Job(r, load(r.background) if r.background else None) for r in requests])
    return (time.monotonic() - start) / len(requests)


def peak_memory_gb() -> dict[str, float]:
    """The most memory that this process has held so far: "main" (not told by Windows), and "GPU" if it has used one."""
    held = {}
    if sys.platform != "win32":
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)
        held["main"] = round(peak, 2)
    if torch.cuda.is_available() and (on_gpu := torch.cuda.max_memory_allocated()):
        held["GPU"] = round(on_gpu / 1e9, 2)
    return held
