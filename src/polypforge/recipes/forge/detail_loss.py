"""How the detail stage learns: from what the coarse image foresees, pixel by pixel, and from the texture that it doesn't."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from polypforge.recipes.forge.networks import Target
from polypforge.recipes.forge.texture_loss import texture_error

PIXEL_SHARE = 0.25  # detail has its price, or patterns grow that are nobody's


def rebuilt_error(made: Tensor, target: Target, factor: int) -> Tensor:
    """Mean absolute error inside the region: of colours, as the coarse image would show them and (PIXEL_SHARE of it) pixel by pixel,
    plus that of the mask. What `made` shows outside the region is not used, so it is not judged.
    """
    region = target.context[:, 3:4]
    error, weight = region * (made - target.state), region * target.weight
    coarse = _mean(F.avg_pool2d(error[:, :3], factor).abs(), F.avg_pool2d(weight[:, :3], factor))
    fine = _mean(error[:, :3].abs(), weight[:, :3])
    return (1 - PIXEL_SHARE) * coarse + PIXEL_SHARE * fine + _mean(error[:, 3:].abs(), weight[:, 3:])


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    return (values * weight).sum() / weight.sum().clamp_min(1e-6)


def drawn_texture_error(made: Tensor, target: Target, patch_px: int, generator: torch.Generator) -> Tensor:
    """`texture_error` of the colours inside the region, where alone what was drawn is used."""
    region, real = target.context[:, 3:4], target.state[:, :3]
    return texture_error(torch.where(region > 0, made[:, :3], real), real, region, patch_px, generator)
