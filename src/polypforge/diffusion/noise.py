"""Noise that belongs to a sample: the same in any batch, shard or order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from polypforge.core.seeding import seed_from


class SampleNoise:
    """Called with a tensor (B, ...), gives unit Gaussian noise of its shape; row i comes from a generator of its own.

    `purpose` sets several streams of one request apart.
    """

    def __init__(self, seeds: Sequence[int], purpose: str = "") -> None:
        self.generators = [torch.Generator().manual_seed(seed_from(seed, purpose)) for seed in seeds]

    def __call__(self, like: Tensor) -> Tensor:
        if len(like) != len(self.generators):
            raise ValueError(f"noise for {len(self.generators)} samples was asked for {len(like)}")
        return torch.stack([torch.randn(like.shape[1:], generator=g) for g in self.generators]).to(like)

    def draw(self, shape: Sequence[int], device: torch.device) -> Tensor:
        """(B, *shape) float32."""
        return self(torch.empty(len(self.generators), *shape, device=device))

    def start(self, shape: Sequence[int], sigma: Tensor) -> Tensor:
        """(B, *shape): where sampling starts at level `sigma`. sqrt(1 + sigma^2), since data of unit variance lie under the noise."""
        return self.draw(shape, sigma.device) * (1 + sigma.square()).sqrt()
