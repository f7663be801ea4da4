"""A case with what every random window on it needs, measured once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from polypforge.core.types import Box, Case, Image, Mask
from polypforge.core.window import Window
from polypforge.data.field_of_view import field_of_view
from polypforge.data.overlays import overlay_text
from polypforge.masks.shapes import component_boxes

NORMAL_SHARE = 0.25  # of the cases drawn for training, at most: a hundred frames without lesion must not crowd out sixteen with one


@dataclass
class Prepared:
    """The case, its field of view less burnt-in text (also where that was taken out), the field's area in pixels, the lesions' boxes."""

    case: Case
    field: Mask
    boxes: tuple[Box, ...]
    field_area_px: float

    def look(self, window: Window, size: int) -> tuple[Image, Mask, Mask]:
        """(image, mask, field) in the window, each `size` pixels a side; the mask is empty when only boxes are known."""
        mask = self.case.mask
        seen = window.crop_mask(mask, size) if mask is not None else np.zeros((size, size), bool)
        return window.crop(self.case.image, size), seen, window.crop_mask(self.field, size)


def prepare(case: Case) -> Prepared:
    """Measured once for each case object: a frame is asked for again by every request on it. Arrays of a case are never written to."""
    image, mask, found = case.__dict__.get("_prepared", (None, None, None))
    if found is None or image is not case.image or mask is not case.mask:
        found = _prepare(case)
        case.__dict__["_prepared"] = (case.image, case.mask, found)
    return found


def _prepare(case: Case) -> Prepared:
    field = field_of_view(case.image) & ~overlay_text(case.image)
    if case.hidden is not None:
        field &= ~case.hidden
    boxes = component_boxes(case.mask, min_area_px=30) if case.mask is not None else case.boxes
    return Prepared(case, field, boxes, float(field.sum()))


def draw_case(pool: Sequence[Prepared], rng: np.random.Generator, normal_share: float = NORMAL_SHARE) -> Prepared:
    """One of the cases at random; those without a lesion come as often as others, but no more often than `normal_share`."""
    chosen = pool[rng.integers(len(pool))]
    if chosen.boxes:
        return chosen
    lesions = [case for case in pool if case.boxes]
    normal = 1 - len(lesions) / len(pool)
    if not lesions or rng.random() < normal_share / normal:
        return chosen
    return lesions[rng.integers(len(lesions))]


def random_window(x: float, y: float, side_px: float, shift: float, rng: np.random.Generator) -> Window:
    """A window near there: moved by up to `shift` of its side, mirrored or not, turned.

    Half of the windows are upright or in quarter turns, which costs no sharpness; half are at any angle.
    """
    angle = 90.0 * rng.integers(0, 4) if rng.random() < 0.5 else rng.uniform(0, 360)
    dx, dy = rng.uniform(-shift, shift, 2) * side_px
    return Window(x + dx, y + dy, side_px, float(angle), bool(rng.random() < 0.5))
