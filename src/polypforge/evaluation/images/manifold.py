"""Precision, recall, density, coverage: is what was made like the real, and is all of the real there (Kynkäänniemi 2019, Naeem 2020)?"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NEIGHBOURS = 5
ROWS_AT_ONCE = 1024


def manifold_measures(real: NDArray[np.float32], made: NDArray[np.float32], neighbours: int = NEIGHBOURS) -> dict[str, float]:
    """precision: share of the made within the `neighbours`-th neighbour distance of some real one; recall: the other way round; density:
    how many such real balls a made one lies in, over `neighbours`; coverage: share of the real with a made one in its ball.

    Raises ValueError when a set holds no more than `neighbours`.
    """
    if min(len(real), len(made)) <= neighbours:
        raise ValueError(f"the manifold measures need more than {neighbours} features in each set")
    real_reach, made_reach = _reach(real, neighbours), _reach(made, neighbours)
    near_real, balls = np.zeros(len(made), bool), np.zeros(len(made))
    near_made, covered = np.zeros(len(real), bool), np.zeros(len(real), bool)
    for start in range(0, len(real), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        distances = _distances(real[rows], made)
        inside = distances <= real_reach[rows, None]
        near_real |= inside.any(0)
        balls += inside.sum(0)
        covered[rows] = inside.any(1)
        near_made[rows] = (distances <= made_reach[None]).any(1)
    return {
        "precision": float(near_real.mean()),
        "recall": float(near_made.mean()),
        "density": float(balls.mean() / neighbours),
        "coverage": float(covered.mean()),
    }


def _reach(points: NDArray[np.float32], neighbours: int) -> NDArray[np.float64]:
    """Distance of each point to its `neighbours`-th neighbour, itself not counted."""
    found = np.empty(len(points))
    for start in range(0, len(points), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        found[rows] = np.partition(_distances(points[rows], points), neighbours, axis=1)[:, neighbours]
    return found


def _distances(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    x, y = a.astype(np.float64), b.astype(np.float64)
    squares = np.square(x).sum(1)[:, None] + np.square(y).sum(1)[None] - 2 * x @ y.T
    return np.sqrt(np.maximum(squares, 0))
