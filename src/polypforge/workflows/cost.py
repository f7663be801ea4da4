"""What a run will cost, measured on this machine before it starts."""

from __future__ import annotations

import time

from polypforge.recipes import Job, Recipe
from polypforge.workflows.plan import AnyPlanner


def seconds_per_case(recipe: Recipe, planner: AnyPlanner, load, probe: int = 4) -> float:
    """Seconds to plan and generate one case, from one small batch (its results are thrown away)."""
    start = time.monotonic()
    requests = [r for i in range(probe) for r in planner.requests(i) if not r.parent]
    recipe.generate([Job(r, load(r.background) if r.background else None) for r in requests])
    return (time.monotonic() - start) / len(requests)
