"""Smooth random textures that wrap around: the raw material of the phantom's mucosa."""

import cv2
import numpy as np
from numpy.typing import NDArray

Texture = NDArray[np.float32]


def octave(rng: np.random.Generator, size: int, cells: int) -> Texture:
    """(size, size) float32 smooth noise with about unit variance and `cells` features a side; periodic in both axes."""
    coarse = rng.standard_normal((cells, cells), np.float32)
    pad = 2
    padded = np.pad(coarse, pad, mode="wrap")
    scale = size / cells
    full = cv2.resize(padded, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    start = round(pad * scale)
    return np.ascontiguousarray(full[start : start + size, start : start + size])


def fractal(rng: np.random.Generator, size: int, cells: int, octaves: int, gain: float = 0.5) -> Texture:
    """Sum of `octaves` octaves, each twice as fine and `gain` times as strong."""
    total = np.zeros((size, size), np.float32)
    for level in range(octaves):
        total += gain**level * octave(rng, size, min(cells * 2**level, size // 2))
    return total


def ridges(noise: Texture, width: float) -> Texture:
    """1 on the zero crossings of `noise`, falling to 0 at |noise| = width: winding lines such as vessels."""
    return np.clip(1 - np.abs(noise) / width, 0, 1)


def wrap_sample(texture: Texture, u: Texture, v: Texture) -> Texture:
    """Bilinear lookup at pixel coordinates (u, v), wrapping at the texture's edges."""
    return cv2.remap(texture, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
