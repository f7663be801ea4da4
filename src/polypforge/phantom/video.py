"""What stands between the bowel and the picture in some videos: tools in the field of view, motion, a panel beside it."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from polypforge.core.types import Image, Mask
from polypforge.phantom.overlays import draw_overlay

Map = NDArray[np.float32]
SHAFTS = ((0.92, 0.93, 0.95), (0.75, 0.78, 0.8), (0.85, 0.8, 0.55), (0.2, 0.25, 0.4), (0.12, 0.12, 0.13))
PANELS = ((0, 0, 0), (18, 18, 18), (6, 10, 22))
INSETS = ((40, 180, 140), (45, 190, 90), (70, 90, 190), (0, 0, 0))


def put_instrument(rng: np.random.Generator, rgb: Map, field: Mask) -> tuple[Map, Mask]:
    """(the picture (S, S, 3) in 0..1 with a shaft that comes in from the edge, perhaps with a wire loop; the pixels that it hides)."""
    size = rgb.shape[0]
    turn = rng.uniform(0, 2 * np.pi)
    start = np.array([0.5 + 0.8 * np.cos(turn), 0.5 + 0.8 * np.sin(turn)]) * size
    tip = rng.uniform(0.25, 0.75, 2) * size
    along = (tip - start) / np.linalg.norm(tip - start)
    ys, xs = np.mgrid[0:size, 0:size].astype(np.float32)
    forward = (xs - start[0]) * along[0] + (ys - start[1]) * along[1]
    across = -(xs - start[0]) * along[1] + (ys - start[1]) * along[0]
    reach = np.linalg.norm(tip - start)
    half = size * rng.uniform(0.025, 0.07) * np.clip(1.25 - 0.5 * forward / reach, 0.6, 1.3)  # thinner where it is farther away
    shaft = (np.abs(across) < half) & (forward < reach)
    shade = 1 - 0.55 * np.clip(np.abs(across) / half, 0, 1) ** 2
    out = np.where(shaft[..., None], shade[..., None] * np.float32(SHAFTS[rng.integers(len(SHAFTS))]), rgb)
    if rng.random() < 0.5:
        loop = np.zeros((size, size), np.uint8)
        axes = (size * rng.uniform(0.06, 0.16), size * rng.uniform(0.03, 0.1))
        centre = tip + along * axes[0]
        degrees = float(np.degrees(np.arctan2(along[1], along[0])))
        cv2.ellipse(loop, (tuple(centre.tolist()), (2 * axes[0], 2 * axes[1]), degrees), 255, max(1, size // 110), cv2.LINE_AA)
        out = out + (np.float32(0.8) - out) * (loop.astype(np.float32) / 255)[..., None]
    return np.where(field[..., None], out, rgb).astype(np.float32), shaft & field


def shaken(rng: np.random.Generator, rgb: Map) -> Map:
    """Blurred along a line of up to 5 % of the side."""
    length = max(3, round(rgb.shape[0] * rng.uniform(0.015, 0.05)))
    kernel = np.zeros((length, length), np.float32)
    kernel[length // 2] = 1
    matrix = cv2.getRotationMatrix2D(((length - 1) / 2, (length - 1) / 2), rng.uniform(0, 180), 1)
    kernel = cv2.warpAffine(kernel, matrix, (length, length))
    return cv2.filter2D(rgb, -1, kernel / kernel.sum())


def beside_panel(rng: np.random.Generator, image: Image, mask: Mask) -> tuple[Image, Mask]:
    """The frame at the right, or in the middle, of a wide one: (S, W, 3) and (S, W), W from 1.25 to 1.8 times S."""
    size = image.shape[0]
    width = round(size * rng.uniform(1.25, 1.8))
    left = width - size if rng.random() < 0.7 else (width - size) // 2
    wide = np.empty((size, width, 3), np.uint8)
    wide[:] = PANELS[rng.integers(len(PANELS))]
    if rng.random() < 0.7:
        wide, _ = draw_overlay(wide, rng, fonts=())
    if rng.random() < 0.7:
        box = round(min(left, 0.4 * size) * rng.uniform(0.7, 1.0))
        wide[size - box :, :box] = INSETS[rng.integers(len(INSETS))]
    wide[:, left : left + size] = image
    wider = np.zeros((size, width), bool)
    wider[:, left : left + size] = mask
    return wide, wider
