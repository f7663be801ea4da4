"""Maximum mean discrepancies: KID (Binkowski et al. 2018) and CMMD (Jayasumana et al. 2024)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

ROWS_AT_ONCE = 2048
CMMD_SIGMA, CMMD_SCALE = 10.0, 1000.0

Kernel = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]


def kid(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Unbiased squared MMD with the kernel (x.y / D + 1)^3 over all pairs, 0 on average for sets of one kind, whatever their size.

    torch-fidelity averages it over random subsets; over all pairs it is the same with less noise. Raises ValueError for fewer than two.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError("KID needs at least two features in each set")
    width = a.shape[1]

    def cubic(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        return (x @ y.T / width + 1) ** 3

    own = [(_sum(x, x, cubic) - _diagonal(x, width)) / (len(x) * (len(x) - 1)) for x in (a, b)]
    return float(own[0] + own[1] - 2 * _sum(a, b, cubic) / (len(a) * len(b)))


def cmmd(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """1000 x the squared MMD with a Gaussian kernel of width 10 on CLIP embeddings of unit length, with the diagonals, as published."""
    if not len(a) or not len(b):
        raise ValueError("CMMD needs a feature in each set")

    def gaussian(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        squares = (x**2).sum(1)[:, None] + (y**2).sum(1)[None] - 2 * x @ y.T
        return np.exp(-np.maximum(squares, 0) / (2 * CMMD_SIGMA**2))

    means = [_sum(x, y, gaussian) / (len(x) * len(y)) for x, y in ((a, a), (b, b), (a, b))]
    return float(CMMD_SCALE * (means[0] + means[1] - 2 * means[2]))


def _sum(a: NDArray[np.float32], b: NDArray[np.float32], kernel: Kernel) -> float:
    """Of the kernel over all pairs, ROWS_AT_ONCE squared at a time."""
    total = 0.0
    for i in range(0, len(a), ROWS_AT_ONCE):
        rows = a[i : i + ROWS_AT_ONCE].astype(np.float64)
        for j in range(0, len(b), ROWS_AT_ONCE):
            total += float(kernel(rows, b[j : j + ROWS_AT_ONCE].astype(np.float64)).sum())
    return total


def _diagonal(x: NDArray[np.float32], width: int) -> float:
    lengths = np.concatenate([np.square(x[i : i + ROWS_AT_ONCE].astype(np.float64)).sum(1) for i in range(0, len(x), ROWS_AT_ONCE)])
    return float(((lengths / width + 1) ** 3).sum())
