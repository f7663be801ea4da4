"""Between pixels as files have them and tensors as networks want them: the one place for range, order and type."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polypforge.core.types import Mask


def to_unit(images: NDArray[np.uint8]) -> Tensor:
    """(N, S, S, 3) uint8 -> (N, 3, S, S) float32 in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_planes(masks: Sequence[Mask]) -> Tensor:
    """N masks (S, S) -> (N, 1, S, S) float32 in {0, 1}."""
    return torch.from_numpy(np.stack(masks)).float()[:, None]


def to_pixels(unit: Tensor) -> NDArray[np.uint8]:
    """(N, 3, S, S) in [-1, 1] -> (N, S, S, 3) uint8."""
    return ((unit.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
