"""Puts an outline where it fits: near a wanted place, on mucosa."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from polypforge.core.images import shrunk_size
from polypforge.core.types import Mask
from polypforge.masks.shapes import components, polygon_mask
from polypforge.proposals.places import region_polygon

WORK_PX = 160  # longer side at which places are tried
SHRINK, LEAST = 0.85, 0.45  # an outline that fits nowhere near is shrunk in steps, down to this share of its size
REACH = 0.35  # how far an outline may be moved, as a share of its own longer side
CUT = 0.15  # share of an outline that may be cut off: lesions at the edge of the view are seen in part
OVER_LUMEN = 0.3  # share that may lie before the lumen, into which lesions rise


def fit_outline(points: NDArray[np.float64], centre: tuple[float, float], allowed: Mask, lumen: Mask | None) -> NDArray[np.float64] | None:
    """(n, 2) corners of an outline around `centre` in frame pixels, moved and shrunk as little as needed; or None.

    points: (n, 2) outline around (0, 0), frame pixels. Nothing of it lies outside `allowed`: up to CUT is cut off. lumen: (H, W), of which
    no more than OVER_LUMEN is covered, and not by the outline's middle; None where that doesn't matter.
    """
    scale, size = shrunk_size(allowed.shape, WORK_PX)
    blocked = 1 - cv2.resize(allowed.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    hole = None if lumen is None else cv2.resize(lumen.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    factor = 1.0
    while factor >= LEAST:
        placed = _nearest_fit(points * (factor * scale), (centre[0] * scale, centre[1] * scale), blocked, hole)
        if placed is not None:
            drawn = polygon_mask(np.rint(points * factor + np.asarray(placed) / scale), allowed.shape) & allowed
            parts = components(drawn)
            if parts:
                corners = region_polygon(parts[0])
                if len(corners) >= 3:
                    return np.asarray(corners, float)
        factor *= SHRINK
    return None


def _nearest_fit(
    points: NDArray[np.float64], centre: tuple[float, float], blocked: NDArray[np.float32], hole: NDArray[np.float32] | None
) -> tuple[float, float] | None:
    """The centre nearest to the wanted one at which little enough of the outline's filling is blocked, or lies before the lumen."""
    reach = np.abs(points).max(0)
    half = int(np.ceil(reach.max())) + 1
    kernel = polygon_mask(np.rint(points + half), (2 * half + 1, 2 * half + 1)).astype(np.float32)
    kernel /= kernel.sum()
    steps = int(np.ceil(REACH * 2 * reach.max()))
    cx, cy = round(centre[0]), round(centre[1])
    fits = _share(kernel, blocked, cx, cy, steps, beyond=1.0) <= CUT
    if hole is not None:
        fits &= _share(kernel, hole, cx, cy, steps, beyond=0.0) <= OVER_LUMEN
        fits &= _window(hole, cx - steps, cy - steps, 2 * steps + 1, 0.0) < 0.5
    ys, xs = np.nonzero(fits)
    if not len(ys):
        return None
    distance = (ys - steps) ** 2 + (xs - steps) ** 2
    best = int(distance.argmin())
    return (float(cx + xs[best] - steps), float(cy + ys[best] - steps)) if distance[best] <= steps**2 else None


def _share(kernel: NDArray[np.float32], plane: NDArray[np.float32], cx: int, cy: int, steps: int, beyond: float) -> NDArray[np.float32]:
    """(2 steps + 1, same): the plane's mean over the kernel, at each move of it by up to `steps`."""
    half = len(kernel) // 2
    seen = _window(plane, cx - steps - half, cy - steps - half, 2 * (steps + half) + 1, beyond)
    means = cv2.filter2D(seen, -1, kernel, borderType=cv2.BORDER_CONSTANT)
    return means[half : len(means) - half, half : len(means) - half]


def _window(plane: NDArray[np.float32], x0: int, y0: int, side: int, beyond: float) -> NDArray[np.float32]:
    """A square of the plane, with the value `beyond` where it leaves it."""
    found = np.full((side, side), beyond, np.float32)
    height, width = plane.shape
    top, left, bottom, right = max(0, y0), max(0, x0), min(height, y0 + side), min(width, x0 + side)
    if top < bottom and left < right:
        found[top - y0 : bottom - y0, left - x0 : right - x0] = plane[top:bottom, left:right]
    return found
