"""One step: the base stage learns to say at once what it draws in several.

The same network answers, told by a time of its own that a leap is asked for (as in shortcut models, Frans et al. 2024, arXiv 2410.12557).
What it should have said is drawn from the same noise by the network itself, in `MANY` steps. Noise and drawing belong together, so the
leap has an answer to learn, not the mean of all; what it still can't foresee it learns by its texture.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from polypforge.diffusion.flow import as_denoiser, sigma_steps, velocity_loss
from polypforge.diffusion.samplers import dpmpp_2m
from polypforge.recipes.forge.detail_loss import drawn_texture_error
from polypforge.recipes.forge.networks import BaseStage, Target

TIME = -0.1  # no time of a noisy image, but near that of noise alone, where the network sets out from
MANY = 6
TEXTURE_WEIGHT = 0.05


class Leap:
    """The base stage as a denoiser (`denoise(x, sigma, cond) -> x0`) of noise alone: x0 is what many steps make of that noise."""

    def __init__(self, stage: BaseStage) -> None:
        self.stage = stage

    def __call__(self, x: Tensor, sigma: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        return self.stage(x / (1 + sigma), x.new_full((len(x),), TIME), cond)


def leap_errors(stage: BaseStage, target: Target, cond: Mapping[str, Tensor], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Weighted mean square error of leaps, and the error of their texture inside the region; the target's image is only its surroundings.

    Under autocast the network must have run with gradients before, as its cast weights are kept from the first run on.
    """
    sigmas = sigma_steps(MANY)
    noise = torch.randn(target.state.shape, generator=generator).to(target.state) * sigmas[0]
    region, field = target.context[:, 3:4], target.context[:, 4:5]
    with torch.no_grad():
        state = dpmpp_2m(as_denoiser(stage), noise, sigmas, cond).clamp(-1, 1)
        image, mask = torch.where(region > 0, state[:, :3], target.state[:, :3]), (state[:, 3:] + 1) / 2
        drawn = Target(stage.config, image, mask, region, field, torch.ones(len(image)).to(image))
    leapt = Leap(stage)(noise, sigmas[0], cond)
    error = velocity_loss(leapt, drawn.state, torch.zeros(len(leapt)).to(leapt), drawn.weight)
    return error, drawn_texture_error(leapt, drawn, stage.config.base.patch_px, generator)
