"""Few steps of the base stage that come as near as they can to what it draws in many."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from polypforge.diffusion.flow import as_denoiser, sigma_steps
from polypforge.diffusion.guidance import guided
from polypforge.diffusion.samplers import dpmpp_2m
from polypforge.diffusion.solver import Fitted, drawings, fit
from polypforge.recipes.base import Job
from polypforge.recipes.forge.config import ForgeConfig
from polypforge.recipes.forge.networks import BaseStage
from polypforge.recipes.forge.sampling import conditions, noise_of, request_vectors, shown

MANY = 50  # second-order steps that few are to equal
PART = 16  # jobs that the network sees at once


def passes(steps: Sequence[int]) -> int:
    """How many times at most the network looks at all jobs in `distilled`."""
    return MANY + sum(count * drawings(count) for count in steps)


def distilled(
    config: ForgeConfig, base: BaseStage, jobs: Sequence[Job], steps: Sequence[int], tell: Callable[[], None]
) -> Iterator[Fitted]:
    """A solver for each number of `steps`, fitted inside the regions of `jobs`. tell: called after each of the network's `passes`.

    Frames to learn from should be training frames. The weights stay as they are; so does what they draw in other numbers of steps.
    """
    device = next(base.parameters()).device
    _, planes = shown(config, jobs, device)
    cond, (_, region, _) = conditions(config, *planes, torch.from_numpy(request_vectors(jobs)).to(device))
    denoise = guided(as_denoiser(base), config.guidance)

    @torch.no_grad()
    def in_parts(x: Tensor, sigma: Tensor, _: None) -> Tensor:
        parts = [slice(k, k + PART) for k in range(0, len(x), PART)]
        clean = [denoise(x[part], sigma, tuple({name: values[part] for name, values in side.items()} for side in cond)) for part in parts]
        tell()
        return torch.cat(clean)

    many = sigma_steps(MANY, config.base_shift).to(device)
    start = noise_of([j.request.seed for j in jobs], 0, config.base_px).to(device) * many[0]
    target = dpmpp_2m(in_parts, start, many, None)
    for count in steps:
        yield fit(in_parts, start, target, region.expand_as(start), sigma_steps(count, config.base_shift))
