"""Which pixels of a frame show the bowel: not the black border, not the black or coloured inset box."""

from __future__ import annotations

import cv2
import numpy as np

from polypforge.core.images import brightest_channel, shrunk_size
from polypforge.core.types import Image, Mask

DARK = 24  # brightest channel of the black border, JPEG noise included
WORK_PX = 256  # longer side at which the field is found


def field_of_view(image: Image) -> Mask:
    """(H, W) bool, True where tissue is seen. Found at a coarse scale and drawn at full resolution, so +-1 % of the width.

    Dark pixels count as border only where they connect to the frame's edge; the dark lumen inside stays in the field.
    """
    height, width = image.shape[:2]
    _, size = shrunk_size(image.shape, WORK_PX)
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    outside = _border(small) | inset_box(small)
    outside = cv2.dilate(outside.astype(np.uint8), np.ones((3, 3), np.uint8))
    return cv2.resize(1 - outside, (width, height), interpolation=cv2.INTER_NEAREST).astype(bool)


def _border(small: Image) -> Mask:
    """Flat dark pixels that connect to the edge of the frame."""
    brightest = cv2.medianBlur(brightest_channel(small), 5)
    flat = cv2.morphologyEx(brightest, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) < 14
    dark = (brightest < DARK) & flat
    dark = cv2.morphologyEx(dark.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    padded = np.pad(dark, 1, constant_values=1)
    _, labels = cv2.connectedComponents(padded, connectivity=4)
    return (labels == labels[0, 0])[1:-1, 1:-1] & dark.astype(bool)


def inset_area(image: Image) -> Mask:
    """(H, W) bool: the coloured inset box, drawn at full resolution with a margin."""
    small = cv2.resize(image, shrunk_size(image.shape, WORK_PX)[1], interpolation=cv2.INTER_AREA)
    grown = cv2.dilate(inset_box(small).astype(np.uint8), np.ones((3, 3), np.uint8))
    return cv2.resize(grown, image.shape[1::-1], interpolation=cv2.INTER_NEAREST).astype(bool)


def inset_box(small: Image) -> Mask:
    """The green, cyan or blue rectangle in which endoscopes draw the position of the scope: flat, saturated, large, box-like."""
    red, green, blue = (small[..., i].astype(np.int16) for i in range(3))
    cool = np.maximum(green, blue)
    tinted = ((cool > red + 40) & (cool > 60) & (blue > red + 10)).astype(np.uint8)
    tinted = cv2.morphologyEx(tinted, cv2.MORPH_CLOSE, np.ones((9, 9), np.uint8))
    found = np.zeros(small.shape[:2], bool)
    count, _, stats, _ = cv2.connectedComponentsWithStats(tinted)
    for x, y, w, h, area in stats[1:count]:
        if area > 0.008 * small.shape[0] * small.shape[1] and area > 0.8 * w * h:
            found[y : y + h, x : x + w] = True
    return found
