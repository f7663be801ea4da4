"""Segmentation as a task of a downstream plan: its network, its scores, its main figure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polypforge.core.types import Case
from polypforge.evaluation.comparison import Statistic, mean_of
from polypforge.evaluation.segmentation.network import LesionSegmenter
from polypforge.evaluation.segmentation.scores import ImageScore, lesion_shown, score_image, summarise

NAME = "segmentation"
MAIN = "Dice"
BESIDE = "IoU"
Network = LesionSegmenter


def score(network: LesionSegmenter, cases: Iterable[Case]) -> list[dict[str, Any]]:
    """A row for each case, in order."""
    rows = []
    for case in cases:
        if case.mask is not None:
            chance = network.predict([case.image])[0]
            rows.append(score_image(case.name, case.group, case.image, case.mask, chance).to_json())
    return rows


def statistic(runs: Sequence[Sequence[Mapping[str, Any]]]) -> Statistic:
    """Mean Dice over images that show a lesion, for each run."""
    scores = [[ImageScore(**row) for row in rows] for rows in runs]
    shows, dice = lesion_shown(scores[0]), np.array([[s.dice for s in run] for run in scores])
    return lambda weights: mean_of(dice[:, shows])(weights[shows])


def witnesses(rows: Sequence[Mapping[str, Any]]) -> NDArray[np.bool_]:
    """(n,): which images the main figure can't do without."""
    return lesion_shown([ImageScore(**row) for row in rows])


def summary(runs: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """All measures with intervals, means of the runs."""
    return summarise([[ImageScore(**row) for row in rows] for rows in runs])


def beside(told: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of a summary: the figure that tables show beside the main one."""
    return told["imagewise"]["iou"]
