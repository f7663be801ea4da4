"""Discrete-time Gaussian diffusion (Ho et al. 2020): what a network of the papers predicts, its loss, and its denoiser."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from polypforge.diffusion.learned_variance import variational_bound
from polypforge.diffusion.schedules import Schedule, karras_sigmas

Network = Callable[[Tensor, Tensor, Any], Tensor]  # (state of unit variance, integer times (B,), cond) -> raw prediction
PREDICTIONS = ("epsilon", "v", "x0")
VALIDATION_TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)


@dataclass(frozen=True)
class DiffusionConfig:
    """prediction: what the network estimates (epsilon, v, x0). learned_variance: it also gives the variance (twice the channels), which
    the variational bound trains. loss: mse or l1. snr_gamma: weight by min(SNR, gamma) (Hang et al. 2023), or null. bound_gamma: the
    same for the bound, in which an error in x0 counts by its SNR; null leaves it as in the paper."""

    schedule: Schedule = field(default_factory=Schedule)
    prediction: str = "epsilon"
    learned_variance: bool = False
    loss: str = "mse"
    snr_gamma: float | None = None
    bound_gamma: float | None = None

    @property
    def outputs(self) -> int:
        """Channels that a network gives for each channel of the state."""
        return 2 if self.learned_variance else 1

    def __post_init__(self) -> None:
        if self.prediction not in PREDICTIONS or self.loss not in ("mse", "l1"):
            raise ValueError(f"prediction is one of {', '.join(PREDICTIONS)}; loss is mse or l1")
        if any(gamma is not None and gamma <= 0 for gamma in (self.snr_gamma, self.bound_gamma)):
            raise ValueError("snr_gamma and bound_gamma must be positive, or null")


class Errors(NamedTuple):
    """each: (B, C, H, W) error of every element. weight: (B,) of the SNR weighting. clean: the estimate of x0. bound: (B,) variational
    bound in bits per dimension, 0 without a learned variance. signal: (B, 1, 1, 1) abar."""

    each: Tensor
    weight: Tensor
    clean: Tensor
    bound: Tensor
    signal: Tensor

    def mean(self) -> Tensor:
        """The plain objective: weighted mean error, plus the bound (hybrid loss, Nichol & Dhariwal 2021, equation 16)."""
        return (self.each.flatten(1).mean(1) * self.weight).mean() + self.bound.mean()


class GaussianDiffusion:
    """A schedule with a prediction: losses for training, a denoiser for sampling. Holds no weights."""

    def __init__(self, config: DiffusionConfig) -> None:
        self.config = config
        self.signal = config.schedule.alpha_bars().float()
        self.sigmas = config.schedule.sigmas().float()

    def errors(self, network: Network, clean: Tensor, cond: Any, generator: torch.Generator, times: Tensor | None = None) -> Errors:
        """One noisy version of each of `clean` (B, C, H, W), at random times unless `times` (B,) are given."""
        if times is None:
            times = torch.randint(len(self.signal), (len(clean),), generator=generator)
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        signal = self.signal[times].view(-1, 1, 1, 1).to(clean.device)
        state = self.noised(clean, noise, times)
        raw = network(state, times.to(clean.device), cond).float()
        estimate, share = self._split(raw)
        target = _target(self.config.prediction, clean, noise, signal)
        each = (estimate - target).abs() if self.config.loss == "l1" else (estimate - target).square()
        guess = _clean(self.config.prediction, estimate, state, signal)
        bound = clean.new_zeros(len(clean))
        if share is not None:  # the bound trains the variance only: the mean is held
            now, before = self.sigmas[times], self.sigmas[(times - 1).clamp_min(0)] * (times > 0)
            now, before = now.view(-1, 1, 1, 1).to(clean.device), before.view(-1, 1, 1, 1).to(clean.device)
            bound = variational_bound(clean, state / signal.sqrt(), guess.detach(), share, now, before) * len(self.signal) / 1000
            bound = bound * self._snr_share(times, self.config.bound_gamma).to(clean.device)
        return Errors(each, self._snr_weight(times).to(clean.device), guess, bound, signal)

    def noised(self, clean: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """The unit-variance state at integer times (B,)."""
        signal = self.signal[times.cpu()].view(-1, 1, 1, 1).to(clean.device)
        return signal.sqrt() * clean + (1 - signal).sqrt() * noise

    def at(self, share: float, count: int) -> Tensor:
        """(count,) the integer time that lies at this share of the schedule."""
        return torch.full((count,), round(share * (len(self.signal) - 1)), dtype=torch.long)

    def _split(self, raw: Tensor) -> tuple[Tensor, Tensor | None]:
        """(prediction, share of log beta in the log variance or None)."""
        if not self.config.learned_variance:
            return raw, None
        estimate, share = raw.chunk(2, 1)
        return estimate, (share + 1) / 2

    def _snr(self, times: Tensor) -> Tensor:
        return self.signal[times] / (1 - self.signal[times])

    def _snr_share(self, times: Tensor, gamma: float | None) -> Tensor:
        """min(SNR, gamma) / SNR; 1 without gamma."""
        if gamma is None:
            return torch.ones_like(self.signal[times])
        ratio = self._snr(times)
        return ratio.clamp_max(gamma) / ratio

    def _snr_weight(self, times: Tensor) -> Tensor:
        """The same for what the network predicts (Hang et al. 2023, table 1); 1 without gamma."""
        share, ratio = self._snr_share(times, self.config.snr_gamma), self._snr(times)
        if self.config.snr_gamma is None or self.config.prediction == "epsilon":
            return share
        return share * ratio / (ratio + 1) if self.config.prediction == "v" else share * ratio

    @torch.no_grad()
    def validation(self, network: Network, clean: Tensor, cond: Any, seed: int, name: str = "error") -> dict[str, float]:
        """Mean error at fixed times with fixed noise."""
        generator = torch.Generator().manual_seed(seed)
        return {
            f"{name}@{share}": float(self.errors(network, clean, cond, generator, self.at(share, len(clean))).each.mean())
            for share in VALIDATION_TIMES
        }

    def denoiser(self, network: Network, clip: bool = False) -> DiscreteDenoiser:
        """`denoise(x, sigma, cond) -> x0`; `clip` keeps x0 in [-1, 1], as pixels need."""
        return DiscreteDenoiser(self, network, clip)

    def spaced(self, steps: int, spacing: str = "even") -> Tensor:
        """(steps + 1,) levels falling to 0: "even" in the schedule's times, or "karras" (EDM) between its ends.

        Raises ValueError for more even steps than the schedule has times.
        """
        if spacing == "karras":
            return karras_sigmas(steps, float(self.sigmas[0]), float(self.sigmas[-1]))
        return self.config.schedule.spaced_sigmas(steps)


class DiscreteDenoiser:
    """The house's contract over a network of discrete times: the time nearest to sigma (in log sigma) is what the network is told."""

    def __init__(self, diffusion: GaussianDiffusion, network: Network, clip: bool) -> None:
        self.diffusion, self.network, self.clip = diffusion, network, clip
        self.log_sigmas = diffusion.sigmas.double().log()

    def __call__(self, x: Tensor, sigma: Tensor, cond: Any) -> Tensor:
        return self._run(x, sigma, cond)[0]

    @property
    def posterior(self) -> Callable[..., tuple[Tensor, Tensor]] | None:
        """(x, sigma, cond) -> (x0, share of log beta), for networks that learned their variance; else None."""
        return self._run if self.diffusion.config.learned_variance else None  # type: ignore[return-value]

    def _run(self, x: Tensor, sigma: Tensor, cond: Any) -> tuple[Tensor, Tensor | None]:
        time = int((self.log_sigmas - math.log(float(sigma))).abs().argmin())
        state = x / (1 + sigma.square()).sqrt()
        times = torch.full((len(x),), time, device=x.device, dtype=torch.long)
        estimate, share = self.diffusion._split(self.network(state, times, cond).float())
        signal = (1 / (1 + sigma.square())).view(1, 1, 1, 1)
        clean = _clean(self.diffusion.config.prediction, estimate, state, signal)
        return clean.clamp(-1, 1) if self.clip else clean, share


def _target(prediction: str, clean: Tensor, noise: Tensor, signal: Tensor) -> Tensor:
    if prediction == "epsilon":
        return noise
    if prediction == "x0":
        return clean
    return signal.sqrt() * noise - (1 - signal).sqrt() * clean  # Salimans & Ho 2022, appendix D


def _clean(prediction: str, estimate: Tensor, state: Tensor, signal: Tensor) -> Tensor:
    if prediction == "epsilon":
        return (state - (1 - signal).sqrt() * estimate) / signal.sqrt()
    if prediction == "x0":
        return estimate
    return signal.sqrt() * state - (1 - signal).sqrt() * estimate
