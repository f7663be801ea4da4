"""One similarity transform that explains how the local features of one picture lie in another (RANSAC, Fischler and Bolles 1981)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray


class Featured(Protocol):
    """points: (n, 2) float32 x, y; descriptors: (n, 128) float32 of unit length."""

    points: NDArray[np.float32]
    descriptors: NDArray[np.float32]


@dataclass(frozen=True)
class Rules:
    """ratio: of the distances to the nearest and to the second nearest feature, at most (Lowe 2004). mutual: each must be the other's
    nearest. least: matches without which nothing is fitted. tolerance_px: distance to where the transform says. tries: of RANSAC.
    scales: that the transform may have.
    """

    ratio: float
    mutual: bool
    least: int
    tolerance_px: float
    tries: int
    scales: tuple[float, float]


@dataclass(frozen=True)
class Alignment:
    """transform: (2, 3) from `a` to `b`; start, end: (m, 2) the matches that it explains, in `a` and in `b`."""

    transform: NDArray[np.float64]
    start: NDArray[np.float32]
    end: NDArray[np.float32]


def align(a: Featured, b: Featured, rules: Rules) -> tuple[Alignment | None, int]:
    """(the transform and what it explains, or None; the number of tentative matches). The same for the same features."""
    if min(len(a.points), len(b.points)) < rules.least:
        return None, 0
    similarity = a.descriptors @ b.descriptors.T
    best = similarity.argmax(1)
    rows = np.arange(len(best))
    top = similarity[rows, best]
    good = similarity.argmax(0)[best] == rows if rules.mutual else np.ones(len(best), bool)
    similarity[rows, best] = -1
    good &= _distance(top) < rules.ratio * _distance(similarity.max(1))
    tentative = int(good.sum())
    if tentative < rules.least:
        return None, tentative
    start, end = a.points[good], b.points[best[good]]
    cv2.setRNGSeed(0)
    transform, inliers = cv2.estimateAffinePartial2D(start, end, ransacReprojThreshold=rules.tolerance_px, maxIters=rules.tries)
    if transform is None or not rules.scales[0] < np.linalg.norm(transform[0, :2]) < rules.scales[1]:
        return None, tentative
    explained = inliers[:, 0] > 0
    return Alignment(transform, start[explained], end[explained]), tentative


def distinct_places(points: NDArray[np.float32]) -> int:
    """How many spots of 4 pixels: repeated texture gives many matches on one spot."""
    return len({tuple(p) for p in np.rint(points / 4).astype(int)})


def _distance(cosine: NDArray[np.float32]) -> NDArray[np.float32]:
    """Between unit vectors."""
    return np.sqrt(np.maximum(2 - 2 * cosine, 0))
