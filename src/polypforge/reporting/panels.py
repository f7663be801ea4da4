"""Pictures of cases: window views with outlines, and contact sheets."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import cv2
import numpy as np

from polypforge.core.types import Case, Image, Mask, Request
from polypforge.core.window import Window, around_mask, whole_frame
from polypforge.masks.shapes import region_mask

REGION_COLOUR = (255, 214, 64)
LABEL_COLOUR = (64, 224, 120)


def outlined(image: Image, mask: Mask, colour: tuple[int, int, int], width_px: int = 1) -> Image:
    """A copy with the outline of `mask` drawn on it."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(image.copy(), contours, -1, colour, width_px)


def strip(source: Image, result: Image, region: Mask, label: Mask, window: Window, side_px: int = 200) -> Image:
    """(side, 4 * side + gaps, 3): source, source with the region, result, result with the label's outline."""
    before, after = window.crop(source, side_px), window.crop(result, side_px)
    where, what = window.crop_mask(region, side_px), window.crop_mask(label, side_px)
    parts = [before, outlined(before, where, REGION_COLOUR), after, outlined(after, what, LABEL_COLOUR)]
    gap = np.full((side_px, 3, 3), 255, np.uint8)
    return np.hstack([x for part in parts for x in (part, gap)][:-1])


def edit_strip(request: Request, source: Case | None, result: Case, side_px: int = 200) -> Image:
    """Source, where or what was asked, result, result with its label: around the region of an edit, or of a whole new frame."""
    label = result.mask if result.mask is not None else np.zeros(result.size, bool)
    if request.region and source is not None:
        region = region_mask(request.region, result.size)
        return strip(source.image, result.image, region, label, around_mask(region, 1.9, 72), side_px)
    before = np.full((side_px, side_px, 3), 235, np.uint8) if source is None else whole_frame(source.size).crop(source.image, side_px)
    window = whole_frame(result.size)
    asked = np.repeat(window.crop_mask(label, side_px)[..., None], 3, 2).astype(np.uint8) * 255
    after = window.crop(result.image, side_px)
    gap = np.full((side_px, 3, 3), 255, np.uint8)
    return np.hstack([before, gap, asked, gap, after, gap, outlined(after, window.crop_mask(label, side_px), LABEL_COLOUR)])


def sheet(tiles: Sequence[Image], columns: int, gap_px: int = 4) -> Image:
    """Tiles of one size in rows of `columns`; the last row is filled with white."""
    height, width = tiles[0].shape[:2]
    rows = -(-len(tiles) // columns)
    page = np.full((rows * (height + gap_px) - gap_px, columns * (width + gap_px) - gap_px, 3), 255, np.uint8)
    for i, tile in enumerate(tiles):
        y, x = divmod(i, columns)
        page[y * (height + gap_px) :, x * (width + gap_px) :][:height, :width] = tile
    return page


def data_uri(image: Image, quality: int = 88) -> str:
    """The picture as a JPEG data URI, so that a page needs no other file."""
    _, encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode()
