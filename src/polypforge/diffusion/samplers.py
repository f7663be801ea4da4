"""Samplers: plain functions `sample(denoise, x, sigmas, cond) -> x0` over the contract `denoise(x, sigma, cond) -> x0`.

`x` is (B, C, H, W) noise of standard deviation sigmas[0]; `sigmas` decreases to 0. All are deterministic given `x`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

from torch import Tensor

Denoiser = Callable[..., Tensor]


def euler(denoise: Denoiser, x: Tensor, sigmas: Tensor, cond) -> Tensor:
    """First-order integration of dx/dsigma = (x - x0) / sigma, the probability-flow ODE (Karras et al. 2022, equation 4)."""
    for now, then in itertools.pairwise(sigmas):
        clean = denoise(x, now, cond)
        x = clean + (then / now) * (x - clean)
    return x


def heun(denoise: Denoiser, x: Tensor, sigmas: Tensor, cond) -> Tensor:
    """Second-order integration of the same equation (Karras et al. 2022, algorithm 1); two network calls a step but the last."""
    for now, then in itertools.pairwise(sigmas):
        slope = (x - denoise(x, now, cond)) / now
        guess = x + (then - now) * slope
        if then > 0:
            slope = (slope + (guess - denoise(guess, then, cond)) / then) / 2
            guess = x + (then - now) * slope
        x = guess
    return x


def dpmpp_2m(denoise: Denoiser, x: Tensor, sigmas: Tensor, cond) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095): second order with one network call a step."""
    previous: Tensor | None = None
    last_width = x.new_ones(())
    for now, then in itertools.pairwise(sigmas):
        clean = denoise(x, now, cond)
        if then == 0:
            return clean
        width = (now / then).log()
        if previous is None:
            target = clean
        else:
            ratio = width / (2 * last_width)
            target = (1 + ratio) * clean - ratio * previous
        x = (then / now) * x + (1 - then / now) * target
        previous, last_width = clean, width
    return x


SAMPLERS: dict[str, Callable[..., Tensor]] = {"euler": euler, "heun": heun, "dpmpp_2m": dpmpp_2m}
