"""Intervals: no figure goes without one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

PICKS_AT_ONCE = 1 << 22
MOST_OF_A_SET = 1 / 3  # a group with more is in most halves, which then differ less than samples would (95 % intervals cover 77 %)
LEAST_GROUPS = 6  # fewer witnesses bear no interval: drawn with replacement, two of them cover half of what they should, five 84 %
Value = TypeVar("Value", float, NDArray[np.float64])


def bootstrap_interval(
    values: Sequence[float], level: float = 0.95, resamples: int = 2000, seed: int = 0, groups: Sequence[str] | None = None
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean. groups: of each value; those of one patient, video or scene are drawn together.

    Raises ValueError for fewer than two values, or two groups.
    """
    _, index = np.unique(np.arange(len(values)) if groups is None else np.asarray(groups), return_inverse=True)
    sums, counts = np.bincount(index, np.asarray(values, np.float64)), np.bincount(index)
    if len(sums) < 2:
        raise ValueError("an interval needs at least two values")
    rng, rows = np.random.default_rng(seed), max(1, PICKS_AT_ONCE // len(sums))
    picks = (rng.integers(0, len(sums), (min(rows, resamples - k), len(sums))) for k in range(0, resamples, rows))
    means = np.concatenate([sums[p].sum(1) / counts[p].sum(1) for p in picks])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def percentile_interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """Where the middle 95 % of resampled figures (n,) lie."""
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def wilson_interval(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927). (0, 1) for no trials."""
    if trials == 0:
        return 0.0, 1.0
    share = successes / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * np.sqrt(share * (1 - share) / trials + z * z / (4 * trials**2)) / (1 + z * z / trials)
    return float(max(0.0, centre - half)), float(min(1.0, centre + half))


def group_weights(groups: Sequence[str], resamples: int, seed: int = 0) -> NDArray[np.float64]:
    """(resamples, n): how often each of n pictures counts when their groups (patients, videos, scenes) are drawn with replacement."""
    names = {name: k for k, name in enumerate(sorted(set(groups)))}
    index = np.array([names[g] for g in groups])
    drawn = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), resamples)
    return drawn.astype(np.float64)[:, index]


def bears_halves(groups: NDArray) -> bool:
    """Whether halves of a set tell how far chance goes: it has enough groups, and none of them is most of it. groups: (n,) labels."""
    sizes = np.unique(groups, return_counts=True)[1]
    return len(sizes) >= LEAST_GROUPS and sizes.max() <= MOST_OF_A_SET * len(groups)


def half_of(groups: NDArray, rng: np.random.Generator) -> NDArray[np.int64]:
    """Rows of half of the pictures, or a little more: whole groups in random order until they are together. groups: (n,) labels."""
    _, index = np.unique(groups, return_inverse=True)
    sizes = np.bincount(index)
    order = rng.permutation(len(sizes))
    taken = order[: int(np.searchsorted(np.cumsum(sizes[order]), len(index) // 2)) + 1]
    return np.flatnonzero(np.isin(index, taken))


def half_sample_interval(
    value: Value,
    statistic: Callable[[NDArray[np.int64], NDArray[np.int64]], Value],
    groups: tuple[NDArray, NDArray],
    draws: int = 24,
    seed: int = 0,
) -> tuple[Value, Value]:
    """95 % interval of a figure of two whole sets, or of several at once, from its spread over random halves of both.

    statistic(rows of the first, rows of the second). groups: of each set's pictures, as pictures of one patient, video or source frame are
    one witness; `np.arange(n)` where all are independent. For means, a half drawn without replacement deviates from the whole as much as
    the whole does from the truth (delete-half jackknife: Shao & Wu 1989); drawing with replacement would repeat pictures, which distances
    of sets take for a collapse. The interval is of the figure's chance, for sets of this size; it knows nothing of a bias that goes with n.
    Raises ValueError for sets that don't bear it (`bears_halves`).
    """
    if not all(map(bears_halves, groups)):
        raise ValueError(f"an interval from halves needs {LEAST_GROUPS} groups in each set, and none of them with more than a third of it")
    rng = np.random.default_rng(seed)
    values = [statistic(*(half_of(part, rng) for part in groups)) for _ in range(draws)]
    half = float(student.ppf(0.975, draws - 1)) * np.std(values, axis=0, ddof=1)
    return value - half, value + half
