"""DiffAug's validator: segmentation by a diffusion model in latent space, with one step instead of many (SDSeg, Lin et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from polypforge.core.config import from_dict
from polypforge.core.errors import UserError
from polypforge.core.files import read_json
from polypforge.diffusion.gaussian import DiffusionConfig, GaussianDiffusion
from polypforge.diffusion.schedules import Schedule
from polypforge.models.encoder_weights import known_encoder
from polypforge.models.first_stage import Autoencoder, FirstStageConfig, frozen_first_stage, load_autoencoder
from polypforge.models.locate import locate
from polypforge.models.pixels import to_unit
from polypforge.models.precision import fast_inference
from polypforge.models.trainable import Batch
from polypforge.models.unet import UNetShape, apply_discrete_unet, build_unet
from polypforge.quality.judges import Judge, overlap_losses


@dataclass(frozen=True)
class LatentSegmenterConfig:
    """first_stage: the frozen autoencoder (folder, hub id, starter:NAME); first_stage_shape: its size for --dry-run. vision: the
    trainable vision encoder, any of segmentation-models-pytorch, with vision_depth halvings; vision_weights: what it starts from: a window
    segmenter with that encoder (folder, starter:NAME), or "" for nothing. unet: the denoiser in latent space. clean_weight, dice_weight:
    of L1(z0) and of Dice on the decoded mask, beside L1 on the prediction. decoded_share: share of a batch that is decoded for Dice (the
    frozen decoder costs as much as all the rest). start_share: share of training times at the last step, where prediction starts.
    window_px, window_scale, empty_share: as for the window segmenter."""

    first_stage: str = "starter:first_stage"
    first_stage_shape: FirstStageConfig = field(default_factory=FirstStageConfig)
    vision: str = "tu-resnet10t"
    vision_depth: int = 4
    vision_weights: str = ""
    unet: UNetShape = field(default_factory=lambda: UNetShape((64, 96, 128), (False, False, True), patch_px=1, norm_groups=32))
    diffusion: DiffusionConfig = field(
        default_factory=lambda: DiffusionConfig(Schedule("scaled_linear", 1000, 0.00085, 0.012), prediction="v", loss="l1")
    )
    clean_weight: float = 1.0
    dice_weight: float = 1.0
    decoded_share: float = 1.0
    start_share: float = 0.5
    window_px: int = 96
    window_scale: tuple[float, float] = (1.35, 3.6)
    empty_share: float = 0.3

    def __post_init__(self) -> None:
        if self.window_px % 2**self.vision_depth:
            raise ValueError("window_px must be a multiple of 2 ** vision_depth")
        if self.clean_weight < 0 or self.dice_weight < 0 or not 0 <= self.start_share <= 1 or not 0 < self.decoded_share <= 1:
            raise ValueError("weights are not negative, start_share and decoded_share are shares")


class LatentSegmenter(Judge):
    """Frozen latents of the image and features of a trainable encoder, fused by a 1x1 convolution, tell the denoiser what to segment."""

    name: ClassVar[str] = "latent_segmenter"
    config_class = LatentSegmenterConfig

    def __init__(self, config: LatentSegmenterConfig, vae: Autoencoder | None = None, unet: UNet2DModel | None = None) -> None:
        super().__init__()
        self.config = config
        self.diffusion = GaussianDiffusion(config.diffusion)
        self.vae = vae or frozen_first_stage(config.first_stage, config.first_stage_shape)
        latents = self.vae.channels
        with known_encoder(config.vision):
            self.vision: Any = smp.encoders.get_encoder(config.vision, depth=config.vision_depth, weights=None)
        self.levels = [k for k in range(1, config.vision_depth + 1) if 2**k >= self.vae.factor]
        if not self.levels:
            raise UserError(
                f"the first stage shrinks by {self.vae.factor}: the vision encoder needs as many halvings (model.vision_depth)."
            )
        if config.vision_weights and not torch.empty(0).is_meta:
            self.vision.load_state_dict(_encoder_of(locate(config.vision_weights), config))
        self.fuse = nn.Conv2d(latents + sum(self.vision.out_channels[k] for k in self.levels), config.unet.widths[0], 1)
        self.unet = unet or build_unet(config.unet, latents + config.unet.widths[0], latents, conditional=False)

    def condition(self, image: Tensor) -> Tensor:
        """(B, C, h, w): frozen latents and all levels of the vision encoder from their resolution down, fused by a 1x1 convolution."""
        latents, levels = self.vae.encode(image), self.vision(image)
        seen = [F.interpolate(levels[k], latents.shape[-2:], mode="bilinear") for k in self.levels]
        return self.fuse(torch.cat([latents, *seen], 1))

    def _network(self, state: Tensor, times: Tensor, cond: Tensor) -> Tensor:
        return apply_discrete_unet(self.unet, torch.cat([state, cond], 1), times, self.config.unet.patch_px)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents of a mask -> lesion probability (B, 1, S, S): the mean of the decoded channels, from [-1, 1] to [0, 1]."""
        return ((self.vae.decode(latents).mean(1, keepdim=True) + 1) / 2).clamp(0, 1)

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """L1 on the prediction + clean_weight L1 on the single-step z0 + dice_weight Dice on its decoded mask."""
        config, mask = self.config, batch["mask"]
        target = self.vae.encode((mask * 2 - 1).expand(-1, 3, -1, -1))
        last = len(self.diffusion.signal) - 1
        times = torch.randint(last + 1, (len(mask),), generator=generator)
        times = torch.where(torch.rand(len(mask), generator=generator) < config.start_share, last, times)
        errors = self.diffusion.errors(self._network, target, self.condition(batch["image"]), generator, times)
        clean = (errors.clean - target).abs().mean()
        few = slice(max(round(len(mask) * config.decoded_share), 1))
        chance = self.decode(errors.clean[few]) * batch["field"][few]
        truth = (mask * batch["field"])[few]
        dice = 1 - (2 * (chance * truth).sum() + 1) / (chance.sum() + truth.sum() + 1)
        total = errors.mean() + config.clean_weight * clean + config.dice_weight * dice
        return total, {"error": errors.each.detach().mean(), "clean": clean.detach(), "dice": dice.detach()}

    @torch.no_grad()
    def validation_losses(self, batch: Batch, seed: int) -> dict[str, float]:
        found, truth = self._single_step(batch["image"]) > 0.5, batch["mask"] > 0.5
        return overlap_losses(found, truth)

    def _single_step(self, image: Tensor) -> Tensor:
        """z0 = (z_t - sqrt(1 - abar) eps) / sqrt(abar) from pure noise at the last step, decoded. The same noise for every image."""
        cond = self.condition(image)
        shape = (self.vae.channels, *cond.shape[-2:])
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(cond).expand(len(image), *shape)
        sigma = self.diffusion.sigmas[-1].to(image.device)
        clean = self.diffusion.denoiser(self._network)(noise * (1 + sigma.square()).sqrt(), sigma, cond)
        return self.decode(clean)

    @torch.inference_mode()
    def predict(self, windows: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, S, S, 3) uint8 -> (N, S, S) float32 lesion probability: the mean over the window and its mirror image."""
        self.eval()
        device = next(self.unet.parameters()).device
        image = to_unit(windows).to(device).contiguous(memory_format=torch.channels_last)
        with fast_inference(device):
            chance = self._single_step(image).float() + self._single_step(image.flip(-1)).float().flip(-1)
        return (chance[:, 0] / 2).cpu().numpy()

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.vae.vae.save_pretrained(folder / "vae")
        self.unet.save_pretrained(folder / "unet")
        state = {
            f"{part}.{k}": v.detach().cpu().contiguous() for part in ("vision", "fuse") for k, v in getattr(self, part).state_dict().items()
        }
        save_file(state, folder / "vision.safetensors")
        self.save_config(folder)

    @classmethod
    def load_pretrained(cls, folder: Path) -> Self:
        stored = read_json(folder / "config.json")
        config = from_dict(LatentSegmenterConfig, stored["config"], str(folder / "config.json"))
        config = replace(config, first_stage="", vision_weights="")  # all is in the folder
        try:
            unet = UNet2DModel.from_pretrained(folder / "unet", local_files_only=True, use_safetensors=True)
            model = cls(config, Autoencoder(load_autoencoder(folder / "vae")), unet)
            stored = load_file(folder / "vision.safetensors")
            for part in ("vision", "fuse"):
                getattr(model, part).load_state_dict({k.removeprefix(f"{part}."): v for k, v in stored.items() if k.startswith(part)})
        except (OSError, SafetensorError, RuntimeError, ValueError) as error:
            raise UserError(f"{folder} is incomplete or damaged ({str(error).splitlines()[0]}): restore it or train again.") from error
        return model


def _encoder_of(folder: Path, config: LatentSegmenterConfig) -> dict[str, Tensor]:
    """Weights of the encoder of the window segmenter in `folder`. Raises UserError for another kind."""
    stored = read_json(folder / "config.json")
    own = stored.get("config", {}) if isinstance(stored, dict) else {}
    if (own.get("encoder"), own.get("depth")) != (config.vision, config.vision_depth):
        raise UserError(f"{folder} is no window segmenter with encoder {config.vision} of depth {config.vision_depth}: see model.vision.")
    state = load_file(folder / "model.safetensors")
    return {k.removeprefix("encoder."): v.float() if v.is_floating_point() else v for k, v in state.items() if k.startswith("encoder.")}
