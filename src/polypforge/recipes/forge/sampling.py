"""Generation with `forge`: window, base stage, detail stage, mask, and a paste that leaves the rest of the frame bit-equal."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polypforge.core.errors import UserError
from polypforge.core.types import NORMAL, POLYP, Box, Case, Mask
from polypforge.core.window import Window, around_mask
from polypforge.data.prepared import prepare
from polypforge.diffusion.flow import as_denoiser, sigma_steps
from polypforge.diffusion.guidance import guided
from polypforge.diffusion.samplers import dpmpp_2m
from polypforge.masks.shapes import box_mask, component_boxes, components, polygon_mask
from polypforge.models.precision import fast_inference
from polypforge.recipes.base import Job
from polypforge.recipes.forge.config import ForgeConfig
from polypforge.recipes.forge.examples import VECTOR_DIM, request_vector
from polypforge.recipes.forge.networks import STATE, BaseStage, DetailStage, context, enlarge, shrink

REPAINTED = 0.95  # share of a lesion's visible part that a region must cover for the lesion to be gone
FEATHER = 0.06  # width of the blend inside the region, as a share of the window's side


@torch.inference_mode()
def generate(config: ForgeConfig, base: BaseStage, detail: DetailStage, jobs: Sequence[Job]) -> list[Case]:
    """One case a job. Each job has its own noise, so its result does not depend on the batch it runs in."""
    device = next(base.parameters()).device
    windows = [_window(config, job) for job in jobs]
    image, region, field = (torch.stack(parts).to(device) for parts in zip(*(_views(config, w) for w in windows), strict=True))
    vector = np.stack([request_vector(j.request.label == POLYP, j.request.attributes) for j in jobs])
    with fast_inference(device):
        state = _sample(config, base, detail, image, region, field, torch.from_numpy(vector).to(device), [j.request.seed for j in jobs])
    result = state.permute(0, 2, 3, 1).cpu().numpy()
    return [_finish(job, view, drawn) for job, view, drawn in zip(jobs, windows, result, strict=True)]


class _View:
    """A job's window, with the region and the field of view of the whole frame."""

    def __init__(self, window: Window, frame: NDArray[np.uint8], region: Mask, field: Mask) -> None:
        self.window, self.frame, self.region, self.field = window, frame, region, field


def _window(config: ForgeConfig, job: Job) -> _View:
    frame = job.background.image
    field = prepare(job.background).field
    region = polygon_mask(list(job.request.region), frame.shape[:2]) & field
    if not region.any():
        raise UserError(f"request {job.request.id}: its region lies outside the field of view of '{job.background.name}'.")
    if job.background.mask is None and job.background.boxes and not _covers(region, field, job.background.boxes):
        raise UserError(
            f"'{job.background.name}' has boxes but no mask: its region must cover every box, or the label would lack a lesion."
        )
    return _View(around_mask(region, config.window_scale, config.min_window_px), frame, region, field)


def _covers(region: Mask, field: Mask, boxes: Sequence[Box]) -> bool:
    return all((box_mask(b, region.shape) & field & ~region).mean() < 0.2 * box_mask(b, region.shape).mean() for b in boxes)


def _views(config: ForgeConfig, view: _View) -> tuple[Tensor, Tensor, Tensor]:
    size = config.detail_px
    pixels = torch.from_numpy(view.window.crop(view.frame, size)).permute(2, 0, 1).float() / 127.5 - 1
    region = torch.from_numpy(view.window.crop_mask(view.region, size)).float()[None]
    field = torch.from_numpy(view.window.crop_mask(view.field, size)).float()[None]
    return pixels, region, field


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


def _finish(job: Job, view: _View, drawn: NDArray[np.float32]) -> Case:
    """Paste the window back, blending inside the region only, and build the complete label."""
    frame, region, background = view.frame, view.region, job.background
    pixels = view.window.uncrop(np.ascontiguousarray(drawn[..., :3]), frame.shape[:2]) * 127.5 + 127.5
    # Blend where the region meets tissue that stays; at the edge of the frame or field there is nothing to blend with.
    stays = view.field & ~region
    depth = cv2.distanceTransform((~stays).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    blend = np.clip(depth / max(2.0, FEATHER * view.window.side_px), 0, 1)[..., None]
    mixed = frame * (1 - blend) + np.clip(pixels, 0, 255) * blend
    image = np.where(region[..., None], np.rint(mixed).astype(np.uint8), frame)

    mask = remaining(background.mask, region, view.field)
    if job.request.label != NORMAL:
        drawn_mask = view.window.uncrop(np.ascontiguousarray(drawn[..., 3]), frame.shape[:2]) > 0
        mask = mask | _main_part(drawn_mask & region)
    return Case(
        name=job.request.id,
        image=image,
        mask=mask,
        boxes=component_boxes(mask, 4),
        label=POLYP if mask.any() else NORMAL,
        group=background.group,
        split=background.split,
    )


def remaining(old: Mask | None, region: Mask, field: Mask) -> Mask:
    """What of the old label still shows: everything outside the region, but no lesion whose visible part was repainted.

    Labels reach a little over the edge of the field of view; such a rim of a repainted lesion is no lesion.
    """
    if old is None:
        return np.zeros(region.shape, bool)
    kept = np.zeros(region.shape, bool)
    for lesion in components(old):
        seen = lesion & field
        if not seen.any() or (seen & region).sum() < REPAINTED * seen.sum():
            kept |= lesion & ~region
    return kept


def _main_part(mask: Mask) -> Mask:
    """The largest component with its holes filled, plus any other at least a quarter as large: specks are not lesions."""
    parts = components(mask, 12)
    if not parts:
        return np.zeros_like(mask)
    kept = np.any([p for p in parts if p.sum() >= 0.25 * parts[0].sum()], axis=0)
    contours, _ = cv2.findContours(kept.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = np.zeros(mask.shape, np.uint8)
    cv2.drawContours(filled, contours, -1, 1, cv2.FILLED)
    return filled.astype(bool)
