"""Guidance by any differentiable loss, as a wrapper over any denoiser (Dhariwal & Nichol 2021, section 4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from polypforge.diffusion.samplers import Denoiser

Loss = Callable[[Tensor, Tensor], Tensor]  # (clean estimate, sigma) -> (B,)


class LossGuided:
    """x0 - sigma^2 grad_x loss(x0(x)): the score moves down the loss, so a step moves the state by the step's variance times the gradient.

    The gradient goes through the network. Acts at min_sigma <= sigma <= max_sigma. clip: keep the guided x0 in [-1, 1], as pixels need
    (the wrapped denoiser should not clip then: the loss would not see what lies outside).
    """

    def __init__(self, denoise: Denoiser, loss: Loss, min_sigma: float = 0.0, max_sigma: float = float("inf"), clip: bool = False) -> None:
        self.denoise, self.loss, self.clip = denoise, loss, clip
        self.min_sigma, self.max_sigma = min_sigma, max_sigma

    def __call__(self, x: Tensor, sigma: Tensor, cond: Any) -> Tensor:
        return self._run(x, sigma, cond)[0]

    @property
    def posterior(self) -> Callable[..., tuple[Tensor, Tensor | None]] | None:
        return self._run if getattr(self.denoise, "posterior", None) else None

    def _run(self, x: Tensor, sigma: Tensor, cond: Any) -> tuple[Tensor, Tensor | None]:
        inner = getattr(self.denoise, "posterior", None)
        if not self.min_sigma <= float(sigma) <= self.max_sigma:
            clean, share = inner(x, sigma, cond) if inner else (self.denoise(x, sigma, cond), None)
            return (clean.clamp(-1, 1) if self.clip else clean), share
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            clean, share = inner(x, sigma, cond) if inner else (self.denoise(x, sigma, cond), None)
            (slope,) = torch.autograd.grad(self.loss(clean, sigma).sum(), x)
        guided = (clean - sigma.square() * slope).detach()
        return (guided.clamp(-1, 1) if self.clip else guided), None if share is None else share.detach()
