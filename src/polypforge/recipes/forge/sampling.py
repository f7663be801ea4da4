"""Generation with `forge`: window, base stage, detail stage, mask, and a paste that leaves the rest of the frame bit-equal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polypforge.core.types import NORMAL, POLYP, Case
from polypforge.diffusion.flow import as_denoiser, sigma_steps
from polypforge.diffusion.guidance import guided
from polypforge.diffusion.samplers import dpmpp_2m
from polypforge.models.precision import fast_inference
from polypforge.recipes.base import Job
from polypforge.recipes.forge.config import ForgeConfig
from polypforge.recipes.forge.examples import VECTOR_DIM, request_vector
from polypforge.recipes.forge.networks import STATE, BaseStage, DetailStage, context, enlarge, shrink
from polypforge.recipes.windows import View, channels_last, finished


@torch.inference_mode()
def generate(config: ForgeConfig, base: BaseStage, detail: DetailStage, jobs: Sequence[Job]) -> list[Case]:
    """One case a job. Each job has its own noise, so its result does not depend on the batch it runs in."""
    device = next(base.parameters()).device
    views = [View.of(job, config.window_scale, config.min_window_px) for job in jobs]
    image, region, field = (torch.stack(parts).to(device) for parts in zip(*(v.planes(config.detail_px) for v in views), strict=True))
    vector = np.stack([request_vector(j.request.label == POLYP, j.request.attributes) for j in jobs])
    with fast_inference(device):
        state = _sample(config, base, detail, image, region, field, torch.from_numpy(vector).to(device), [j.request.seed for j in jobs])
    return [_finish(job, view, drawn) for job, view, drawn in zip(jobs, views, channels_last(state), strict=True)]


def _finish(job: Job, view: View, drawn: NDArray[np.float32]) -> Case:
    lesion = np.zeros_like(view.region) if job.request.label == NORMAL else view.lesion_in(drawn[..., 3])
    return finished(job, view.region, view.field, view.paste(drawn[..., :3]), lesion)


def _noise(seeds: Sequence[int], stage: int, size: int) -> Tensor:
    """(B, 4, size, size) unit noise, one generator a sample."""
    return torch.stack([torch.randn(STATE, size, size, generator=torch.Generator().manual_seed(2 * seed + stage)) for seed in seeds])


def _sample(
    config: ForgeConfig,
    base: BaseStage,
    detail: DetailStage,
    image: Tensor,
    region: Tensor,
    field: Tensor,
    vector: Tensor,
    seeds: Sequence[int],
) -> Tensor:
    """(B, 4, S, S) float32 in about [-1, 1]: image and mask of the whole window; outside the region the image is the given one."""
    factor = config.detail_px // config.base_px
    small_image, small_region, small_field = shrink(image, region, field, factor)
    asked = {"context": context(small_image, small_region, small_field), "vector": vector}
    null = asked | {"vector": torch.zeros(len(vector), VECTOR_DIM, device=vector.device)}
    sigmas = sigma_steps(config.base_steps, config.base_shift).to(image.device)
    start = _noise(seeds, 0, config.base_px).to(image) * sigmas[0]
    coarse = dpmpp_2m(guided(as_denoiser(base), config.guidance), start, sigmas, (asked, null)).clamp(-1, 1)
    coarse[:, :3] = torch.where(small_region > 0, coarse[:, :3], small_image)

    cond = {"context": context(image, region, field), "coarse": enlarge(coarse, factor)}
    sigmas = sigma_steps(config.detail_steps).to(image.device)
    start = _noise(seeds, 1, config.detail_px).to(image) * sigmas[0]
    fine = dpmpp_2m(as_denoiser(detail), start, sigmas, cond).clamp(-1, 1)
    fine[:, :3] = torch.where(region > 0, fine[:, :3], image)
    return fine
