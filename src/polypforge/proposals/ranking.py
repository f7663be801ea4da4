"""Which few of many possible places to propose: those that together cover most of what is likely."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

AGREE = 0.3  # IoU at which two boxes count as one place


def box_ious(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, m) intersection over union of boxes (n, 4) and (m, 4), x0, y0, x1, y1; 0 for boxes without area."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    both = np.clip(high - low, 0, None).prod(2)
    areas = [np.clip(x[:, 2:] - x[:, :2], 0, None).prod(1) for x in (a, b)]
    return both / np.maximum(areas[0][:, None] + areas[1][None] - both, 1e-9)


def covering(boxes: Sequence[tuple[float, ...]], weights: Sequence[float], count: int) -> list[tuple[int, float]]:
    """(index, gain) of up to `count` boxes, chosen greedily: each next one adds most weight of boxes that none chosen agrees with.

    Weights are a distribution over places, so a gain is the chance that a place is met by this box and by none before. The greedy choice
    reaches at least 63 % of the best possible cover (Nemhauser et al. 1978). Ties go to the earlier box.
    """
    if not len(boxes):
        return []
    array, left = np.asarray(boxes, float), np.asarray(weights, float) / max(float(np.sum(weights)), 1e-12)
    agree = box_ious(array, array) > AGREE
    chosen: list[tuple[int, float]] = []
    free = np.ones(len(array), bool)
    while len(chosen) < count and free.any():
        gains = np.where(free, agree @ left, -1.0)
        best = int(gains.argmax())
        chosen.append((best, float(gains[best])))
        left = np.where(agree[best], 0.0, left)
        free &= ~agree[best]
        free[best] = False
    return chosen
