"""Exponential moving average of weights, warmed up so that short runs are not ruled by their first steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def learned_state(module: nn.Module) -> dict[str, Tensor]:
    """The part of a module's state that training changes: everything but frozen parameters (a first stage, a text encoder)."""
    frozen = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
    return {k: v.detach() for k, v in module.state_dict().items() if k not in frozen}


class EMA:
    """Keeps averaged copies of a module's learned state: decay = min(decay, (1 + step) / (10 + step))."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {k: v.clone() for k, v in learned_state(module).items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for key, value in learned_state(module).items():
            if value.is_floating_point():
                self.weights[key].lerp_(value, 1 - decay)
            else:
                self.weights[key].copy_(value)

    @contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """Inside the block the module carries the averaged weights; its own are back afterwards, whatever happens."""
        own = {k: v.clone() for k, v in learned_state(module).items()}
        module.load_state_dict(self.weights, strict=False)
        try:
            yield
        finally:
            module.load_state_dict(own, strict=False)
