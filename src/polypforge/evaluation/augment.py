"""Changes of training examples of downstream networks."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from polypforge.core.types import Image, Mask
from polypforge.data.recolour import recolour

AUGMENTATIONS = ("none", "flips", "strong")


def augmented(image: Image, masks: Sequence[Mask], kind: str, rng: np.random.Generator) -> tuple[Image, list[Mask]]:
    """none: as they are. flips: mirrored and in quarter turns. strong: any turn, 0.7 to 1.4 times as large, stretched by up to 15 %,
    moved by up to 15 % (what enters from outside is mirrored), in other colours and light. All arrays are square, of one size."""
    if kind == "none":
        return image, list(masks)
    if kind == "flips":
        turns, mirror = int(rng.integers(4)), bool(rng.random() < 0.5)
        turned = [np.rot90(a, turns) for a in (image, *masks)]
        turned = [np.fliplr(a) for a in turned] if mirror else turned
        return turned[0], turned[1:]
    size = image.shape[0]
    matrix = _affine(size, rng)
    warp = {"flags": cv2.INTER_LINEAR, "borderMode": cv2.BORDER_REFLECT_101}
    moved = cv2.warpAffine(image, matrix, (size, size), **warp)
    outlines = [cv2.warpAffine(m.astype(np.uint8) * 255, matrix, (size, size), **warp) >= 128 for m in masks]
    return recolour(moved, rng), outlines


def _affine(size: int, rng: np.random.Generator) -> np.ndarray:
    """(2, 3) matrix around the centre."""
    angle, scale, stretch = rng.uniform(0, 2 * np.pi), np.exp(rng.uniform(np.log(0.7), np.log(1.4))), np.exp(rng.normal(0, 0.07))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = turn @ np.diag([scale * stretch, scale / stretch]) @ np.diag([rng.choice([-1.0, 1.0]), 1.0])
    centre = np.full(2, (size - 1) / 2)
    shift = rng.uniform(-0.15, 0.15, 2) * size
    return np.hstack([linear, (centre - linear @ centre + shift)[:, None]])
