"""Regions to repaint, drawn at random during training: boundary-enhanced pseudo masks (Polyp-Gen, section 3.2).

All functions take a NumPy generator and return a mask of the frame's shape.
"""

from __future__ import annotations

import cv2
import numpy as np

from polypforge.core.types import Box, Mask
from polypforge.masks.shapes import bounding_box, box_mask, dilate, enlarge, inner_distance, polygon_mask


def inscribed_polygon(box: Box, shape: tuple[int, int], rng: np.random.Generator, extra_points: int = 4) -> Mask:
    """A convex polygon inside `box` that touches all four of its sides.

    The convex hull of one random point on each side and `extra_points` more on random sides, all drawn from the
    sides' middle 80 % so that the polygon covers most of the box.
    """
    x0, y0, x1, y1 = box[0], box[1], box[2] - 1, box[3] - 1
    sides = np.concatenate([np.arange(4), rng.integers(0, 4, extra_points)])
    along = rng.uniform(0.1, 0.9, len(sides))
    xs, ys = x0 + along * (x1 - x0), y0 + along * (y1 - y0)
    points = np.where(
        (sides % 2 == 0)[:, None],
        np.stack([xs, np.where(sides == 0, y0, y1)], 1),
        np.stack([np.where(sides == 1, x0, x1), ys], 1),
    )
    hull = cv2.convexHull(np.rint(points).astype(np.int32))
    return polygon_mask(hull, shape)


def radial_polygon(box: Box, shape: tuple[int, int], rng: np.random.Generator) -> Mask:
    """Polyp-Gen's own program, for reproduction only: a polygon of jittered angles and radii around the middle of `box`.

    Often not convex, it leaves the box, and covers little of a long one: `inscribed_polygon` is what the paper describes.
    """
    x0, y0, x1, y1 = box
    count = int(rng.integers(6, 13))
    steps = rng.uniform(0.5, 1.5, count)
    angles = rng.uniform(0, 2 * np.pi) + np.cumsum(steps / steps.sum() * 2 * np.pi)
    average = min(x1 - x0, y1 - y0) / 2
    radii = np.clip(rng.normal(average, 0.35 * average, count), 0.1 * average, 2 * average)
    points = np.stack([(x0 + x1) / 2 + radii * np.cos(angles), (y0 + y1) / 2 + radii * np.sin(angles)], 1)
    return polygon_mask(np.rint(points), shape)


POLYGONS = {"inscribed": inscribed_polygon, "radial": radial_polygon}


def random_box(field: Mask, rng: np.random.Generator, side_px: tuple[float, float], avoid: Mask | None = None) -> Box | None:
    """A box with sides U{side_px} that lies at least 85 % in `field` and touches nothing of `avoid`; None after 30 misses."""
    height, width = field.shape
    for _ in range(30):
        w, h = (int(min(rng.uniform(*side_px), limit - 2)) for limit in (width, height))
        x, y = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
        inside = field[y : y + h, x : x + w].mean() >= 0.85
        if inside and not (avoid is not None and avoid[y : y + h, x : x + w].any()):
            return x, y, x + w, y + h
    return None


def lesion_free_region(
    field: Mask, lesion: Mask, rng: np.random.Generator, side_px: tuple[float, float], polygons: str = "inscribed"
) -> Mask | None:
    """A rectangle (40 %) or polygon (60 %; of POLYGONS) in the field of view, clear of every lesion by 3 % of the width."""
    avoid = dilate(lesion, 0.03 * field.shape[1]) if lesion.any() else None
    box = random_box(field, rng, side_px, avoid)
    if box is None:
        return None
    region = box_mask(box, field.shape) if rng.random() < 0.4 else POLYGONS[polygons](box, field.shape, rng)
    return region & field


def lesion_region(lesion: Mask, field: Mask, rng: np.random.Generator, exact_mask: bool = True) -> Mask:
    """A loose region around one lesion, so that a model learns to draw the boundary by itself.

    One third each: the box enlarged by 3 % of the frame (15 px at 512), a convex polygon inscribed in a larger box,
    and (for exact masks; a polygon otherwise) the lesion's convex hull dilated by 4..25 % of its size.
    """
    box = bounding_box(lesion)
    longest = max(box[2] - box[0], box[3] - box[1])
    kind = rng.integers(0, 3)
    if kind == 0:
        margin = round(0.03 * lesion.shape[1] * rng.uniform(0.6, 1.6))
        region = box_mask(enlarge(box, margin, lesion.shape), lesion.shape)
    elif kind == 1 or not exact_mask:
        region = inscribed_polygon(enlarge(box, round(longest * rng.uniform(0.12, 0.4)), lesion.shape), lesion.shape, rng, 6)
    else:
        points = np.argwhere(lesion)[:, ::-1].astype(np.int32)
        hull = polygon_mask(cv2.convexHull(points), lesion.shape)
        region = dilate(hull, longest * rng.uniform(0.04, 0.25))
    return region & field


def is_speck(mask: Mask, min_thickness_px: float = 1.5) -> bool:
    """True when the mask is empty or nowhere thicker than `min_thickness_px` (radius of the largest inscribed disc)."""
    return not mask.any() or float(inner_distance(mask).max()) < min_thickness_px
