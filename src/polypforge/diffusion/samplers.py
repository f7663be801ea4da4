"""Samplers: plain functions `sample(denoise, x, sigmas, cond, noise, after) -> x0` over the contract `denoise(x, sigma, cond) -> x0`.

There is one loop, `walk`; a sampler is a step in it. `x` is (B, C, H, W): data plus noise of standard deviation sigmas[0]. `sigmas`
falls to 0; where it rises, noise is added again (a jump of RePaint). `noise(x)` gives unit noise and is needed for jumps and random
samplers; `after(x, sigma)` may change the state after each step (known pixels, blending).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

Denoiser = Callable[..., Tensor]
Noise = Callable[[Tensor], Tensor]
After = Callable[[Tensor, Tensor], Tensor]
Memory = dict[str, Tensor]
Step = Callable[[Denoiser, Tensor, Tensor, Tensor, Any, Noise | None, Memory], Tensor]
Sampler = Callable[..., Tensor]


def walk(
    step: Step, denoise: Denoiser, x: Tensor, sigmas: Tensor, cond: Any, noise: Noise | None = None, after: After | None = None
) -> Tensor:
    memory: Memory = {}
    for now, then in itertools.pairwise(sigmas):
        if then > now:
            x = x + (then.square() - now.square()).sqrt() * _needed(noise)(x)
            memory.clear()  # what a multi-step method remembers belongs to another path now
            continue
        x = step(denoise, x, now, then, cond, noise, memory)
        if after is not None:
            x = after(x, then)
    return x


def euler_step(denoise: Denoiser, x: Tensor, now: Tensor, then: Tensor, cond: Any, noise: Noise | None, memory: Memory) -> Tensor:
    """First-order integration of dx/dsigma = (x - x0) / sigma, the probability-flow ODE (Karras et al. 2022, equation 4).

    It is DDIM with eta = 0 (Song et al. 2021, equation 12) in these coordinates.
    """
    clean = denoise(x, now, cond)
    return clean + (then / now) * (x - clean)


def heun_step(denoise: Denoiser, x: Tensor, now: Tensor, then: Tensor, cond: Any, noise: Noise | None, memory: Memory) -> Tensor:
    """Second order (Karras et al. 2022, algorithm 1); two network calls but in the last step."""
    slope = (x - denoise(x, now, cond)) / now
    guess = x + (then - now) * slope
    if then > 0:
        slope = (slope + (guess - denoise(guess, then, cond)) / then) / 2
        guess = x + (then - now) * slope
    return guess


def dpmpp_2m_step(denoise: Denoiser, x: Tensor, now: Tensor, then: Tensor, cond: Any, noise: Noise | None, memory: Memory) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095): second order with one network call."""
    clean = denoise(x, now, cond)
    if then == 0:
        return clean
    width = (now / then).log()
    target = clean
    if memory:
        ratio = width / (2 * memory["width"])
        target = (1 + ratio) * clean - ratio * memory["clean"]
    memory["clean"], memory["width"] = clean, width
    return (then / now) * x + (1 - then / now) * target


def ddim_step(
    denoise: Denoiser, x: Tensor, now: Tensor, then: Tensor, cond: Any, noise: Noise | None, memory: Memory, eta: float = 1.0
) -> Tensor:
    """DDIM (Song et al. 2021, equation 12) with `eta` times the noise of the DDPM posterior; eta = 1 is ancestral sampling.

    A denoiser that has learned its variance (it offers `posterior`) sets the noise of eta = 1 itself.
    """
    posterior = getattr(denoise, "posterior", None) if eta == 1 else None
    clean, share = posterior(x, now, cond) if posterior else (denoise(x, now, cond), None)
    if then == 0:
        return clean
    least = posterior_variance(now, then)
    added = eta**2 * least
    keep = ((then.square() - added).clamp_min(0)).sqrt() / now
    mean = clean + keep * (x - clean)
    # Between the two bounds: a network that isn't trained to the end may say more, and the state would grow without end.
    spread = (added.log() if share is None else interpolated_log_variance(share.clamp(0, 1), now, then)).mul(0.5).exp()
    return mean + spread * _needed(noise)(x) if eta > 0 else mean


def posterior_variance(now: Tensor, then: Tensor) -> Tensor:
    """Variance of q(x_then | x_now, x0): sigma'^2 (sigma^2 - sigma'^2) / sigma^2 (beta-tilde of Ho et al. 2020, equation 7)."""
    return then.square() * (now.square() - then.square()) / now.square()


def interpolated_log_variance(share: Tensor, now: Tensor, then: Tensor) -> Tensor:
    """share log beta + (1 - share) log beta-tilde (Nichol & Dhariwal 2021, equation 15), for the state x0 + sigma n.

    In these coordinates beta becomes (1 + sigma'^2) (1 - (1 + sigma'^2) / (1 + sigma^2)).
    """
    largest = (1 + then.square()) * (now.square() - then.square()) / (1 + now.square())
    return share * largest.log() + (1 - share) * posterior_variance(now, then).log()


def _needed(noise: Noise | None) -> Noise:
    if noise is None:
        raise ValueError("this sampler or these jumps add noise: hand in `noise`")
    return noise


euler: Sampler = partial(walk, euler_step)
heun: Sampler = partial(walk, heun_step)
dpmpp_2m: Sampler = partial(walk, dpmpp_2m_step)
ancestral: Sampler = partial(walk, ddim_step)


def ddim(eta: float) -> Sampler:
    """DDIM with `eta` in 0..1."""
    return euler if eta == 0 else partial(walk, partial(ddim_step, eta=eta))


SAMPLERS: dict[str, Sampler] = {"euler": euler, "ddim": euler, "heun": heun, "dpmpp_2m": dpmpp_2m, "ancestral": ancestral}
