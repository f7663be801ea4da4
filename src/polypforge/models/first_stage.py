"""The first stage of latent recipes: an autoencoder between frames and small latents (Rombach et al. 2022, section 3.1).

`Autoencoder` wraps diffusers' `AutoencoderKL` or `VQModel`, whoever trained it; `FirstStage` trains one here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, VQModel
from torch import Tensor, nn

from polypforge.core.config import from_dict
from polypforge.core.errors import UserError
from polypforge.core.files import read_json
from polypforge.core.types import Case
from polypforge.data.prepared import Prepared, prepare, random_window
from polypforge.models.locate import locate
from polypforge.models.pixels import to_unit
from polypforge.models.precision import fast_layout
from polypforge.models.trainable import Batch, Trainable

AutoencoderModel = Any  # AutoencoderKL | VQModel, which carry no types


@dataclass(frozen=True)
class FirstStageConfig:
    """kind: "kl" or "vq". widths: channels of each level; the latent is smaller by 2 ** (levels - 1). codes: entries of the VQ
    codebook. kl_weight: pull of the latents towards a unit Gaussian (kl only). edge_weight: weight of the error of local differences,
    which keeps vessels and highlights sharp. size_px: side of the training windows."""

    kind: str = "kl"
    widths: tuple[int, ...] = (32, 64, 96)
    layers: int = 1
    latent_channels: int = 4
    codes: int = 8192
    norm_groups: int = 16
    mid_attention: bool = False
    kl_weight: float = 1e-6
    edge_weight: float = 2.0
    size_px: int = 128

    def __post_init__(self) -> None:
        if self.kind not in ("kl", "vq"):
            raise ValueError("kind is kl or vq")
        if any(w % self.norm_groups for w in self.widths) or self.size_px % 2 ** (len(self.widths) - 1):
            raise ValueError("every width must be a multiple of norm_groups, and size_px of the downsampling factor")


def build_autoencoder(config: FirstStageConfig) -> AutoencoderModel:
    levels = len(config.widths)
    shared: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "block_out_channels": config.widths,
        "layers_per_block": config.layers,
        "latent_channels": config.latent_channels,
        "norm_num_groups": config.norm_groups,
        "mid_block_add_attention": config.mid_attention,
        "scaling_factor": 1.0,
        "force_upcast": False,
    }
    if config.kind == "vq":
        return VQModel(**shared, num_vq_embeddings=config.codes)
    return AutoencoderKL(**shared)


class Autoencoder(nn.Module):
    """Frozen encoder and decoder; latents are scaled to about unit variance, as diffusion expects."""

    def __init__(self, vae: AutoencoderModel) -> None:
        super().__init__()
        self.vae = vae.requires_grad_(False)

    @property
    def factor(self) -> int:
        """How many times smaller a side of the latent is."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def channels(self) -> int:
        return self.vae.config.latent_channels

    @property
    def scale(self) -> float:
        return float(self.vae.config.scaling_factor)

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, C, H/f, W/f): the mode of the posterior, scaled. No gradient."""
        image = image.contiguous(memory_format=fast_layout(self.vae, image.device))
        if isinstance(self.vae, VQModel):
            return self.vae.encode(image).latents.float() * self.scale
        return self.vae.encode(image).latent_dist.mode().float() * self.scale

    def decode(self, latents: Tensor) -> Tensor:
        """The inverse, in about [-1, 1]; carries gradients to `latents`."""
        return self.vae.decode(latents / self.scale).sample.float()


def load_autoencoder(folder: Path) -> AutoencoderModel:
    """From a folder of `save_pretrained`, of `polypforge train first_stage`, or of a pipeline (its `vae`). Raises UserError."""
    for place in (folder, folder / "vae"):
        config = read_json(place / "config.json") if (place / "config.json").is_file() else {}
        kind = {"AutoencoderKL": AutoencoderKL, "VQModel": VQModel}.get(config.get("_class_name", ""))
        if kind is not None:
            try:
                return kind.from_pretrained(place, local_files_only=True, use_safetensors=True).float().eval()
            except (OSError, RuntimeError, ValueError) as error:
                raise UserError(
                    f"{place} is incomplete or damaged ({str(error).splitlines()[0]}): restore it or train first_stage again."
                ) from error
    raise UserError(f"{folder} holds no AutoencoderKL or VQModel: train one with `polypforge train first_stage`.")


def frozen_first_stage(where: str, shape: FirstStageConfig) -> Autoencoder:
    """The autoencoder at `where` (folder, hub id, starter:NAME); under `torch.device("meta")` one of that shape. Raises UserError."""
    if torch.empty(0).is_meta:
        return Autoencoder(build_autoencoder(shape))
    if not where:
        raise UserError(
            "latents need a first stage: train one (polypforge train first_stage) and name it with --set model.first_stage=FOLDER."
        )
    return Autoencoder(load_autoencoder(locate(where)))


class FirstStage(Trainable):
    """Trains an autoencoder on random windows of frames at their native resolution."""

    name: ClassVar[str] = "first_stage"
    about_lesions: ClassVar[bool] = False
    config_class = FirstStageConfig

    def __init__(self, config: FirstStageConfig, vae: AutoencoderModel | None = None) -> None:
        super().__init__()
        self.config = config
        self.vae = vae or build_autoencoder(config)
        self.register_buffer("latent_std", torch.zeros(()))  # a running average, 0 before the first step; stored as scaling_factor

    def prepare(self, cases: Sequence[Case]) -> list[Prepared]:
        return [prepare(case) for case in cases]

    def training_batch(self, pool: Sequence[Prepared], batch_size: int, rng: np.random.Generator) -> Batch:
        """image (B, 3, S, S) float32 in [-1, 1]."""
        images = []
        for _ in range(batch_size):
            chosen = pool[rng.integers(len(pool))]
            height, width = chosen.field.shape
            side = min(height, width) * float(np.exp(rng.uniform(np.log(0.25), 0.0)))
            window = random_window(rng.uniform(0.2, 0.8) * width, rng.uniform(0.2, 0.8) * height, side, 0.0, rng)
            images.append(window.crop(chosen.case.image, self.config.size_px))
        return {"image": to_unit(np.stack(images))}

    def batch_shapes(self, count: int) -> dict[str, tuple[int, ...]]:
        return {"image": (count, 3, self.config.size_px, self.config.size_px)}

    def _reconstruct(self, image: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor]:
        """(reconstruction, latents, regularisation)."""
        image = image.contiguous(memory_format=fast_layout(self.vae, image.device))
        if isinstance(self.vae, VQModel):
            latents = self.vae.encode(image).latents
            quantised, commitment, _ = self.vae.quantize(latents)
            decoded = self.vae.decoder(self.vae.post_quant_conv(quantised), quantised if self.vae.config.norm_type == "spatial" else None)
            return decoded.float(), latents.float(), commitment
        posterior = self.vae.encode(image).latent_dist
        latents = posterior.mean
        if generator is not None:
            latents = latents + posterior.std * torch.randn(latents.shape, generator=generator).to(latents)
        return self.vae.decode(latents).sample.float(), latents.float(), self.config.kl_weight * posterior.kl().mean()

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        image = batch["image"]
        decoded, latents, regular = self._reconstruct(image, generator)
        if not latents.is_meta:
            spread = latents.detach().std().to(self.latent_std)
            self.latent_std.copy_(torch.where(self.latent_std > 0, torch.lerp(self.latent_std, spread, 0.1), spread))
        pixels, edges = (decoded - image).abs().mean(), edge_error(decoded, image)
        colours = (F.avg_pool2d(decoded, 8) - F.avg_pool2d(image, 8)).abs().mean()  # tints are slow to learn from single pixels
        total = pixels + colours + self.config.edge_weight * edges + regular
        return total, {"pixels": pixels.detach(), "colours": colours.detach(), "edges": edges.detach(), "regular": regular.detach()}

    @torch.no_grad()
    def validation_losses(self, batch: Batch, seed: int) -> dict[str, float]:
        decoded, _, _ = self._reconstruct(batch["image"], None)
        return {"pixels": float((decoded - batch["image"]).abs().mean()), "edges": float(edge_error(decoded, batch["image"]))}

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.vae.register_to_config(scaling_factor=1.0 / (float(self.latent_std) or 1.0))
        self.vae.save_pretrained(folder / "vae")
        self.save_config(folder)

    @classmethod
    def load_pretrained(cls, folder: Path) -> Self:
        config = from_dict(FirstStageConfig, read_json(folder / "config.json")["config"], str(folder / "config.json"))
        model = cls(config, load_autoencoder(folder))
        model.latent_std.fill_(1.0 / float(model.vae.config.scaling_factor))
        return model


def edge_error(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute error of horizontal and vertical differences, at full, half and quarter size."""
    error = a.new_zeros(())
    for _ in range(3):
        difference = a - b
        error = (
            error
            + (difference[..., 1:] - difference[..., :-1]).abs().mean()
            + (difference[..., 1:, :] - difference[..., :-1, :]).abs().mean()
        )
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    return error / 6
