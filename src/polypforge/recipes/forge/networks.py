"""The two stages of `forge`: what each is shown, what it predicts, and its loss."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from torch import Tensor, nn

from polypforge.diffusion.flow import mix, sample_times, velocity_loss
from polypforge.models.attribute_embedding import AttributeEmbedding
from polypforge.models.fill import smooth_fill
from polypforge.models.unet import apply_unet, build_unet
from polypforge.recipes.forge.config import ForgeConfig
from polypforge.recipes.forge.examples import VECTOR_DIM

STATE = 4  # red, green, blue, mask, all in [-1, 1]
CONTEXT = 5  # red, green, blue with the region filled in; region; field of view
FORESEEN_TIMES = (0.2, 0.7)  # earlier the base stage foresees too little of the lesion, later too much
FORESEEN_SHARE = 0.75


def context(image: Tensor, region: Tensor, field: Tensor) -> Tensor:
    """(B, 5, H, W): the image with the region filled smoothly from its surroundings, the region and the field as 0 / 1.

    Nothing of the image inside the region shows; pixels outside the field of view give no colour to the filling.
    """
    filled = smooth_fill(image, (1 - region) * field)
    return torch.cat([image * (1 - region) + filled * region, region, field], 1)


def shrink(image: Tensor, region: Tensor, field: Tensor, factor: int) -> tuple[Tensor, Tensor, Tensor]:
    """Area averages; a coarse pixel belongs to the region as soon as any of its fine pixels does."""
    return F.avg_pool2d(image, factor), F.max_pool2d(region, factor), (F.avg_pool2d(field, factor) > 0.5).float()


class BaseStage(nn.Module):
    """Draws image and mask together at `base_px`, from the surroundings and the request vector."""

    def __init__(self, config: ForgeConfig, unet: UNet2DModel | None = None, embedding: AttributeEmbedding | None = None) -> None:
        super().__init__()
        self.config = config
        self.unet = unet or build_unet(config.base, STATE + CONTEXT, STATE, conditional=True)
        self.embedding = embedding or AttributeEmbedding(VECTOR_DIM, 4 * config.base.widths[0])

    def forward(self, z: Tensor, time: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """Predicted clean (B, 4, S, S): the filled surroundings plus the network's correction; the mask has no such start.

        cond: context (B, 5, S, S), vector (B, VECTOR_DIM).
        """
        embedding = self.embedding(cond["vector"])
        correction = apply_unet(self.unet, torch.cat([z, cond["context"]], 1), time, self.config.base.patch_px, embedding)
        return correction + F.pad(cond["context"][:, :3], (0, 0, 0, 0, 0, 1))


class DetailStage(nn.Module):
    """Draws a coarse image and mask at full size, in the grain of the surroundings; one step, fully convolutional."""

    def __init__(self, config: ForgeConfig, unet: UNet2DModel | None = None) -> None:
        super().__init__()
        self.config = config
        self.unet = unet or build_unet(config.detail, STATE + STATE + CONTEXT, STATE, conditional=False)

    def forward(self, noise: Tensor, coarse: Tensor, context: Tensor) -> Tensor:
        """(B, 4, H, W): the enlarged coarse image plus the network's correction. noise: (B, 4, H, W), which of the possible details."""
        nothing = torch.zeros(len(noise), device=noise.device)  # diffusers' network wants a time
        seen = torch.cat([noise, coarse, context], 1)
        return coarse + apply_unet(self.unet, seen, nothing, self.config.detail.patch_px)


def enlarge(coarse: Tensor, factor: int) -> Tensor:
    return F.interpolate(coarse, scale_factor=factor, mode="bicubic", align_corners=False).clamp(-1.2, 1.2)


class Target:
    """A training batch in the networks' terms: `state`, `context` and `weight` at one resolution."""

    def __init__(self, config: ForgeConfig, image: Tensor, mask: Tensor, region: Tensor, field: Tensor, exact: Tensor) -> None:
        self.state = torch.cat([image, mask * 2 - 1], 1)
        self.context = context(image, region, field)
        lesion = (mask > 0.5).float() * region
        spatial = field * (config.surround_weight + (1 - config.surround_weight) * region + config.lesion_weight * lesion)
        mask_weight = spatial * config.mask_weight * exact.view(-1, 1, 1, 1)
        self.weight = torch.cat([spatial.expand_as(image), mask_weight], 1)


def base_target(config: ForgeConfig, batch: Mapping[str, Tensor]) -> Target:
    factor = config.detail_px // config.base_px
    image, region, field = shrink(batch["image"], batch["region"], batch["field"], factor)
    return Target(config, image, F.avg_pool2d(batch["mask"], factor), region, field, batch["exact"])


@torch.no_grad()
def foreseen(stage: BaseStage, target: Target, cond: dict[str, Tensor], generator: torch.Generator) -> Tensor:
    """(B, 4, S, S): what the base stage makes of the noisy target. It is as soft as what that stage draws, yet lies where the real lesion
    does, with which the detail stage's result can be compared.
    """
    low, high = FORESEEN_TIMES
    time = (low + (high - low) * torch.rand(len(target.state), generator=generator)).to(target.state)
    noise = torch.randn(target.state.shape, generator=generator).to(target.state)
    drawn = stage(mix(target.state, noise, time), time, cond).to(target.state).clamp(-1, 1)
    colours = torch.where(target.context[:, 3:4] > 0, drawn[:, :3], target.state[:, :3])
    return torch.cat([colours, drawn[:, 3:]], 1)


def detail_target(
    config: ForgeConfig, batch: Mapping[str, Tensor], drawn: Tensor, generator: torch.Generator, crop: bool
) -> tuple[Target, Tensor]:
    """The target at full size and the coarse image that the stage will see: mostly what the base stage foresees (`drawn`), else the
    real one, degraded. `crop` cuts random training crops.
    """
    factor = config.detail_px // config.base_px
    fine = torch.cat([batch["image"], batch["mask"] * 2 - 1], 1)
    coarse = F.avg_pool2d(fine, factor)
    count = len(fine)
    noise = torch.randn(coarse.shape, generator=generator).to(coarse)
    level = torch.rand(count, 1, 1, 1, generator=generator).to(coarse) * config.low_res_noise
    soft = F.avg_pool2d(F.pad(coarse, (2, 2, 2, 2), mode="replicate"), 3, 1)
    soft = F.avg_pool2d(soft, 3, 1)  # twice: what the base stage draws is that soft
    blurred = torch.rand(count, 1, 1, 1, generator=generator).to(coarse)
    blurred = blurred * (torch.rand(count, 1, 1, 1, generator=generator).to(coarse) < 0.5)
    coarse = coarse + blurred * (soft - coarse) + level * noise
    coarse = enlarge(torch.where(torch.rand(count, 1, 1, 1, generator=generator).to(coarse) < FORESEEN_SHARE, drawn, coarse), factor)
    parts = [batch["image"], batch["mask"], batch["region"], batch["field"], coarse]
    if crop:
        parts = _random_crops(parts, batch["region"], config.detail_crop_px, config.detail.patch_px, generator)
    image, mask, region, field, coarse = parts
    return Target(config, image, mask, region, field, batch["exact"]), coarse


def _random_crops(parts: list[Tensor], region: Tensor, size: int, grid: int, generator: torch.Generator) -> list[Tensor]:
    """The same crop of each part, one place an image: centred on a random pixel of the region, on the grid of patches."""
    full = region.shape[-1]
    crops: list[list[Tensor]] = [[] for _ in parts]
    for i in range(len(region)):
        pixels = region[i, 0].flatten().nonzero() if not region.is_meta else ()
        pick = int(pixels[torch.randint(len(pixels), (1,), generator=generator)]) if len(pixels) else full * full // 2
        top, left = (max(0, min(full - size, (p - size // 2) // grid * grid)) for p in divmod(pick, full))
        for kept, part in zip(crops, parts, strict=True):
            kept.append(part[i, :, top : top + size, left : left + size])
    return [torch.stack(kept) for kept in crops]


def base_loss(stage: BaseStage, target: Target, cond: dict[str, Tensor], generator: torch.Generator) -> Tensor:
    """Velocity loss at random times with random noise, both from `generator` (CPU)."""
    device = target.state.device
    time = sample_times(len(target.state), *stage.config.base_time, generator).to(device)
    noise = torch.randn(target.state.shape, generator=generator).to(device)
    predicted = stage(mix(target.state, noise, time), time, cond)
    return velocity_loss(predicted, target.state, time, target.weight)


@torch.no_grad()
def clean_error(stage: BaseStage, target: Target, cond: dict[str, Tensor], time: float, generator: torch.Generator) -> float:
    """Weighted mean square error of the clean estimate at one time."""
    times = torch.full((len(target.state),), time, device=target.state.device)
    noise = torch.randn(target.state.shape, generator=generator).to(target.state)
    predicted = stage(mix(target.state, noise, times), times, cond)
    return float(((predicted - target.state).square() * target.weight).sum() / target.weight.sum())
