"""Giving an image the colours of another."""

import cv2
import numpy as np

from polypforge.core.types import Image


def colour_transfer(image: Image, source: Image) -> Image:
    """`image` with the mean and spread of `source` in each CIELAB channel (Reinhard et al. 2001). (H, W, 3) uint8."""
    lab, like = (cv2.cvtColor(x.astype(np.float32) / 255, cv2.COLOR_RGB2LAB) for x in (image, source))
    mean, spread = lab.mean((0, 1)), lab.std((0, 1))
    moved = (lab - mean) * (like.std((0, 1)) / np.maximum(spread, 1e-3)) + like.mean((0, 1))
    return np.rint(np.clip(cv2.cvtColor(moved.astype(np.float32), cv2.COLOR_LAB2RGB), 0, 1) * 255).astype(np.uint8)
