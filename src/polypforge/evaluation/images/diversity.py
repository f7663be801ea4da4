"""How many different lesions a set really holds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as ms_ssim

from polypforge.core.types import Image

SIDE_PX = 192  # MS-SSIM halves four times with an 11-pixel window
PAIRS = 100


def vendi_score(features: NDArray[np.float32]) -> float:
    """exp of the entropy of the eigenvalues of the cosine kernel of (n, D) features (Friedman & Dieng 2023): from 1 (all alike) to n.

    Raises ValueError for an empty set.
    """
    if not len(features):
        raise ValueError("the Vendi score needs at least one feature")
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    small = unit.T @ unit if unit.shape[0] > unit.shape[1] else unit @ unit.T  # the same eigenvalues, but zeros
    values = np.linalg.eigvalsh(small.astype(np.float64) / len(unit))
    values = values[values > 1e-12]
    return float(np.exp(-(values * np.log(values)).sum()))


def ms_ssim_within(images: Sequence[Image], pairs: int = PAIRS, seed: int = 0) -> list[float]:
    """MS-SSIM (Wang et al. 2003) of random pairs of (SIDE_PX, SIDE_PX, 3) uint8 pictures; higher means more alike.

    Raises ValueError for fewer than two pictures or another size.
    """
    if len(images) < 2 or any(i.shape != (SIDE_PX, SIDE_PX, 3) for i in images):
        raise ValueError(f"MS-SSIM needs at least two pictures of {SIDE_PX}x{SIDE_PX}")
    rng = np.random.default_rng(seed)
    every = [(a, b) for a in range(len(images)) for b in range(a)] if len(images) <= 40 else []
    chosen = every if every and len(every) <= pairs else [tuple(rng.choice(len(images), 2, replace=False)) for _ in range(pairs)]
    values: list[float] = []
    for start in range(0, len(chosen), 16):
        part = chosen[start : start + 16]
        a, b = (torch.from_numpy(np.stack([images[p[k]] for p in part])).permute(0, 3, 1, 2).float() / 255 for k in (0, 1))
        values += ms_ssim(a, b, data_range=1.0, reduction="none").tolist()
    return values
