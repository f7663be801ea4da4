"""Local features by which pictures are recognised, and the unit vectors they are compared as."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from polypforge.core.types import Image, Mask


def equalised_grey(image: Image) -> NDArray[np.uint8]:
    """(H, W) of an RGB image, in even light: contrast-limited histograms of 6x6 tiles."""
    return cv2.createCLAHE(3.0, (6, 6)).apply(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))


SIFT_OFFSET = np.float32(0.25)  # pixels that OpenCV's SIFT places a point too far to the right, in the mirror image too


def local_features(grey: NDArray[np.uint8], where: Mask, most: int, contrast: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(points (n, 2) x, y; descriptors (n, 128) of unit length), both float32: RootSIFT (Arandjelovic 2012) of the pixels `where`."""
    points, descriptors = cv2.SIFT.create(most, contrastThreshold=contrast).detectAndCompute(grey, where.astype(np.uint8) * 255)
    if descriptors is None:
        descriptors = np.zeros((0, 128), np.float32)
    root = np.sqrt(descriptors / np.maximum(descriptors.sum(1, keepdims=True), 1e-6)).astype(np.float32)
    return np.array([p.pt for p in points], np.float32).reshape(-1, 2), root


def mirrored_features(
    points: NDArray[np.float32], descriptors: NDArray[np.float32], width: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What `local_features` would find in the mirror image, `width` pixels wide, without looking again.

    A descriptor is a grid of 4x4 histograms of eight directions, turned to the feature's own direction: a mirror swaps the rows and the
    sense of turning.
    """
    grid = descriptors.reshape(-1, 4, 4, 8)[:, ::-1, :, -np.arange(8) % 8]
    mirrored = np.stack([width - 1 + 2 * SIFT_OFFSET - points[:, 0], points[:, 1]], 1)
    return mirrored, np.ascontiguousarray(grid.reshape(len(descriptors), 128))


def unit(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Flat, of zero mean and unit length, so that a product of two is their correlation."""
    flat = (values - values.mean()).reshape(-1)
    return flat / max(1e-6, float(np.linalg.norm(flat)))
