"""Noise schedules: how much noise the data carries at each of T training times, and which of them a sampler visits.

Everything else of this room speaks of sigma: the state is x0 + sigma n, and sigma^2 = (1 - abar) / abar for the cumulative signal
abar of Ho et al. 2020. In these coordinates adding noise is plain addition, whatever the schedule.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MAX_BETA = 0.999
Array = NDArray[np.float64]


def linear(steps: int, start: float, end: float) -> Array:
    """betas even between start and end (Ho et al. 2020); at other than 1000 steps Nichol & Dhariwal scale both by 1000 / steps."""
    return np.linspace(start, end, steps)


def scaled_linear(steps: int, start: float, end: float) -> Array:
    """Square roots of beta even between those of start and end (Rombach et al. 2022; Stable Diffusion)."""
    return np.linspace(math.sqrt(start), math.sqrt(end), steps) ** 2


def cosine(steps: int, start: float, end: float) -> Array:
    """abar(t) = cos^2((t/T + s) / (1 + s) pi/2), s = 0.008, betas cut at 0.999 (Nichol & Dhariwal 2021, equation 17)."""
    signal = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * math.pi / 2) ** 2
    return np.clip(1 - signal[1:] / signal[:-1], 0, MAX_BETA)


def cosine_logsnr(steps: int, start: float, end: float) -> Array:
    """log SNR = -2 log tan(pi t / 2), t in the middle of each step: the continuous form, s = 0 (Hoogeboom et al. 2023, equation 2)."""
    signal = np.cos((np.arange(steps) + 0.5) / steps * math.pi / 2) ** 2
    return np.clip(1 - signal / np.concatenate([[1.0], signal[:-1]]), 0, MAX_BETA)


# The latent-diffusion code calls `scaled_linear` "linear" and papers built on it call it "sqrt-linear": one formula, two names.
SCHEDULES: dict[str, Callable[[int, float, float], Array]] = {
    "linear": linear,
    "scaled_linear": scaled_linear,
    "sqrt_linear": scaled_linear,
    "cosine": cosine,
    "cosine_logsnr": cosine_logsnr,
}


@dataclass(frozen=True)
class Schedule:
    """name: of SCHEDULES. steps: T. beta_start, beta_end: used by the linear ones."""

    name: str = "linear"
    steps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02

    def __post_init__(self) -> None:
        if self.name not in SCHEDULES:
            raise ValueError(f"there is no schedule '{self.name}': choose one of {', '.join(SCHEDULES)}")
        if self.steps < 2 or not 0 < self.beta_start <= self.beta_end < 1:
            raise ValueError("a schedule needs 2 steps or more and 0 < beta_start <= beta_end < 1")

    def refuse_steps(self, count: int) -> None:
        """Raises ValueError when the schedule has no `count` times to visit."""
        if not 1 <= count <= self.steps:
            raise ValueError(f"a schedule of {self.steps} steps can't be walked in {count}")

    def alpha_bars(self) -> Tensor:
        """(T,) float64: the share of signal variance left after step t."""
        return torch.from_numpy(np.cumprod(1 - SCHEDULES[self.name](self.steps, self.beta_start, self.beta_end)))

    def sigmas(self) -> Tensor:
        """(T,) float64, increasing: noise per unit of signal at each time."""
        signal = self.alpha_bars()
        return ((1 - signal) / signal).sqrt()

    def spaced_times(self, count: int) -> Tensor:
        """(count,) int64, decreasing from T - 1 to 0, as even as integers allow (the respacing of Nichol & Dhariwal 2021)."""
        self.refuse_steps(count)
        return torch.linspace(self.steps - 1, 0, count, dtype=torch.float64).round().long()

    def spaced_sigmas(self, count: int) -> Tensor:
        """(count + 1,) float32, decreasing to 0: what a sampler of `count` steps visits."""
        return with_zero(self.sigmas()[self.spaced_times(count)].float())


def karras_sigmas(count: int, least: float, largest: float, rho: float = 7.0) -> Tensor:
    """(count + 1,) float32, decreasing to 0 (Karras et al. 2022, equation 5: the EDM schedule)."""
    ramp = torch.linspace(0, 1, count)
    return with_zero((largest ** (1 / rho) + ramp * (least ** (1 / rho) - largest ** (1 / rho))) ** rho)


def with_zero(sigmas: Tensor) -> Tensor:
    return torch.cat([sigmas, sigmas.new_zeros(1)])
