"""Fréchet distance of two Gaussians (Heusel et al. 2017), with no matrix square root, and what it tends to with more pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class Moments:
    """n: how many features. mean: (D,); covariance: (D, D), unbiased; float64."""

    n: int
    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]


def moments(features: NDArray[np.float32]) -> Moments:
    """Of (n, D) features, which may be a memory map: no more than ROWS_AT_ONCE are held. Raises ValueError for fewer than two."""
    n, width = features.shape
    if n < 2:
        raise ValueError(f"a covariance needs at least two features, not {n}")
    total = np.zeros(width)
    for start in range(0, n, ROWS_AT_ONCE):
        total += features[start : start + ROWS_AT_ONCE].sum(0, dtype=np.float64)
    mean = total / n
    scatter = np.zeros((width, width))
    for start in range(0, n, ROWS_AT_ONCE):
        centred = features[start : start + ROWS_AT_ONCE].astype(np.float64) - mean
        scatter += centred.T @ centred
    return Moments(n, mean, scatter / (n - 1))


def frechet_distance(a: Moments, b: Moments) -> float:
    """|mean difference|^2 + tr(A + B - 2 (A B)^(1/2)).

    (A B)^(1/2) has the trace of the square root of A^(1/2) B A^(1/2), which is symmetric: two eigendecompositions, exact for singular
    covariances too.
    """
    values, vectors = np.linalg.eigh(a.covariance)
    half = vectors * np.sqrt(np.maximum(values, 0))
    shared = np.sqrt(np.maximum(np.linalg.eigvalsh(half.T @ b.covariance @ half), 0)).sum()
    return _distance(a.mean - b.mean, np.trace(a.covariance), np.trace(b.covariance), shared)


def frechet(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """The same from (n, D) and (m, D) features. Where they are fewer than D, from their (n, m) products: tr (A B)^(1/2) is then the sum of
    the singular values of the centred features' product."""
    if min(len(a), len(b)) < 2:
        raise ValueError("a Fréchet distance needs at least two features in each set")
    if len(a) + len(b) > 2 * a.shape[1]:
        return frechet_distance(moments(a), moments(b))
    means = a.mean(0, dtype=np.float64), b.mean(0, dtype=np.float64)
    rows = [(x.astype(np.float64) - m) / np.sqrt(len(x) - 1) for x, m in zip((a, b), means, strict=True)]
    shared = np.linalg.svd(rows[0] @ rows[1].T, compute_uv=False).sum()
    return _distance(means[0] - means[1], np.square(rows[0]).sum(), np.square(rows[1]).sum(), shared)


def _distance(apart: NDArray[np.float64], trace_a: float, trace_b: float, shared: float) -> float:
    return float(max(0.0, apart @ apart + trace_a + trace_b - 2 * shared))


def frechet_infinity(real: NDArray[np.float32], made: NDArray[np.float32], points: int = 12, seed: int = 0) -> float:
    """The distance for endlessly many made pictures: the intercept of a line through the distances of `points` random subsets over 1 / size
    (Chong & Forsyth 2020). The bias of the real set's number stays, and near as few pictures as features the line bends. Raises ValueError
    for fewer than 50."""
    if len(made) < 50 or len(real) < 50:
        raise ValueError("FID-infinity needs at least 50 pictures in each set")
    rng = np.random.default_rng(seed)
    sizes = np.linspace(len(made) // 4, len(made), points).astype(int)
    base = moments(real) if len(real) > real.shape[1] // 2 else None
    values = []
    for size in sizes:
        part = made[np.sort(rng.choice(len(made), size, replace=False))]
        values.append(frechet_distance(base, moments(part)) if base is not None else frechet(real, part))
    return float(np.polyfit(1 / sizes, values, 1)[1])
