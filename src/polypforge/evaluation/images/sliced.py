"""Sliced Wasserstein distance of patches on a Laplacian pyramid: texture at each scale (Karras et al. 2018)."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from polypforge.core.types import Image

PATCH_PX = 7
PATCHES = 64  # of each picture and level
DIRECTIONS = 256
SMALLEST_PX = 16


def pyramid_patches(images: Sequence[Image], seed: int = 0) -> list[NDArray[np.float32]]:
    """Of (S, S, 3) pictures, S a power of two: for each level (S, S / 2 ... 16 px) random patches (n * PATCHES, 7 * 7 * 3)."""
    side = images[0].shape[0]
    if any(i.shape != (side, side, 3) for i in images) or side & (side - 1) or side < SMALLEST_PX:
        raise ValueError("the pictures must all be squares of one power of two, at least 16 px")
    rng = np.random.default_rng(seed)
    levels: list[list[NDArray[np.float32]]] = []
    for image in images:
        x, level = image.astype(np.float32), 0
        while True:
            last = x.shape[0] <= SMALLEST_PX
            small = x if last else cv2.pyrDown(x)
            detail = x if last else x - cv2.pyrUp(small)
            if level == len(levels):
                levels.append([])
            corners = rng.integers(0, x.shape[0] - PATCH_PX + 1, (PATCHES, 2))
            levels[level].append(np.stack([detail[i : i + PATCH_PX, j : j + PATCH_PX] for i, j in corners]))
            if last:
                break
            x, level = small, level + 1
    return [np.concatenate(patches) for patches in levels]


def sliced_wasserstein(a: Sequence[Image], b: Sequence[Image], seed: int = 0) -> dict[str, float]:
    """{"128": distance x 1000 at that level, ..., "mean": of the levels}; patches are normalised in each colour channel, as published."""
    found = {}
    side = a[0].shape[0]
    for level, (x, y) in enumerate(zip(pyramid_patches(a, seed), pyramid_patches(b, seed + 1), strict=True)):
        found[str(side >> level)] = 1000 * _sliced(_normalised(x), _normalised(y), seed)
    return found | {"mean": float(np.mean(list(found.values())))}


def _normalised(patches: NDArray[np.float32]) -> NDArray[np.float32]:
    mean, spread = patches.mean((0, 1, 2)), patches.std((0, 1, 2))
    return ((patches - mean) / np.maximum(spread, 1e-6)).reshape(len(patches), -1)


def _sliced(a: NDArray[np.float32], b: NDArray[np.float32], seed: int) -> float:
    """Mean over random directions of the 1-D Wasserstein distance; unequal sets are compared at the quantiles of the smaller one."""
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((a.shape[1], DIRECTIONS)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=0)
    shares = (np.arange(min(len(a), len(b))) + 0.5) / min(len(a), len(b))
    projected = [np.sort(x @ directions, axis=0) for x in (a, b)]
    rows = [p[np.minimum((shares * len(p)).astype(int), len(p) - 1)] for p in projected]
    return float(np.abs(rows[0] - rows[1]).mean())
