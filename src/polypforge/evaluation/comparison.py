"""Is one way of training better than another? Paired differences with intervals, and the answer in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student


@dataclass(frozen=True)
class Comparison:
    """difference: mean over runs of arm - baseline. interval: 95 %. better, worse: runs (same cases, same seed) in which the arm was above
    or below the baseline. p: of the two-sided sign test over them. runs, images: how many. by_draw: the difference for each draw of the
    training cases."""

    difference: float
    interval: tuple[float, float]
    better: int
    worse: int
    p: float
    runs: int
    images: int
    by_draw: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def verdict(self) -> str:
        """In words, as far as the figures bear it."""
        if self.runs < 2:
            return "was tried once, which shows nothing yet,"
        low, high = self.interval
        if low > 0:
            return "helped"
        if high < 0:
            return "harmed"
        return "made no difference that these runs can show"


Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]  # weights of the images (n,) -> the figure of each run (runs,)


def mean_of(scores: NDArray[np.float64]) -> Statistic:
    """The weighted mean over images of (runs, n) scores."""
    return lambda weights: scores @ weights / weights.sum()


def compare(
    arm: Statistic, baseline: Statistic, groups: Sequence[str], draws: Sequence[int], resamples: int = 2000, seed: int = 0
) -> Comparison:
    """Of runs that differ in the arm alone. groups: of each test image. draws: of each run, the number of its draw of training cases.

    The interval has two parts: a bootstrap over groups of test images, and the spread of the runs, or of the draws' means where that is
    larger, with Student's t for the number of runs. `by_draw` tells the draws apart: a few of them bear no interval of their own.
    Raises ValueError for no runs.
    """
    if not len(draws) or not len(groups):
        raise ValueError("there is nothing to compare")
    rng = np.random.default_rng(seed)
    names = sorted(set(groups))
    index = np.array([names.index(g) for g in groups])
    means = np.empty(resamples)
    for k in range(resamples):
        weights = np.bincount(rng.integers(0, len(names), len(names)), minlength=len(names))[index].astype(np.float64)
        means[k] = (arm(weights) - baseline(weights)).mean()
    per_run = arm(np.ones(len(groups))) - baseline(np.ones(len(groups)))
    n = len(per_run)
    by_draw = tuple(float(per_run[np.asarray(draws) == d].mean()) for d in sorted(set(draws)))
    of_images, of_runs = float(means.var()), float(per_run.var(ddof=1) / n) if n > 1 else 0.0
    if len(by_draw) > 1:  # seeds of one draw are alike: where draws differ more than seeds, they decide
        of_runs = max(of_runs, float(np.var(by_draw, ddof=1) / len(by_draw)))
    total = of_images + of_runs
    free = (n - 1) * (total / of_runs) ** 2 if of_runs else np.inf  # Welch and Satterthwaite; images are many
    half = float(student.ppf(0.975, free) * np.sqrt(total)) if np.isfinite(free) else 1.959964 * float(np.sqrt(total))
    mean = float(per_run.mean())
    better, worse = int((per_run > 0).sum()), int((per_run < 0).sum())
    return Comparison(mean, (mean - half, mean + half), better, worse, sign_test(better, worse), n, len(groups), by_draw)


def sign_test(better: int, worse: int) -> float:
    """Two-sided probability of so uneven a count if both were equally likely; 1.0 for no counts."""
    n = better + worse
    if not n:
        return 1.0
    tail = sum(comb(n, k) for k in range(max(better, worse), n + 1)) / 2**n
    return min(1.0, 2 * tail)
