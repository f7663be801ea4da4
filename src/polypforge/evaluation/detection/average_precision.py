"""Average precision as COCO defines it (101 recalls, greedy matching), with weights of images so that it can be resampled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polypforge.core.intervals import LEAST_GROUPS, group_weights, percentile_interval
from polypforge.core.types import Box
from polypforge.masks.shapes import box_iou

THRESHOLDS = tuple(np.round(np.arange(0.5, 1.0, 0.05), 2).tolist())
RECALLS = np.linspace(0.0, 1.0, 101)
CONFIDENCE = 0.5  # from which a box counts for precision, recall and F1

Corners = tuple[float, float, float, float] | Box


def score_boxes(case: str, group: str, found: Sequence[tuple[Corners, float]], truth: Sequence[Corners]) -> dict[str, Any]:
    """A row: the number of true boxes, the confidence of each found one, surest first, and at which of THRESHOLDS it hits a true one that
    no surer one has hit."""
    order = sorted(found, key=lambda b: -b[1])
    overlaps = np.array([[box_iou(b, t) for t in truth] for b, _ in order]).reshape(len(order), len(truth))
    hits = np.zeros((len(order), len(THRESHOLDS)), bool)
    for k, threshold in enumerate(THRESHOLDS):
        free = np.ones(len(truth), bool)
        for row, values in enumerate(overlaps):
            values = np.where(free, values, -1)
            if len(truth) and values.max() >= threshold:
                free[int(values.argmax())] = False
                hits[row, k] = True
    return {"case": case, "group": group, "truths": len(truth), "scores": [s for _, s in order], "hits": hits.tolist()}


class Ranked:
    """All boxes found in a set, surest first, ready to be weighed by image."""

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        scores = np.concatenate([np.asarray(r["scores"], float) for r in rows]) if rows else np.zeros(0)
        image = np.concatenate([np.full(len(r["scores"]), k) for k, r in enumerate(rows)]).astype(int) if rows else np.zeros(0, int)
        hits = np.concatenate([np.asarray(r["hits"], bool).reshape(-1, len(THRESHOLDS)) for r in rows]) if rows else np.zeros((0, 10), bool)
        order = np.argsort(-scores, kind="stable")
        self.scores, self.image, self.hits = scores[order], image[order], hits[order]
        self.truths = np.array([r["truths"] for r in rows], float)

    def average_precision(self, threshold: int, weights: NDArray[np.float64] | None = None) -> float:
        """At THRESHOLDS[threshold]. NaN when there is nothing to find."""
        weights = np.ones(len(self.truths)) if weights is None else weights
        total = float((weights * self.truths).sum())
        if total == 0:
            return float("nan")
        weight = weights[self.image]
        right = np.cumsum(weight * self.hits[:, threshold])
        all_ = np.cumsum(weight)
        recall, precision = right / total, right / np.maximum(all_, 1e-12)
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        places = np.searchsorted(recall, RECALLS, side="left")
        return float(np.where(places < len(envelope), envelope[np.minimum(places, len(envelope) - 1)], 0).mean()) if len(envelope) else 0.0

    def at_confidence(self, weights: NDArray[np.float64]) -> tuple[float, float, float]:
        """(precision, recall, F1) of the boxes from CONFIDENCE up, at an IoU of 0.5."""
        sure = self.scores >= CONFIDENCE
        weight = weights[self.image[sure]]
        right, said, truth = float((weight * self.hits[sure, 0]).sum()), float(weight.sum()), float((weights * self.truths).sum())
        precision, recall = right / said if said else 1.0, right / truth if truth else 1.0
        return precision, recall, 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def average_precision(rows: Sequence[Mapping[str, Any]], threshold: int) -> float:
    """AP at THRESHOLDS[threshold]; 0 where there is nothing to find."""
    value = Ranked(rows).average_precision(threshold)
    return 0.0 if np.isnan(value) else value


def summarise(runs: Sequence[Sequence[Mapping[str, Any]]], resamples: int = 300, seed: int = 0) -> dict[str, Any]:
    """{"n", "measures": {name: {"value", "interval"}}}: AP50, AP50-95, precision, recall, F1.

    runs: rows of the same images by one network or several, whose mean is told. Intervals: 95 %, of these networks on other images,
    bootstrap over groups (None for fewer than LEAST_GROUPS with a true box). Raises ValueError for no rows.
    """
    if not runs or not runs[0]:
        raise ValueError("there is nothing to summarise")
    rows, ranked = runs[0], [Ranked(run) for run in runs]
    drawn = group_weights([r["group"] for r in rows], resamples, seed)
    drawn = drawn[drawn @ ranked[0].truths > 0]  # where nothing is to be found, nothing is told
    values = _measures(ranked, np.ones(len(rows)))
    enough = len({r["group"] for r in rows if r["truths"]}) >= LEAST_GROUPS
    spread = np.array([list(_measures(ranked, w).values()) for w in drawn]) if enough else None
    intervals = [None] * len(values) if spread is None else [percentile_interval(column) for column in spread.T]
    told = {k: {"value": v, "interval": interval} for (k, v), interval in zip(values.items(), intervals, strict=True)}
    return {"n": len(rows), "measures": told}


def _measures(runs: Sequence[Ranked], weights: NDArray[np.float64]) -> dict[str, float]:
    each = np.mean([[run.average_precision(k, weights) for k in range(len(THRESHOLDS))] for run in runs], 0)
    precision, recall, f1 = np.mean([run.at_confidence(weights) for run in runs], 0).tolist()
    return {"AP50": float(each[0]), "AP50-95": float(each.mean()), "precision": precision, "recall": recall, "F1": f1}
