"""What a frame shows besides mucosa: where no lesion may be placed, and where the lumen is."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from polypforge.core.images import darkest_channel, shrunk_size
from polypforge.core.types import Image, Mask
from polypforge.data.prepared import Prepared
from polypforge.masks.shapes import components, dilate

WORK_PX = 256  # longer side at which scenes are read
GLARE = 225  # darkest channel of a wet highlight
GLARE_AREA = 2e-3  # of the field: smaller highlights are part of any wet surface, also of polyps
FOREIGN_AREA = 0.006  # of the field: an instrument, its sheath, a clip, a large rest of stool
GREYISH = 0.4  # of the tissue's chroma: steel and white plastic have less
LUMEN_AREA = 0.004


@dataclass(frozen=True)
class Scene:
    """allowed: (H, W) mucosa on which a lesion may lie, the lumen included. lumen: (H, W). lumen_at: its (x, y) in pixels, or None.

    Never allowed are the black border, the inset box, burnt-in text, instruments and other foreign things, and larger highlights.
    """

    allowed: Mask
    lumen: Mask
    lumen_at: tuple[float, float] | None


def read_scene(prepared: Prepared) -> Scene:
    image, (height, width) = prepared.case.image, prepared.case.size
    scale, size = shrunk_size(image.shape, WORK_PX)
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    field = cv2.resize(prepared.field.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST).astype(bool)
    if not field.any():
        return Scene(np.zeros((height, width), bool), np.zeros((height, width), bool), None)
    glare = _large(darkest_channel(small) > GLARE, GLARE_AREA * field.sum())
    foreign = foreign_things(small, field)
    hidden = dilate(glare, 2) | dilate(foreign, 3)
    lumen, at = find_lumen(small, field & ~hidden)

    def full(mask: Mask) -> Mask:
        return cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST).astype(bool)

    return Scene(prepared.field & ~full(hidden), full(lumen), (at[0] / scale, at[1] / scale) if at else None)


def foreign_things(small: Image, field: Mask) -> Mask:
    """Large parts whose hue isn't that of the frame's tissue: steel, plastic, dye caps.

    Measured against the frame's own median colour, so that narrow-band light and dyes don't make everything foreign.
    """
    lab = cv2.cvtColor(cv2.GaussianBlur(small, (0, 0), 1.5).astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    light, hue = lab[..., 0], lab[..., 1:]
    seen = field & (light > 20) & (light < 92)
    if not seen.any():
        return np.zeros(field.shape, bool)
    middle = np.median(hue[seen], 0)
    spread = np.median(np.abs(hue[seen] - middle), 0) * 1.4826
    away = middle - hue  # less red, less yellow: steel and plastic lack the tissue's colour or have the opposite one
    far = (away[..., 0] > np.maximum(16, 3.5 * spread[0])) | (away[..., 1] > np.maximum(20, 4.5 * spread[1]))
    grey = np.hypot(hue[..., 0], hue[..., 1]) < GREYISH * float(np.hypot(*middle))
    return _large((far | grey) & seen, FOREIGN_AREA * field.sum())


def find_lumen(small: Image, field: Mask) -> tuple[Mask, tuple[float, float] | None]:
    """(mask, centre): the dark hole into which the bowel goes on, the largest of them; an empty mask and None when there is none."""
    nothing = np.zeros(field.shape, bool)
    if not field.any():
        return nothing, None
    grey = cv2.GaussianBlur(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), 3)
    # The field's own rim is vignetted: only what is dark well inside it counts.
    inner = cv2.erode(np.pad(field, 1).astype(np.uint8), np.ones((5, 5), np.uint8))[1:-1, 1:-1].astype(bool)
    level = min(62.0, 0.5 * float(np.median(grey[field])))
    dark = _large((grey < level) & inner, LUMEN_AREA * field.sum())
    parts = components(dark)
    if not parts:
        return nothing, None
    rows, columns = np.nonzero(parts[0])
    weight = level - grey[rows, columns] + 1
    return dark, (float(np.average(columns, weights=weight)), float(np.average(rows, weights=weight)))


def _large(mask: Mask, least_px: float) -> Mask:
    found = np.zeros(mask.shape, bool)
    for part in components(mask, max(1, round(least_px))):
        found |= part
    return found
