"""Flow matching with clean-image prediction (Li & He 2025, arXiv 2511.13720).

A network sees z = t x + (1 - t) n for data x, unit noise n and time t in [0, 1], and predicts x. The loss is the error of
the velocity v = (x - z) / (1 - t), so an error in x weighs 1 / (1 - t)^2. To the samplers it is a denoiser of x + sigma n with
sigma = (1 - t) / t.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

MAX_TIME = 0.92  # beyond it the weight of the loss stays constant


def sample_times(count: int, mean: float, spread: float, generator: torch.Generator) -> Tensor:
    """(count,) times: the logistic function of N(mean, spread)."""
    return torch.sigmoid(mean + spread * torch.randn(count, generator=generator))


def mix(clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
    """z = t x + (1 - t) n; `time` is (B,)."""
    t = time.view(-1, *[1] * (clean.ndim - 1))
    return t * clean + (1 - t) * noise


def velocity_loss(predicted: Tensor, clean: Tensor, time: Tensor, weight: Tensor) -> Tensor:
    """Mean over the batch of the weighted mean square error in v. `weight` (B, C, H, W) is >= 0; no weight, no loss."""
    error = (predicted - clean).square() * weight
    mean = error.flatten(1).sum(1) / weight.flatten(1).sum(1).clamp_min(1e-6)
    return (mean / (1 - time.clamp_max(MAX_TIME)).square()).mean()


def as_denoiser(network: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Turn `network(z, time, cond) -> x` into the house's contract `denoise(x, sigma, cond) -> x0`; sigma is (B,) or a scalar."""

    def denoise(x: Tensor, sigma: Tensor, cond) -> Tensor:
        time = 1 / (1 + sigma.to(x.device).expand(len(x)))
        return network(x * time.view(-1, 1, 1, 1), time, cond)

    return denoise


def sigma_steps(num_steps: int, shift: float = 1.0, first_time: float = 0.005) -> Tensor:
    """(num_steps + 1,) decreasing sigmas ending in 0, at times even in [first_time, 1] moved by `shift` (> 1: more steps at high noise)."""
    u = torch.linspace(0, 1, num_steps + 1)
    t = first_time + (1 - first_time) * u / (u + shift * (1 - u))
    return (1 - t) / t
