"""Is one way of training better than another? Paired differences with intervals, and the answer in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from polypforge.core.intervals import group_weights


@dataclass(frozen=True)
class Comparison:
    """difference: mean over runs of arm - baseline. interval: 95 %. better, worse: draws of the training cases (with one draw: runs) in
    which the arm was above or below the baseline. p: of the two-sided sign test over them. runs, images: how many. by_draw: the difference
    for each draw. groups: of test images, how many. units: draws (or runs) that better and worse are counted in."""

    difference: float
    interval: tuple[float, float]
    better: int
    worse: int
    p: float
    runs: int
    images: int
    by_draw: tuple[float, ...]
    groups: int
    units: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def tells(self) -> bool:
        """Whether it bears an interval: not a single run, nor a test on one scene."""
        return self.runs > 1 and self.groups > 1

    @property
    def verdict(self) -> str:
        """In words, as far as the figures bear it."""
        if self.runs < 2:
            return "was tried once, which shows nothing yet,"
        if self.groups < 2:
            return "was tested on one scene, which shows nothing yet,"
        low, high = self.interval
        of_these = "" if len(self.by_draw) > 1 else " these cases (others were not tried)"
        if low > 0:
            return f"helped{of_these}"
        if high < 0:
            return f"harmed{of_these}"
        return "made no difference that these runs can show"


Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]  # weights of the images (n,) -> the figure of each run (runs,)


def mean_of(scores: NDArray[np.float64]) -> Statistic:
    """The weighted mean over images of (runs, n) scores."""
    return lambda weights: scores @ weights / weights.sum()


def compare(
    arm: Statistic,
    baseline: Statistic,
    groups: Sequence[str],
    draws: Sequence[int],
    resamples: int = 2000,
    seed: int = 0,
    shared: float = 0.0,
    witnesses: NDArray[np.bool_] | None = None,
) -> Comparison:
    """Of runs that differ in the arm alone. groups: of each test image. draws: of each run, the number of its draw of training cases.
    shared: what part of all labelled cases a draw takes, and so of two draws' cases are the same on average; with 1, draws are one.
    witnesses: (n,) which test images the figure can't do without (None: all): only their groups are counted, and resamples without any
    say nothing.

    The interval has two parts: a bootstrap over groups of test images, and the spread of the draws' means (seeds of one draw share their
    cases, so they are no witnesses of their own; where there is one draw, of the runs: such an interval knows nothing of other cases). Both
    have few degrees of freedom, which Student's t by Welch and Satterthwaite counts. Draws that share cases differ less than fresh ones
    would: of the variance s^2 between k draws, their mean has s^2 (1 / k + shared / (1 - shared)) instead of s^2 / k. Raises ValueError
    for no runs and no witnesses.
    """
    counts = np.ones(len(groups), bool) if witnesses is None else witnesses
    if not len(draws) or not counts.any():
        raise ValueError("there is nothing to compare")
    if not 0 <= shared <= 1:
        raise ValueError("shared is a part, from 0 to 1")
    scenes = len({group for group, shown in zip(groups, counts, strict=True) if shown})
    draws = [0] * len(draws) if shared == 1 else draws
    drawn = group_weights(groups, resamples, seed)
    means = np.array([(arm(weights) - baseline(weights)).mean() for weights in drawn[drawn @ counts > 0]])
    per_run = arm(np.ones(len(groups))) - baseline(np.ones(len(groups)))
    by_draw = tuple(float(per_run[np.asarray(draws) == d].mean()) for d in sorted(set(draws)))
    units = np.array(by_draw) if len(by_draw) > 1 else per_run
    overlap = shared / (1 - shared) if len(by_draw) > 1 else 0.0
    parts = [  # variance, degrees of freedom
        (float(means.var()) * scenes / max(1, scenes - 1), scenes - 1),
        (float(units.var(ddof=1)) * (1 / len(units) + overlap) if len(units) > 1 else 0.0, len(units) - 1),
    ]
    total = sum(variance for variance, _ in parts)
    doubt = sum(variance**2 / free for variance, free in parts if free and variance)
    half = float(student.ppf(0.975, total**2 / doubt) * np.sqrt(total)) if doubt else 0.0
    mean = float(per_run.mean())
    better, worse = int((units > 0).sum()), int((units < 0).sum())
    return Comparison(
        mean, (mean - half, mean + half), better, worse, sign_test(better, worse), len(per_run), len(groups), by_draw, scenes, len(units)
    )


def sign_test(better: int, worse: int) -> float:
    """Two-sided probability of so uneven a count if both were equally likely; 1.0 for no counts."""
    n = better + worse
    if not n:
        return 1.0
    tail = sum(comb(n, k) for k in range(max(better, worse), n + 1)) / 2**n
    return min(1.0, 2 * tail)
