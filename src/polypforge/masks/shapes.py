"""Plain geometry of masks: boxes, polygons, components, outlines."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from polypforge.core.types import Box, Mask

SMALL_PX = 4  # radius up to which a disc at each pixel is faster than distances


def bounding_box(mask: Mask) -> Box:
    """Smallest box around the True pixels. Raises ValueError for an empty mask."""
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    if not len(columns):
        raise ValueError("an empty mask has no bounding box")
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def components(mask: Mask, min_area_px: int = 1) -> list[Mask]:
    """The 8-connected components of at least `min_area_px` pixels, largest first."""
    if not mask.any():
        return []
    part = _near(mask, 0)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask[part].astype(np.uint8), connectivity=8)
    order = sorted(range(1, count), key=lambda i: -stats[i, cv2.CC_STAT_AREA])
    return [_placed(labels == i, part, mask.shape) for i in order if stats[i, cv2.CC_STAT_AREA] >= min_area_px]


def component_boxes(mask: Mask, min_area_px: int = 1) -> tuple[Box, ...]:
    """One box for each 8-connected component, largest first."""
    return tuple(bounding_box(part) for part in components(mask, min_area_px))


def enlarge(box: Box, margin_px: int, shape: tuple[int, int]) -> Box:
    """`box` grown by `margin_px` on each side and clipped to a frame of `shape` (height, width)."""
    x0, y0, x1, y1 = box
    return max(0, x0 - margin_px), max(0, y0 - margin_px), min(shape[1], x1 + margin_px), min(shape[0], y1 + margin_px)


def box_mask(box: Box, shape: tuple[int, int]) -> Mask:
    mask = np.zeros(shape, bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


def polygon_mask(points: NDArray | list, shape: tuple[int, int]) -> Mask:
    """Filled polygon; `points` is (n, 2) x, y in pixels, corners included."""
    canvas = np.zeros(shape, np.uint8)
    cv2.fillPoly(canvas, [np.asarray(points, np.int32).reshape(-1, 1, 2)], 1)
    return canvas.astype(bool)


def region_mask(points: Sequence[tuple[int, int]], shape: tuple[int, int]) -> Mask:
    """The region of a request: its filled polygon, or everything when it names no corner."""
    return polygon_mask(list(points), shape) if points else np.ones(shape, bool)


def outline(mask: Mask, tolerance_px: float = 1.0) -> list[tuple[int, int]]:
    """Corner points of the largest component's outer border, simplified to `tolerance_px`."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not contours:
        raise ValueError("an empty mask has no outline")
    longest = max(contours, key=cv2.contourArea)
    return [(int(x), int(y)) for x, y in cv2.approxPolyDP(longest, tolerance_px, True)[:, 0]]


def dilate(mask: Mask, radius_px: float) -> Mask:
    """All pixels within `radius_px` (Euclidean) of the mask."""
    if radius_px <= 0 or not mask.any():
        return mask.copy()
    if radius_px <= SMALL_PX:
        return cv2.dilate(mask.astype(np.uint8), _disc(radius_px)) > 0
    part = _near(mask, ceil(radius_px))
    distance = cv2.distanceTransform((~mask[part]).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return _placed(distance <= radius_px, part, mask.shape)


def loosened(mask: Mask, share: float) -> Mask:
    """The convex hull of a mask that is not empty, dilated by `share` of its longer side."""
    borders, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    points = np.concatenate(borders)[:, 0]
    return dilate(polygon_mask(cv2.convexHull(points), mask.shape), share * float(np.ptp(points, axis=0).max() + 1))


def erode(mask: Mask, radius_px: float) -> Mask:
    """All pixels of the mask farther than `radius_px` from its outside; the frame's edge counts as outside."""
    if radius_px <= 0:
        return mask.copy()
    if radius_px <= SMALL_PX:
        return cv2.erode(mask.astype(np.uint8), _disc(radius_px), borderType=cv2.BORDER_CONSTANT, borderValue=0) > 0
    return inner_distance(mask) > radius_px


def _disc(radius_px: float) -> NDArray[np.uint8]:
    """All places within `radius_px` of the middle one."""
    at = np.arange(-int(radius_px), int(radius_px) + 1, dtype=np.float32)
    return (np.hypot(at, at[:, None]) <= radius_px).astype(np.uint8)


def rim(mask: Mask) -> Mask:
    """The mask's pixels that touch its outside (4-neighbourhood); the frame's edge counts as outside."""
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    return mask & (cv2.erode(mask.astype(np.uint8), cross, borderType=cv2.BORDER_CONSTANT, borderValue=0) == 0)


def inner_distance(mask: Mask) -> NDArray[np.float32]:
    """(H, W) float32: distance in pixels of each mask pixel to the nearest pixel outside; 0 outside."""
    if not mask.any():
        return np.zeros(mask.shape, np.float32)
    part = _near(mask, 0)
    padded = np.pad(mask[part].astype(np.uint8), 1)
    return _placed(cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1], part, mask.shape)


def _near(mask: Mask, margin_px: int) -> tuple[slice, slice]:
    """Rows and columns of the mask's box and so much around it: most lesions are small, and the rest of a frame need not be looked at.

    They start evenly, as OpenCV numbers components by blocks of 2x2 pixels.
    """
    x0, y0, x1, y1 = enlarge(bounding_box(mask), margin_px, mask.shape)
    return slice(y0 // 2 * 2, y1), slice(x0 // 2 * 2, x1)


def _placed(values: NDArray[Any], part: tuple[slice, slice], shape: tuple[int, int]) -> NDArray[Any]:
    """A plane of `shape` that holds `values` in its `part`, and 0 elsewhere."""
    plane = np.zeros(shape, values.dtype)
    plane[part] = values
    return plane


def box_iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes x0, y0, x1, y1; 0 where neither has an area."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(0.0, width) * max(0.0, height)
    either = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    return both / either if either > 0 else 0.0
