"""The variational bound that trains a learned variance (Nichol & Dhariwal 2021, section 3.1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from polypforge.diffusion.samplers import interpolated_log_variance, posterior_variance

HALF_BIN = 1 / 255  # half the distance of two 8-bit values in [-1, 1]
TINY = 1e-12


def variational_bound(clean: Tensor, x: Tensor, guess: Tensor, share: Tensor, now: Tensor, then: Tensor) -> Tensor:
    """(B,) one term of the bound, in bits per dimension.

    clean, x, guess: data, state x0 + sigma n, and the network's x0. share: (B, C, H, W), how much of log beta is in the log variance. now,
    then: (B, 1, 1, 1) levels; where `then` is 0 the term is the likelihood of 8-bit data, elsewhere the divergence of
    q(x_then | x_now, x0) from the model's step (Ho et al. 2020, equations 5 and 13).
    """
    last = then == 0
    safe = torch.where(last, now / 2, then)
    truth = posterior_variance(now, safe).clamp_min(TINY).log()
    ours = interpolated_log_variance(share, now, safe)
    drift = (1 - safe.square() / now.square()) * (clean - guess)  # difference of the two means
    divergence = 0.5 * (ours - truth + (truth - ours).exp() + drift.square() * (-ours).exp() - 1)
    # The last step's posterior variance is 0. The authors put that of the step before in its place, which is about half of beta.
    largest = (now.square() / (1 + now.square())).clamp_min(TINY).log()
    likelihood = -_log_likelihood(clean, guess, (largest - (1 - share) * math.log(2)) / 2)
    bits = torch.where(last, likelihood, divergence) / math.log(2)
    return bits.flatten(1).mean(1)


def _log_likelihood(data: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """log P of 8-bit data under a Gaussian integrated over each value's bin; the end bins reach to infinity."""
    scale = (-log_scale).exp()
    above = torch.special.ndtr(((data - mean) + HALF_BIN) * scale)
    below = torch.special.ndtr(((data - mean) - HALF_BIN) * scale)
    chance = torch.where(data < -0.999, above, torch.where(data > 0.999, 1 - below, above - below))
    return chance.clamp_min(TINY).log()
