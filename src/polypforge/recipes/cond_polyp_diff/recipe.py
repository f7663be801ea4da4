"""`cond_polyp_diff`: new masks from nothing, then frames from masks in a latent space (CondPolypDiff, ICDAR 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from polypforge.core.config import from_dict
from polypforge.core.files import read_json
from polypforge.core.seeding import seed_from
from polypforge.core.types import Case, Mask
from polypforge.diffusion.gaussian import DiffusionConfig, GaussianDiffusion
from polypforge.diffusion.noise import SampleNoise
from polypforge.diffusion.samplers import SAMPLERS, ddim
from polypforge.diffusion.schedules import Schedule
from polypforge.features import Encoder
from polypforge.features.denoiser import DenoiserEncoder, slightly_noised
from polypforge.masks.pseudo import is_speck
from polypforge.masks.shapes import components
from polypforge.models.first_stage import Autoencoder, FirstStageConfig, frozen_first_stage, load_autoencoder
from polypforge.models.pixels import to_pixels, to_planes
from polypforge.models.precision import fast_inference
from polypforge.models.unet import UNetShape, apply_discrete_unet, build_unet
from polypforge.recipes.base import Batch, Job
from polypforge.recipes.mask_to_frame import MaskToFrame, asked_mask
from polypforge.recipes.windows import whole_frame

MASK_TRIES = 8  # masks drawn for one request before giving up
FULL = 0.9  # share of the frame from which on a mask is no lesion any more


@dataclass(frozen=True)
class CondPolypDiffConfig:
    """mask_unet, mask_px, mask_diffusion: the mask generator, in pixels, one channel. image_unet, size_px, image_diffusion: the image
    model, in the latents of `first_stage` (folder, hub id or starter:NAME), whose shape --dry-run takes from `first_stage_shape`.
    mask_steps, image_steps, eta: sampling. largest_only: keep the largest component of a drawn mask. min_thickness_px: at 256; a mask
    nowhere thicker is a speck."""

    mask_unet: UNetShape = field(
        default_factory=lambda: UNetShape(
            (128, 128, 256, 256, 512, 512), (False,) * 4 + (True, False), layers=2, patch_px=1, mid_attention=True
        )
    )
    image_unet: UNetShape = field(
        default_factory=lambda: UNetShape((128, 512, 1024), (False, False, False), layers=2, patch_px=1, mid_attention=True, head_dim=128)
    )
    first_stage: str = ""
    first_stage_shape: FirstStageConfig = field(
        default_factory=lambda: FirstStageConfig("vq", (128, 256, 512), 2, latent_channels=3, norm_groups=32, mid_attention=True)
    )
    mask_px: int = 256
    size_px: int = 256
    mask_diffusion: DiffusionConfig = field(default_factory=lambda: DiffusionConfig(Schedule("linear"), learned_variance=True))
    image_diffusion: DiffusionConfig = field(
        default_factory=lambda: DiffusionConfig(Schedule("sqrt_linear", 1000, 0.0015, 0.0205), loss="l1")
    )
    mask_steps: int = 1000
    image_steps: int = 200
    eta: float = 1.0
    largest_only: bool = True
    min_thickness_px: float = 5.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError("eta lies between 0 and 1")
        self.mask_diffusion.schedule.refuse_steps(self.mask_steps)
        self.image_diffusion.schedule.refuse_steps(self.image_steps)
        step_px = self.image_unet.step_px * 2 ** (len(self.first_stage_shape.widths) - 1)
        if self.mask_px % self.mask_unet.step_px or self.size_px % step_px:
            raise ValueError(
                f"mask_px must be a multiple of {self.mask_unet.step_px}, size_px of {step_px}, as these U-Nets halve their images"
            )


class CondPolypDiff(MaskToFrame):
    name: ClassVar[str] = "cond_polyp_diff"
    config_class: ClassVar[type] = CondPolypDiffConfig
    needs: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self,
        config: CondPolypDiffConfig,
        mask_unet: UNet2DModel | None = None,
        image_unet: UNet2DModel | None = None,
        vae: Autoencoder | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.mask_diffusion, self.image_diffusion = GaussianDiffusion(config.mask_diffusion), GaussianDiffusion(config.image_diffusion)
        self.mask_unet = mask_unet or build_unet(config.mask_unet, 1, config.mask_diffusion.outputs, conditional=False)
        self.vae = vae or frozen_first_stage(config.first_stage, config.first_stage_shape)
        latents = self.vae.channels
        self.image_unet = image_unet or build_unet(
            config.image_unet, latents + 3, latents * config.image_diffusion.outputs, conditional=False
        )
        self.embed = nn.Conv2d(2, 3, 1)  # two-class one-hot mask -> three channels beside the latents (the paper's condition)

    # Training

    def _mask_network(self, state: Tensor, times: Tensor, cond: None) -> Tensor:
        return apply_discrete_unet(self.mask_unet, state, times, self.config.mask_unet.patch_px)

    def _image_network(self, state: Tensor, times: Tensor, mask: Tensor) -> Tensor:
        one_hot = torch.cat([1 - mask, mask], 1)
        small = F.interpolate(one_hot, state.shape[-2:], mode="bilinear", align_corners=False, antialias=True)
        return apply_discrete_unet(self.image_unet, torch.cat([state, self.embed(small)], 1), times, self.config.image_unet.patch_px)

    def _small_mask(self, mask: Tensor) -> Tensor:
        """The mask at the generator's size, in [-1, 1]."""
        size = (self.config.mask_px, self.config.mask_px)
        return F.interpolate(mask, size, mode="area") * 2 - 1

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        masks = self.mask_diffusion.errors(self._mask_network, self._small_mask(batch["mask"]), None, generator).mean()
        images = self.image_diffusion.errors(self._image_network, self.vae.encode(batch["image"]), batch["mask"], generator).mean()
        return masks + images, {"mask": masks.detach(), "image": images.detach()}

    def validation_losses(self, batch: Batch, seed: int) -> dict[str, float]:
        masks = self.mask_diffusion.validation(self._mask_network, self._small_mask(batch["mask"]), None, seed, "mask")
        clean = self.vae.encode(batch["image"])
        return masks | self.image_diffusion.validation(self._image_network, clean, batch["mask"], seed, "image")

    # Generation

    @torch.inference_mode()
    def generate(self, jobs: Sequence[Job]) -> list[Case]:
        """Requests that name a case with a mask, or a lesion, get a frame for it; the others a new mask first."""
        size = self.config.size_px
        masks: dict[int, Mask] = {i: asked_mask(job, size) for i, job in enumerate(jobs) if _names_mask(job)}
        free = [i for i in range(len(jobs)) if i not in masks]
        if free:
            masks |= dict(zip(free, self.draw_masks([jobs[i].request.seed for i in free]), strict=True))
        ordered = [masks[i] for i in range(len(jobs))]
        images = self.draw_images(ordered, [j.request.seed for j in jobs])
        return [whole_frame(j, i, m, j.case.group if j.case else "") for j, i, m in zip(jobs, images, ordered, strict=True)]

    @torch.inference_mode()
    def draw_masks(self, seeds: Sequence[int]) -> list[Mask]:
        """New masks (S, S) bool: binarised at 0; empty, full and speck-sized ones are drawn again from a seed derived of their own.

        A seed that gives none in MASK_TRIES comes back empty, for the gate to reject.
        """
        found: dict[int, Mask] = {}
        for attempt in range(MASK_TRIES):
            left = [i for i in range(len(seeds)) if i not in found]
            if not left:
                break
            planes = self._mask_planes([seed_from(seeds[i], "mask", attempt) for i in left])
            for i, plane in zip(left, planes, strict=True):
                mask = self._checked(plane)
                if mask is not None:
                    found[i] = mask
        empty = np.zeros((self.config.size_px, self.config.size_px), bool)
        return [found.get(i, empty) for i in range(len(seeds))]

    def _mask_planes(self, seeds: Sequence[int]) -> Tensor:
        config, device = self.config, next(self.mask_unet.parameters()).device
        noise = SampleNoise(seeds)
        sigmas = self.mask_diffusion.spaced(config.mask_steps).to(device)
        x = noise.start((1, config.mask_px, config.mask_px), sigmas[0])
        with fast_inference(device):
            drawn = SAMPLERS["ancestral"](self.mask_diffusion.denoiser(self._mask_network, clip=True), x, sigmas, None, noise)
        size = (config.size_px, config.size_px)
        return F.interpolate(drawn, size, mode="bicubic", align_corners=False, antialias=True)[:, 0].cpu()

    def _checked(self, plane: Tensor) -> Mask | None:
        mask = plane.numpy() > 0
        thickness = self.config.min_thickness_px * self.config.size_px / 256
        parts = components(mask)
        if self.config.largest_only and parts:
            mask = parts[0]
        return None if mask.mean() > FULL or is_speck(mask, thickness) else mask

    @torch.inference_mode()
    def draw_images(self, masks: Sequence[Mask], seeds: Sequence[int]) -> np.ndarray:
        """(N, S, S, 3) uint8 frames for masks (S, S)."""
        config, device = self.config, next(self.image_unet.parameters()).device
        noise = SampleNoise(seeds, "image")
        sigmas = self.image_diffusion.spaced(config.image_steps).to(device)
        side = config.size_px // self.vae.factor
        x = noise.start((self.vae.channels, side, side), sigmas[0])
        with fast_inference(device):
            denoise = self.image_diffusion.denoiser(self._image_network)
            latents = ddim(config.eta)(denoise, x, sigmas, to_planes(masks).to(device), noise)
            return to_pixels(self.vae.decode(latents))

    def encoder(self) -> Encoder:
        """Of the network that draws frames, told that there is no lesion."""

        def run(image: Tensor) -> Tensor:
            state, times = slightly_noised(self.image_diffusion, self.vae.encode(image))
            return self._image_network(state, times, torch.zeros_like(image[:, :1]))

        return DenoiserEncoder(self.image_unet, self.image_unet.up_blocks[0], run, self.config.size_px)

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.mask_unet.save_pretrained(folder / "mask_unet")
        self.image_unet.save_pretrained(folder / "image_unet")
        self.vae.vae.save_pretrained(folder / "vae")
        _save_conv(self.embed, folder / "embed.safetensors")
        self.save_config(folder)

    @classmethod
    def load_pretrained(cls, folder: Path) -> Self:
        config = from_dict(CondPolypDiffConfig, read_json(folder / "config.json")["config"], str(folder / "config.json"))
        masks, images = (
            UNet2DModel.from_pretrained(folder / n, local_files_only=True, use_safetensors=True) for n in ("mask_unet", "image_unet")
        )
        model = cls(replace(config, first_stage=""), masks, images, Autoencoder(load_autoencoder(folder / "vae")))
        model.embed.load_state_dict(load_file(folder / "embed.safetensors"))
        return model


def _names_mask(job: Job) -> bool:
    return job.case is not None and bool(job.request.lesion or (job.case.mask is not None and job.case.mask.any()))


def _save_conv(layer: nn.Conv2d, path: Path) -> None:
    save_file({k: v.detach().cpu().contiguous() for k, v in layer.state_dict().items()}, path)
