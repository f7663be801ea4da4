"""Strong changes of colour, light, blur and noise: what a network should not rely on."""

from __future__ import annotations

import cv2
import numpy as np

from polypforge.core.types import Image


def recolour(image: Image, rng: np.random.Generator) -> Image:
    """(H, W, 3) uint8 -> the same shape; gamma, gain of each channel, saturation, and in a third of the calls each blur and noise."""
    x = image.astype(np.float32) / 255
    x = np.clip(x, 0, 1) ** np.float32(np.exp(rng.normal(0, 0.25)))
    x = x * rng.normal(1, 0.12, 3).astype(np.float32) + np.float32(rng.normal(0, 0.04))
    grey = x.mean(-1, keepdims=True)
    x = grey + (x - grey) * np.float32(rng.uniform(0.6, 1.4))
    if rng.random() < 0.3:
        x = cv2.GaussianBlur(x, (0, 0), rng.uniform(0.4, 1.6))
    if rng.random() < 0.3:
        x = x + rng.normal(0, rng.uniform(0.01, 0.05), x.shape).astype(np.float32)
    return (np.clip(x, 0, 1) * 255).astype(np.uint8)
