"""Training examples for `forge`: a window on a frame, a region in it, and what the region holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from polypforge.core.errors import UserError
from polypforge.core.types import Attributes, Image, Mask
from polypforge.core.window import Window
from polypforge.data.prepared import Prepared, draw_case, random_window
from polypforge.masks import attributes
from polypforge.masks.pseudo import lesion_free_region, lesion_region
from polypforge.masks.shapes import box_mask
from polypforge.recipes.forge.config import ForgeConfig

POLYP_ROW, NORMAL_ROW = 0, 1
SHIFT = 0.12  # of the window's side: the lesion need not be in the middle
VECTOR_DIM = 2 + 2 * len(attributes.NAMES)  # one-hot class, standardised attributes, which of them are known


@dataclass
class Example:
    """One window: image (S, S, 3) uint8; mask, region and field (S, S) bool; the request vector; whether the mask is exact."""

    image: Image
    mask: Mask
    region: Mask
    field: Mask
    vector: NDArray[np.float32]
    exact: bool


def request_vector(is_polyp: bool, lesion: Attributes | dict[str, float] | None) -> NDArray[np.float32]:
    """(VECTOR_DIM,) float32; the null request is all zeros."""
    values, known = attributes.to_vector(lesion or {})
    kind = np.zeros(2, np.float32)
    kind[POLYP_ROW if is_polyp else NORMAL_ROW] = 1
    return np.concatenate([kind, values, known])


def draw(pool: Sequence[Prepared], config: ForgeConfig, rng: np.random.Generator) -> Example:
    """One random example; frames that offer no usable region are passed over."""
    for _ in range(100):
        normal = rng.random() < config.normal_share
        chosen = pool[rng.integers(len(pool))] if normal else draw_case(pool, rng, 0.0)
        normal = normal or not chosen.boxes
        example = _draw_normal(chosen, config, rng) if normal else _draw_lesion(chosen, config, rng)
        if example is not None:
            return example
    raise UserError("no frame of the data offers a region to learn from: are the masks full or the frames black?")


def _draw_lesion(chosen: Prepared, config: ForgeConfig, rng: np.random.Generator) -> Example | None:
    x0, y0, x1, y1 = chosen.boxes[rng.integers(len(chosen.boxes))]
    side = max(config.min_window_px, max(x1 - x0, y1 - y0) * float(np.exp(rng.uniform(np.log(1.45), np.log(3.2)))))
    window = _window((x0 + x1) / 2, (y0 + y1) / 2, side, config, rng)
    image, mask, field = chosen.look(window, config.detail_px)
    target = window.crop_mask(box_mask((x0, y0, x1, y1), chosen.field.shape), config.detail_px)
    exact = chosen.case.mask is not None
    lesion = mask & target if exact else target
    small = _shrink(lesion)
    if small.sum() < 12:
        return None
    region = _grow(lesion_region(small, _shrink(field), rng, exact), config.detail_px) & field
    inside = lesion & region
    if inside.sum() < 40:
        return None
    known = None
    if exact:
        scale = (config.detail_px / side) ** 2
        known = attributes.measure(image, inside, region, field, chosen.field_area_px * scale)
    vector = _forget(request_vector(True, known), config, rng)
    return Example(image, mask, region, field, vector, exact)


def _draw_normal(chosen: Prepared, config: ForgeConfig, rng: np.random.Generator) -> Example | None:
    height, width = chosen.field.shape
    side = min(height, width) * float(np.exp(rng.uniform(np.log(0.25), np.log(0.95))))
    x, y = rng.uniform(0.15, 0.85) * width, rng.uniform(0.15, 0.85) * height
    window = _window(x, y, max(side, config.min_window_px), config, rng)
    image, mask, field = chosen.look(window, config.detail_px)
    small_mask = _shrink(mask)
    if chosen.case.mask is None:
        for box in chosen.boxes:
            small_mask |= _shrink(window.crop_mask(box_mask(box, chosen.field.shape), config.detail_px))
    region = lesion_free_region(_shrink(field), small_mask, rng, (20, 84))
    if region is None or region.sum() < 100:
        return None
    vector = _forget(request_vector(False, None), config, rng)
    return Example(image, mask, _grow(region, config.detail_px) & field, field, vector, chosen.case.mask is not None)


def _window(x: float, y: float, side_px: float, config: ForgeConfig, rng: np.random.Generator) -> Window:
    """Turned, or as it lies when something is drawn into it."""
    return random_window(x, y, side_px, SHIFT, rng) if rng.random() < config.turned else Window(x, y, side_px)


REGION_PX = 128  # regions are drawn at this size: distances cost four times less than at 256


def _shrink(mask: Mask) -> Mask:
    return cv2.resize(mask.astype(np.uint8), (REGION_PX, REGION_PX), interpolation=cv2.INTER_NEAREST).astype(bool)


def _grow(mask: Mask, size: int) -> Mask:
    return cv2.resize(mask.astype(np.float32), (size, size), interpolation=cv2.INTER_LINEAR) > 0.5


def _forget(vector: NDArray[np.float32], config: ForgeConfig, rng: np.random.Generator) -> NDArray[np.float32]:
    """Hide everything, or single attributes, so that a request may leave them open and guidance has its null."""
    if rng.random() < config.drop_all:
        return np.zeros_like(vector)
    count = len(attributes.NAMES)
    keep = rng.random(count) >= (1.0 if rng.random() < 0.1 else config.drop_each)
    vector = vector.copy()
    vector[2 : 2 + count] *= keep
    vector[2 + count :] *= keep
    return vector
