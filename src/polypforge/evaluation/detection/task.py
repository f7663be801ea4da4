"""Detection as a task of a downstream plan: its network, its scores, its main figure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polypforge.core.types import Case
from polypforge.evaluation.comparison import Statistic
from polypforge.evaluation.detection.average_precision import Ranked, score_boxes, summarise
from polypforge.evaluation.detection.network import LesionDetector

NAME = "detection"
MAIN = "AP50"
BESIDE = "AP50-95"
Network = LesionDetector


def score(network: LesionDetector, cases: Iterable[Case]) -> list[dict[str, Any]]:
    """A row for each case, in order."""
    return [score_boxes(c.name, c.group, network.predict([c.image])[0], c.boxes) for c in cases]


def statistic(runs: Sequence[Sequence[Mapping[str, Any]]]) -> Statistic:
    """AP50 of each run."""
    ranked = [Ranked(rows) for rows in runs]

    return lambda weights: np.array([r.average_precision(0, weights) for r in ranked])


def witnesses(rows: Sequence[Mapping[str, Any]]) -> NDArray[np.bool_]:
    """(n,): which images the main figure can't do without."""
    return np.array([row["truths"] > 0 for row in rows])


def summary(runs: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """All measures with intervals, means of the runs."""
    return summarise(runs)


def beside(told: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of a summary: the figure that tables show beside the main one."""
    return told["measures"]["AP50-95"]
