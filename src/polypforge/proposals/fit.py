"""Puts an outline where it fits: near a wanted place, on allowed tissue only."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from polypforge.core.types import Mask
from polypforge.masks.shapes import polygon_mask

WORK_PX = 160  # longer side at which places are tried
SHRINK, LEAST = 0.85, 0.45  # an outline that fits nowhere near is shrunk in steps, down to this share of its size
REACH = 0.5  # how far an outline may be moved, as a share of its own longer side


def fit_outline(points: NDArray[np.float64], centre: tuple[float, float], allowed: Mask) -> NDArray[np.float64] | None:
    """(n, 2) outline around `centre` in frame pixels, moved and shrunk as little as needed to touch only allowed pixels; or None.

    points: (n, 2) outline around (0, 0), frame pixels.
    """
    scale = min(1.0, WORK_PX / max(allowed.shape))
    size = max(1, round(allowed.shape[1] * scale)), max(1, round(allowed.shape[0] * scale))
    # A coarse pixel is allowed when all of its fine ones are; beyond the frame nothing is.
    free = cv2.resize(allowed.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.999
    factor = 1.0
    while factor >= LEAST:
        placed = _nearest_fit(points * (factor * scale), (centre[0] * scale, centre[1] * scale), free)
        if placed is not None:
            found = points * factor + np.asarray(placed) / scale
            inside = (found >= 0).all() and (found < np.array(allowed.shape[::-1])).all()
            if inside and not (polygon_mask(np.rint(found), allowed.shape) & ~allowed).any():
                return found
        factor *= SHRINK
    return None


def _nearest_fit(points: NDArray[np.float64], centre: tuple[float, float], free: Mask) -> tuple[float, float] | None:
    """The centre nearest to the wanted one at which the outline's filling, a pixel wider, lies on free pixels."""
    reach = np.abs(points).max(0)
    half = int(np.ceil(reach.max())) + 2
    kernel = polygon_mask(np.rint(points + half), (2 * half + 1, 2 * half + 1)).astype(np.uint8)
    kernel = cv2.dilate(kernel, np.ones((3, 3), np.uint8))
    steps = int(np.ceil(REACH * 2 * reach.max()))
    cx, cy = round(centre[0]), round(centre[1])
    x0, y0 = cx - steps - half, cy - steps - half
    side = 2 * (steps + half) + 1
    blocked = np.ones((side, side), np.uint8)
    height, width = free.shape
    rows, columns = slice(max(0, y0), min(height, y0 + side)), slice(max(0, x0), min(width, x0 + side))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return None
    blocked[rows.start - y0 : rows.stop - y0, columns.start - x0 : columns.stop - x0] = ~free[rows, columns]
    touched = cv2.filter2D(blocked.astype(np.float32), -1, kernel.astype(np.float32), borderType=cv2.BORDER_CONSTANT)
    ys, xs = np.nonzero(touched[half:-half, half:-half] < 0.5)
    if not len(ys):
        return None
    distance = (ys - steps) ** 2 + (xs - steps) ** 2
    best = int(distance.argmin())
    if distance[best] > steps**2:
        return None
    return float(cx + xs[best] - steps), float(cy + ys[best] - steps)
