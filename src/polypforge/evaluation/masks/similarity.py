"""SIM of CondPolypDiff: how close generated masks come to real ones."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from polypforge.core.types import Mask

SIDE_PX = 64  # masks are compared at this size


def mask_similarity(generated: Sequence[Mask], real: Sequence[Mask] | None, measure: str = "pixels", symmetries: bool = False) -> float:
    """mean over generated g of max over real r of the share of equal pixels (or the IoU, `measure="iou"`) of g and r.

    real: None compares each mask of `generated` with all others of them (what a set of real masks gives is the floor of the figure).
    symmetries: also under mirror images and quarter turns of r. The printed formula of the paper sums over the wrong set; background
    dominates equality of pixels, so the IoU says more. 1.0 means that every generated mask is a copy. Raises ValueError for too few.
    """
    others = generated if real is None else real
    if not generated or len(others) < (2 if real is None else 1):
        raise ValueError("SIM needs at least one generated and one real mask, or two to compare with each other")
    if measure not in ("pixels", "iou"):
        raise ValueError("measure is pixels or iou")
    ours = np.stack([_small(m) for m in generated]).reshape(len(generated), -1)
    best = np.zeros(len(ours))
    for turned in _turns([_small(m) for m in others], symmetries):
        theirs = turned.reshape(len(others), -1)
        both = ours.astype(np.float32) @ theirs.T.astype(np.float32)
        sizes = ours.sum(1)[:, None] + theirs.sum(1)[None]
        if measure == "iou":
            either = sizes - both
            values = np.where(either > 0, both / np.maximum(either, 1), 1.0)
        else:
            values = 1 - (sizes - 2 * both) / ours.shape[1]
        if real is None:
            np.fill_diagonal(values, 0.0)
        best = np.maximum(best, values.max(1))
    return float(best.mean())


def _small(mask: Mask) -> NDArray[np.bool_]:
    return cv2.resize(mask.astype(np.uint8) * 255, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA) >= 128


def _turns(masks: list[NDArray[np.bool_]], symmetries: bool) -> list[NDArray[np.bool_]]:
    stack = np.stack(masks)
    if not symmetries:
        return [stack]
    return [np.rot90(s, k, axes=(1, 2)) for s in (stack, stack[:, :, ::-1]) for k in range(4)]
