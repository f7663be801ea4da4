"""The U-Net of pixel-space recipes: diffusers' `UNet2DModel` over patches of pixels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from torch import Tensor

from polypforge.models.precision import fast_layout

TIME_SCALE = 1000.0  # UNet2DModel's sinusoidal embedding expects times of this order


@dataclass(frozen=True)
class UNetShape:
    """Size of a patch U-Net. `attention[i]` puts self-attention at level i, mid_attention in the middle (null: as at the last level);
    `patch_px` pixels a side make one token. scale_shift: the time scales and shifts features (Dhariwal & Nichol 2021) instead of being
    added. resample: "conv", or "resnet" (residual blocks that resample, as there)."""

    widths: tuple[int, ...]
    attention: tuple[bool, ...]
    layers: int = 1
    patch_px: int = 4
    norm_groups: int = 32
    head_dim: int = 32
    mid_attention: bool | None = None
    scale_shift: bool = False
    resample: str = "conv"

    def __post_init__(self) -> None:
        if self.resample not in ("conv", "resnet"):
            raise ValueError("resample is conv or resnet")
        if len(self.widths) != len(self.attention):
            raise ValueError("`attention` needs one entry for each of `widths`")
        if any(w % self.norm_groups for w in self.widths):
            raise ValueError(f"every width must be a multiple of norm_groups = {self.norm_groups}")

    @property
    def step_px(self) -> int:
        """Sides of its images are multiples of this."""
        return self.patch_px * 2 ** (len(self.widths) - 1)


def build_unet(shape: UNetShape, in_channels: int, out_channels: int, conditional: bool) -> UNet2DModel:
    """A U-Net for images of `in_channels`; its stored form works on tokens of `patch_px`^2 as many channels.

    conditional: whether a vector of width `4 * widths[0]` is added to the time embedding.
    The output layer starts at zero, so that an untrained residual network changes nothing.
    """
    area = shape.patch_px**2
    down = tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in shape.attention)
    up = tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(shape.attention))
    unet = UNet2DModel(
        in_channels=in_channels * area,
        out_channels=out_channels * area,
        block_out_channels=shape.widths,
        layers_per_block=shape.layers,
        down_block_types=down,
        up_block_types=up,
        norm_num_groups=shape.norm_groups,
        attention_head_dim=shape.head_dim,
        add_attention=shape.attention[-1] if shape.mid_attention is None else shape.mid_attention,
        resnet_time_scale_shift="scale_shift" if shape.scale_shift else "default",
        downsample_type=shape.resample,
        upsample_type=shape.resample,
        class_embed_type="identity" if conditional else None,
    )
    torch.nn.init.zeros_(unet.conv_out.weight)
    torch.nn.init.zeros_(unet.conv_out.bias)
    return unet


def apply_unet(unet: UNet2DModel, image: Tensor, time: Tensor, patch_px: int, embedding: Tensor | None = None) -> Tensor:
    """(B, C, H, W) and times in [0, 1] of shape (B,) -> (B, out, H, W) float32. H and W are multiples of `patch_px`."""
    return _on_patches(unet, image, time * TIME_SCALE, patch_px, embedding)


def apply_discrete_unet(unet: UNet2DModel, image: Tensor, times: Tensor, patch_px: int) -> Tensor:
    """The same for integer times (B,) of a discrete diffusion."""
    return _on_patches(unet, image, times, patch_px, None)


def _on_patches(unet: UNet2DModel, image: Tensor, times: Tensor, patch_px: int, embedding: Tensor | None) -> Tensor:
    tokens = F.pixel_unshuffle(image, patch_px).contiguous(memory_format=fast_layout(unet, image.device))
    out = unet(tokens, times, class_labels=embedding).sample
    return F.pixel_shuffle(out.float(), patch_px)
