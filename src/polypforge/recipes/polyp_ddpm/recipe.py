"""`polyp_ddpm`: a whole frame from a mask, in pixel space (Polyp-DDPM, arXiv 2402.04031)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Self

import torch
from diffusers import UNet2DModel
from torch import Tensor

from polypforge.core.config import from_dict
from polypforge.core.files import read_json
from polypforge.core.types import Case
from polypforge.diffusion.gaussian import DiffusionConfig, GaussianDiffusion
from polypforge.diffusion.noise import SampleNoise
from polypforge.diffusion.samplers import SAMPLERS
from polypforge.diffusion.schedules import Schedule
from polypforge.features import Encoder
from polypforge.features.denoiser import DenoiserEncoder, slightly_noised
from polypforge.models.pixels import to_pixels, to_planes
from polypforge.models.precision import fast_inference
from polypforge.models.unet import UNetShape, apply_discrete_unet, build_unet
from polypforge.recipes.base import Batch, Job
from polypforge.recipes.mask_to_frame import MaskToFrame, asked_mask
from polypforge.recipes.windows import whole_frame

PAPER_UNET = UNetShape(
    (64, 64, 128, 128, 256, 256), (False, False, False, False, True, False), layers=2, patch_px=1, head_dim=16, mid_attention=True
)


@dataclass(frozen=True)
class PolypDDPMConfig:
    """unet, size_px: the network and the side of its images. diffusion: cosine, 250 steps, L1 on epsilon in the paper. steps, sampler: of
    sampling."""

    unet: UNetShape = field(default_factory=lambda: PAPER_UNET)
    size_px: int = 256
    diffusion: DiffusionConfig = field(default_factory=lambda: DiffusionConfig(Schedule("cosine", 250), loss="l1"))
    steps: int = 250
    sampler: str = "ancestral"

    def __post_init__(self) -> None:
        if self.size_px % self.unet.step_px:
            raise ValueError(f"size_px must be a multiple of {self.unet.step_px}, as this U-Net halves its images")
        self.diffusion.schedule.refuse_steps(self.steps)
        if self.sampler not in SAMPLERS:
            raise ValueError(f"sampler is one of {', '.join(SAMPLERS)}")


class PolypDDPM(MaskToFrame):
    name: ClassVar[str] = "polyp_ddpm"
    config_class: ClassVar[type] = PolypDDPMConfig
    needs: ClassVar[frozenset[str]] = frozenset({"mask"})

    def __init__(self, config: PolypDDPMConfig, unet: UNet2DModel | None = None) -> None:
        super().__init__()
        self.config = config
        self.diffusion = GaussianDiffusion(config.diffusion)
        self.unet = unet or build_unet(config.unet, 3 + 3, 3 * config.diffusion.outputs, conditional=False)  # noisy RGB, mask as RGB

    def network(self, state: Tensor, times: Tensor, mask: Tensor) -> Tensor:
        """What the network says to `state` (B, 3, S, S) at `times` (B,) for `mask` (B, 1, S, S) in {0, 1}."""
        shown = (mask * 2 - 1).expand(-1, 3, -1, -1)
        return apply_discrete_unet(self.unet, torch.cat([state, shown], 1), times, self.config.unet.patch_px)

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        errors = self.diffusion.errors(self.network, batch["image"], batch["mask"], generator)
        total = errors.mean()
        return total, {"loss": total.detach()}

    def validation_losses(self, batch: Batch, seed: int) -> dict[str, float]:
        return self.diffusion.validation(self.network, batch["image"], batch["mask"], seed)

    @torch.inference_mode()
    def generate(self, jobs: Sequence[Job]) -> list[Case]:
        config, device = self.config, next(self.unet.parameters()).device
        masks = [asked_mask(job, config.size_px) for job in jobs]
        noise = SampleNoise([j.request.seed for j in jobs])
        sigmas = self.diffusion.spaced(config.steps).to(device)
        x = noise.start((3, config.size_px, config.size_px), sigmas[0])
        with fast_inference(device):
            denoise = self.diffusion.denoiser(self.network, clip=True)
            images = to_pixels(SAMPLERS[config.sampler](denoise, x, sigmas, to_planes(masks).to(device), noise))
        return [whole_frame(j, i, m, j.case.group if j.case else "") for j, i, m in zip(jobs, images, masks, strict=True)]

    def encoder(self) -> Encoder:
        def run(image: Tensor) -> Tensor:
            state, times = slightly_noised(self.diffusion, image)
            return self.network(state, times, torch.zeros_like(image[:, :1]))

        return DenoiserEncoder(self.unet, self.unet.up_blocks[0], run, self.config.size_px)

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.unet.save_pretrained(folder / "unet")
        self.save_config(folder)

    @classmethod
    def load_pretrained(cls, folder: Path) -> Self:
        config = from_dict(PolypDDPMConfig, read_json(folder / "config.json")["config"], str(folder / "config.json"))
        return cls(config, UNet2DModel.from_pretrained(folder / "unet", local_files_only=True, use_safetensors=True))
