"""How the cost of a case grows: with the batch, with the resolution, with how many are made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polypforge.evaluation.images.frechet import frechet
from polypforge.evaluation.images.kernel import kid
from polypforge.recipes import Job
from polypforge.workflows.bench.contest import Contest, Side, Timed
from polypforge.workflows.bench.setting import Setting, frames_of

BATCHES = (1, 2, 4, 8, 16)
SIDES_PX = (128, 256, 512, 1024)
COUNTS = (8, 16, 32, 64)
PICTURES = (250, 500, 1000, 2000)
FEATURE_DIM = 512
REPEATS = 3


def growth(setting: Setting) -> Iterator[dict[str, Any]]:
    """One curve after the other: title, axis, its values `x`, and `seconds` (one list of repetitions for each value)."""
    jobs, size = setting.jobs(max(*BATCHES, *COUNTS)), setting.batch_size
    make = setting.recipe.generate
    batches = {n: Side("", partial(make, jobs[:n]), n) for n in BATCHES}
    yield _curve(f"seconds a case, frames of {setting.side_px} px", "images in a batch", batches)
    sides = {side: Side("", partial(make, setting.jobs(4, frames_of(side, 4))), 4) for side in SIDES_PX}
    yield _curve("seconds a case, batches of 4", "side of the frame, px", sides)
    counts = {n: Side("", partial(_in_batches, make, jobs[:n], size), 1) for n in COUNTS}
    yield _curve(f"seconds for all, batches of {size}", "cases", counts)
    rng = np.random.default_rng(0)
    sets = {n: [rng.standard_normal((n, FEATURE_DIM), np.float32) for _ in range(2)] for n in PICTURES}
    distances = {n: Side("", partial(_distances, *pair), 1) for n, pair in sets.items()}
    yield _curve(f"seconds for FID and KID, {FEATURE_DIM} features", "pictures in a set", distances)


def _in_batches(make: Callable[[Sequence[Job]], Any], jobs: Sequence[Job], size: int) -> None:
    for k in range(0, len(jobs), size):
        make(jobs[k : k + size])


def _distances(first: NDArray[np.float32], second: NDArray[np.float32]) -> None:
    frechet(first, second)
    kid(first, second)


def _curve(title: str, axis: str, points: Mapping[int, Side]) -> dict[str, Any]:
    timed = Timed(Contest(axis, title, list(points.values())))
    for k in range(REPEATS + 1):
        timed.round(counts=k > 0)
    return {"title": title, "axis": axis, "x": list(points), "seconds": [list(s) for s in zip(*timed.seconds, strict=True)]}
