"""Generation with `forge`: window, base stage, detail stage, mask, and a paste that leaves the rest of the frame bit-equal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import ceil
from types import EllipsisType
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from polypforge.core.errors import UserError
from polypforge.core.types import NORMAL, POLYP, Case, Mask
from polypforge.diffusion.flow import as_denoiser, sigma_steps
from polypforge.diffusion.guidance import guided
from polypforge.diffusion.samplers import dpmpp_2m
from polypforge.masks.attributes import measure
from polypforge.models.pixels import to_unit
from polypforge.models.precision import fast_inference
from polypforge.recipes.base import Job
from polypforge.recipes.forge.config import WHOLE_WAY, ForgeConfig
from polypforge.recipes.forge.examples import request_vector
from polypforge.recipes.forge.glints import with_glints
from polypforge.recipes.forge.grain import with_grain
from polypforge.recipes.forge.leap import Leap, leapt
from polypforge.recipes.forge.networks import STATE, BaseStage, DetailStage, context, enlarge, shrink
from polypforge.recipes.windows import View, channels_last, finished

T = TypeVar("T")
SURROUNDINGS_PX = 12  # of its window, that the detail stage sees around a region


@dataclass(frozen=True)
class Drafts:
    """What jobs set out from instead of noise alone: one case a job, and the noise level in 0..1 from which it is redrawn."""

    cases: Sequence[Case]
    strength: float

    def planes(self, views: Sequence[View], size: int) -> Tensor:
        """(B, 4, S, S) float32 in [-1, 1]: image and lesion in the window."""
        return torch.stack([_draft_plane(v, c, size) for v, c in zip(views, self.cases, strict=True)])

    def vectors(self, jobs: Sequence[Job], views: Sequence[View]) -> NDArray[np.float32]:
        """(B, VECTOR_DIM): a lesion like the draft's."""
        found = []
        for job, view, case in zip(jobs, views, self.cases, strict=True):
            lesion = _lesion(view, case)
            if not lesion.any():
                raise UserError(f"request {job.request.id}: its draft shows no lesion inside the region.")
            found.append(request_vector(True, measure(case.image, lesion, view.region, view.field)))
        return np.stack(found)


def _lesion(view: View, draft: Case) -> Mask:
    return draft.mask & view.region if draft.mask is not None else np.zeros_like(view.region)


def _draft_plane(view: View, draft: Case, size: int) -> Tensor:
    return torch.cat([to_unit(view.window.crop(draft.image, size)[None])[0], view.plane(_lesion(view, draft), size) * 2 - 1])


@torch.inference_mode()
def generate(
    config: ForgeConfig, base: BaseStage, detail: DetailStage, leap: Leap | None, jobs: Sequence[Job], drafts: Drafts | None = None
) -> list[Case]:
    """One case a job. Each job has its own noise, so but for rounding its result does not depend on its batch. leap: where it sets
    out, which it can't from drafts."""
    device = next(base.parameters()).device
    views = _threads(partial(View.of, scale=config.window_scale, min_side_px=config.min_window_px), jobs)
    planes = _threads(partial(View.planes, size=config.detail_px), views)
    image, region, field = (torch.stack(parts).to(device) for parts in zip(*planes, strict=True))
    if drafts:
        vector = drafts.vectors(jobs, views)
    else:
        vector = request_vectors(jobs)
    sketch = drafts.planes(views, config.detail_px).to(device) if drafts else None
    strength = drafts.strength if drafts else 1.0
    seeds = [j.request.seed for j in jobs]
    with fast_inference(device):
        state = _sample(config, base, detail, leap, image, region, field, torch.from_numpy(vector).to(device), seeds, sketch, strength)
    return _threads(partial(finish, config), jobs, views, channels_last(state))


def _threads(function: Callable[..., T], *items: Sequence[Any] | NDArray) -> list[T]:
    """`function` over parallel sequences, on as many threads as PyTorch has: OpenCV and numpy leave the others to work."""
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return list(pool.map(function, *items))


def request_vectors(jobs: Sequence[Job]) -> NDArray[np.float32]:
    """(B, VECTOR_DIM): what the requests ask for."""
    return np.stack([request_vector(j.request.label == POLYP, j.request.attributes) for j in jobs])


def finish(config: ForgeConfig, job: Job, view: View, drawn: NDArray[np.float32]) -> Case:
    """The case of what was drawn in its window: (S, S, 4) in about [-1, 1], image and mask."""
    lesion = np.zeros_like(view.region) if job.request.label == NORMAL else view.lesion_in(drawn[..., 3])
    pixels = view.enlarged(drawn[..., :3])
    if config.grain:
        pixels = with_grain(view, pixels, job.background.mask, config.grain, job.request.seed)
    if config.glints:
        pixels = with_glints(view, pixels, drawn[..., :3], config.glints, job.request.seed)
    return finished(job, view.region, view.field, view.paste(pixels), lesion)


def noise_of(seeds: Sequence[int], stage: int, size: int) -> Tensor:
    """(B, 4, size, size) unit noise, one generator a sample."""
    return torch.stack([torch.randn(STATE, size, size, generator=torch.Generator().manual_seed(2 * seed + stage)) for seed in seeds])


def _sample(
    config: ForgeConfig,
    base: BaseStage,
    detail: DetailStage,
    leap: Leap | None,
    image: Tensor,
    region: Tensor,
    field: Tensor,
    vector: Tensor,
    seeds: Sequence[int],
    sketch: Tensor | None,
    strength: float,
) -> Tensor:
    """(B, 4, S, S) float32 in about [-1, 1]: image and mask of the whole window; outside the region the image is the given one."""
    factor = config.detail_px // config.base_px
    small_image, small_region, small_field = shrink(image, region, field, factor)
    asked = {"context": context(small_image, small_region, small_field), "vector": vector}
    noise = noise_of(seeds, 0, config.base_px).to(image)
    if leap is not None:
        coarse = leapt(leap, base, noise, asked, config.base_steps)
    else:
        nothing = asked | {"vector": torch.zeros_like(vector)}
        steps = config.base_steps if sketch is None else max(config.base_steps, WHOLE_WAY)
        sigmas = _sigmas(steps, config.base_shift, strength).to(image.device)
        start = noise * sigmas[0] + (F.avg_pool2d(sketch, factor) if sketch is not None else 0)
        coarse = dpmpp_2m(guided(as_denoiser(base), config.guidance), start, sigmas, (asked, nothing))
    coarse = coarse.clamp(-1, 1)
    coarse[:, :3] = torch.where(small_region > 0, coarse[:, :3], small_image)

    noise = noise_of(seeds, 1, config.detail_px).to(image)
    middle = _middle(config)
    seen = (noise, enlarge(coarse, factor), context(image, region, field))
    state = torch.cat([image, -torch.ones_like(region)], 1)
    fine = detail(*(planes[middle] for planes in seen)).clamp(-1, 1)
    state[middle] = torch.where(region[middle] > 0, fine, state[middle])
    return state


def _sigmas(steps: int, shift: float, strength: float) -> Tensor:
    """The last part of the way for a strength below 1, in as many of the steps."""
    if strength == 1:
        return sigma_steps(steps, shift)
    return sigma_steps(max(2, round(steps * strength)), shift, first_time=1 - strength)


def _middle(config: ForgeConfig) -> tuple[slice | EllipsisType, ...]:
    """The part of a window that holds the region, wherever it is, with some surroundings: the detail stage need not draw the rest."""
    step = config.detail.patch_px * 2 ** (len(config.detail.widths) - 1)
    side = min(config.detail_px, step * ceil((config.detail_px / config.window_scale + 2 * SURROUNDINGS_PX) / step))
    first = (config.detail_px - side) // 2
    return np.s_[..., first : first + side, first : first + side]
