"""Few steps: a low-rank change of the base stage that says at once what the stage draws in several, and its own steps after that.

Distilled from the stage itself: the same noise, walked in `MANY` steps, is what a leap has to answer. Noise and drawing belong together, so
there is an answer to learn, not the mean of all (Luhman & Luhman 2021, arXiv 2101.02388); what a leap still can't foresee it learns by its
texture, whose distribution is matched. The stage's own weights stay, and so does what it draws in more steps: learned in the same weights,
leaps make the network unlearn its steps. The change is stored as factors (LoRA, Hu et al. 2021, arXiv 2106.09685), 5 % of the stage.

What a leap draws is a little soft. Where there is time for more steps, some of the noise that it set out from goes back on it, and the
stage walks the rest of its own way: as consistency models do (Song et al. 2023, arXiv 2303.01469, algorithm 1), but for the noise, which
is fresh there. With fresh noise nothing is gained here (docs/forge.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor, nn
from torch.func import functional_call

from polypforge.diffusion.flow import as_denoiser, sigma_steps, velocity_loss
from polypforge.diffusion.samplers import dpmpp_2m
from polypforge.recipes.forge.detail_loss import drawn_texture_error
from polypforge.recipes.forge.networks import BaseStage, Target

MANY = 6
TEXTURE_WEIGHT = 0.05
# By the steps after a leap: times at which the stage is asked, chosen on validation frames (docs/forge.md).
TIMES_AFTER: tuple[tuple[float, ...], ...] = ((), (0.8,), (0.75, 0.96), (0.7, 0.9, 0.98))
MOST_LEAPT = len(TIMES_AFTER)


class Leap(nn.Module):
    """What is added to a base stage's weights: to those of convolutions and linear layers a product of two factors, to vectors a vector."""

    def __init__(self, base: BaseStage, rank: int) -> None:
        super().__init__()
        self.down, self.up, self.shift = nn.ParameterDict(), nn.ParameterDict(), nn.ParameterDict()
        for name, weight in base.named_parameters():
            key = name.replace(".", "/")  # parameters' names hold no dots
            if weight.ndim == 1:
                self.shift[key] = nn.Parameter(torch.zeros_like(weight, dtype=torch.float32))
                continue
            fan_in = weight[0].numel()
            self.down[key] = nn.Parameter(torch.randn(rank, fan_in) / fan_in**0.5)
            self.up[key] = nn.Parameter(torch.zeros(weight.shape[0], rank))  # so it sets out from the stage as it is

    @classmethod
    def of(cls, base: BaseStage, stored: Mapping[str, Tensor]) -> Self:
        """With the factors of an earlier one. Raises RuntimeError where they don't fit."""
        leap = cls(base, next(iter(stored[name] for name in stored if name.startswith("up."))).shape[1])
        leap.load_state_dict(dict(stored))
        return leap

    def forward(self, base: BaseStage, x: Tensor, sigma: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """`base` as a denoiser of noise alone: x (B, 4, S, S) is noise of standard deviation sigma, and x0 what many steps make of it."""
        own = dict(base.named_parameters())
        changed = {}
        for name, weight in own.items():
            key = name.replace(".", "/")
            change = self.shift[key] if key in self.shift else (self.up[key] @ self.down[key]).view_as(weight)
            changed[name] = weight + change.to(weight.dtype)
        time = x.new_full((len(x),), float(1 / (1 + sigma)))
        return functional_call(base, changed, (x * time.view(-1, 1, 1, 1), time, cond))


def leapt(leap: Leap, base: BaseStage, noise: Tensor, cond: Mapping[str, Tensor], steps: int) -> Tensor:
    """(B, 4, S, S) x0 of unit `noise` (B, 4, S, S) in 1 to MOST_LEAPT steps, the first of them a leap."""
    first = sigma_steps(1)[0].to(noise.device)
    drawn = leap(base, noise * first, first, cond)
    times = torch.tensor([*TIMES_AFTER[steps - 1], 1.0], device=noise.device)
    rest = (1 - times) / times
    return dpmpp_2m(as_denoiser(base), drawn + rest[0] * noise, rest, cond)


def leap_errors(
    leap: Leap, base: BaseStage, target: Target, cond: Mapping[str, Tensor], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Weighted mean square error of leaps, and the error of their texture inside the region; of `target` only the surroundings count."""
    sigmas = sigma_steps(MANY)
    noise = torch.randn(target.state.shape, generator=generator).to(target.state) * sigmas[0]
    region, field = target.context[:, 3:4], target.context[:, 4:5]
    answer = leap(base, noise, sigmas[0], cond)
    with torch.no_grad():
        state = dpmpp_2m(as_denoiser(base), noise, sigmas, cond).clamp(-1, 1)
        image, mask = torch.where(region > 0, state[:, :3], target.state[:, :3]), (state[:, 3:] + 1) / 2
        drawn = Target(base.config, image, mask, region, field, torch.ones(len(image)).to(image))
    error = velocity_loss(answer, drawn.state, torch.zeros(len(answer)).to(answer), drawn.weight)
    return error, drawn_texture_error(answer, drawn, base.config.base.patch_px, generator)
