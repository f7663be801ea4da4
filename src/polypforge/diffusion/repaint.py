"""Keeping what is known: RePaint (Lugmayr et al. 2022) and latent blending (Avrahami et al. 2023), over any sampler and any network."""

from __future__ import annotations

import torch
from torch import Tensor

from polypforge.diffusion.samplers import After, Noise


def jump_order(steps: int, jump_length: int, resamples: int) -> list[int]:
    """Indices of times that RePaint visits, from steps - 1 to -1 (-1: no noise left): algorithm of the paper's appendix B.

    After every `jump_length` steps down it goes as many up again, `resamples` - 1 times over. T=200, j=10, r=5 makes 960 network calls.
    """
    if steps < 1 or jump_length < 1 or resamples < 1:
        raise ValueError("steps, jump_length and resamples must be at least 1")
    left = dict.fromkeys(range(0, steps - jump_length, jump_length), resamples - 1)
    time, order = steps - 1, [steps - 1]
    while time >= 0:
        if left.get(time, 0) > 0:
            left[time] -= 1
            order += range(time + 1, time + jump_length + 1)
            time += jump_length
        time -= 1
        order.append(time)
    return order


def repaint_sigmas(sigmas: Tensor, jump_length: int, resamples: int) -> Tensor:
    """The levels of `sigmas` (steps + 1, falling to 0) in RePaint's order, for any sampler of `diffusion.samplers`."""
    steps = len(sigmas) - 1
    return sigmas[torch.tensor([steps - 1 - t for t in jump_order(steps, jump_length, resamples)])]


def keep_known(known: Tensor, unknown: Tensor, noise: Noise) -> After:
    """A hook for samplers: after each step, the state outside `unknown` (B, 1, H, W; 1 = to be made) is `known` at that noise level.

    `known` (B, C, H, W) may be pixels (RePaint) or latents (blended latent diffusion). At the end known values come back unchanged.
    """
    made = unknown > 0.5

    def after(x: Tensor, sigma: Tensor) -> Tensor:
        return torch.where(made, x, known + sigma * noise(x) if sigma > 0 else known)

    return after
