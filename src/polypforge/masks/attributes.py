"""Coarse attributes of a lesion, measured from pixels: what requests ask for and reports compare."""

from __future__ import annotations

from dataclasses import astuple, fields
from math import isfinite
from numbers import Real

import cv2
import numpy as np
from numpy.typing import NDArray

from polypforge.core.types import Attributes, Image, Mask
from polypforge.masks.shapes import dilate

NAMES = tuple(f.name for f in fields(Attributes))

# Centre and spread of each attribute over the training frames of Kvasir-SEG and PolypGen (rounded): they only bring the
# network's input to unit scale, so they need no exactness, but they must stay what the shipped weights were trained with.
CENTRE = np.array([0.55, 0.30, 0.70, 0.93, 0.0, 5.0, 0.0, 11.0], np.float32)
SPREAD = np.array([0.16, 0.15, 0.18, 0.05, 9.0, 6.0, 6.0, 4.0], np.float32)

# What "small" means: (least, below) of the square root of a lesion's share of the field of view, or of the image where only that is known.
SIZES = {"small": (0.0, 0.15), "medium": (0.15, 0.3), "large": (0.3, 1.01)}


def measure(image: Image, lesion: Mask, region: Mask, field: Mask, field_area_px: float | None = None) -> Attributes:
    """Attributes of the lesion pixels inside `region`. Works at a bounded resolution (longer side of the crop <= 128 px).

    field_area_px: area of the whole field of view when the arrays show only a part of it, in the arrays' pixels.
    Raises ValueError when `lesion & region` is empty.
    """
    lesion = lesion & region
    if not lesion.any():
        raise ValueError("no lesion in the region: its attributes are undefined")
    area = float(lesion.sum())
    fill = area / float(region.sum())
    size = float(np.sqrt(area / max(1.0, field_area_px or float(field.sum()))))

    ys, xs = np.nonzero(lesion)
    margin = int(0.35 * max(np.ptp(xs), np.ptp(ys))) + 4
    y0, x0 = max(0, ys.min() - margin), max(0, xs.min() - margin)
    crop = (slice(y0, ys.max() + margin + 1), slice(x0, xs.max() + margin + 1))
    step = max(1, int(np.ceil(max(crop_shape(crop)) / 128)))
    small = np.ascontiguousarray(image[crop][::step, ::step])
    inside, view = lesion[crop][::step, ::step], field[crop][::step, ::step]
    if not inside.any():  # thinner than the step: measure at full resolution
        small, inside, view = np.ascontiguousarray(image[crop]), lesion[crop], field[crop]

    lab = cv2.cvtColor(small.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    ring = dilate(inside, max(2.0, 0.25 * np.sqrt(inside.sum()))) & ~inside & view
    around = lab[ring].mean(0) if ring.any() else lab[inside].mean(0)
    delta = lab[inside].mean(0) - around

    elongation, solidity = shape(inside)
    return Attributes(
        fill=fill,
        size=size,
        elongation=elongation,
        solidity=solidity,
        delta_l=float(delta[0]),
        delta_a=float(delta[1]),
        delta_b=float(delta[2]),
        contrast=float(lab[inside][:, 0].std()),
    )


def shape(lesion: Mask) -> tuple[float, float]:
    """(elongation, solidity) of a mask that isn't empty, as `Attributes` has them."""
    points = np.argwhere(lesion)[:, ::-1].astype(np.float32)
    variances = np.linalg.eigvalsh(np.cov(points.T) + 1e-3 * np.eye(2)) if len(points) > 2 else np.ones(2)
    hull_area = max(1.0, cv2.contourArea(cv2.convexHull(points)))
    return float(np.sqrt(variances[0] / variances[1])), float(min(1.0, len(points) / (hull_area + np.sqrt(hull_area) * 2)))


def crop_shape(crop: tuple[slice, slice]) -> tuple[int, int]:
    return crop[0].stop - crop[0].start, crop[1].stop - crop[1].start


def to_vector(attributes: Attributes | dict[str, float]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(values, known): both (8,) float32. Values are standardised and clipped to +-3; unknown ones are 0 with known = 0."""
    given = attributes if isinstance(attributes, dict) else dict(zip(NAMES, astuple(attributes), strict=True))
    unknown = set(given) - set(NAMES)
    if unknown:
        raise ValueError(f"unknown attributes {sorted(unknown)}; known are {list(NAMES)}")
    wrong = [name for name, value in given.items() if not isinstance(value, Real) or not isfinite(value)]
    if wrong:
        raise ValueError(f"attribute '{wrong[0]}' is {given[wrong[0]]!r}, not a number: leave it out where it isn't asked for")
    known = np.array([name in given for name in NAMES], np.float32)
    values = np.array([given.get(name, 0.0) for name in NAMES], np.float32)
    return np.clip((values - CENTRE) / SPREAD, -3, 3) * known, known
