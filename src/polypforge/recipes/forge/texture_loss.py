"""Detail that can't be foreseen is compared by its kinds, not by its places: a sliced Wasserstein distance of random filters' responses.

An error in pixels makes smooth lesions, since the mean of all possible details has none. Here what filters answer on a tile is put in order
before it is compared, so any arrangement of the real tile's texture is as good as its own (Heitz et al. 2021, A Sliced Wasserstein Loss for
Neural Texture Synthesis). Filters are random, new at each step: untrained ones tell textures apart (Ustyuzhaninov et al. 2016, Texture
Synthesis Using Shallow Convolutional Networks with Random Filters), and there is nothing in them to please but the texture.

A network that draws patches leaves their grid in what it draws. So answers are also put in order by their place in the patch, over the
whole crop: real texture has the same at all of them. That has as much say as all the rest, or a weave shows to the eye.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

TILE_PX = 32  # texture is compared with that of the same place: a lesion's border isn't its middle
FILTERS = 12  # of each layer and scale
WIDTHS = (5, 3)  # of the two layers' filters
GRID_WIDTH = 3  # of those that look for the patches' borders
SCALES = (1, 2)
LEAST_STRENGTH = 1e-3  # in a range of colours from -1 to 1
OUTSIDE = 1e4  # stands for pixels that don't count, so that they come last in both orders


def texture_error(made: Tensor, real: Tensor, region: Tensor, patch_px: int, generator: torch.Generator) -> Tensor:
    """Mean distance of ordered responses, as a share of how strong the real ones are in that image; on tiles, plus by place in the patch.

    made, real: (B, 3, H, W), equal outside the region (B, 1, H, W; 0 / 1); H and W are TILE_PX or multiples of twice that, and of
    `patch_px`, the side of the patches that were drawn. Filters come from `generator` (CPU).
    Plain colours don't count: the first layer's filters add up to nothing.
    """
    made, real, region = made.float(), real.float(), region.float()
    errors = []
    with torch.autocast("cpu" if made.is_meta else made.device.type, enabled=False):  # faint differences of large sums
        bank = _filters(made.shape[1], GRID_WIDTH, generator).to(made)
        a, b = (F.conv2d(x, bank, padding="same") for x in (made, real))
        grid = _ordered_distance(a, b, region == 1, partial(_places, patch_px=patch_px))
        for scale in SCALES:
            a, b, inside = (F.avg_pool2d(x, scale) for x in (made, real, region))
            for width in WIDTHS:
                bank = _filters(a.shape[1], width, generator).to(a)
                a, b = F.conv2d(a, bank, padding="same"), F.conv2d(b, bank, padding="same")
                errors.append(_ordered_distance(a, b, inside == 1, _tiles))
                a, b = F.relu(a), F.relu(b)
    return grid + torch.stack(errors).mean()


def _filters(channels: int, width: int, generator: torch.Generator) -> Tensor:
    """(FILTERS, channels, width, width), each with length one and, in each channel, sum zero."""
    bank = torch.randn(FILTERS, channels, width, width, generator=generator)
    bank = bank - bank.mean((2, 3), keepdim=True)
    return bank / bank.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def _ordered_distance(a: Tensor, b: Tensor, inside: Tensor, sets: Callable[[Tensor], Tensor]) -> Tensor:
    """Mean of |a - b| over the pixels `inside` (B, 1, H, W) after each filter's answers were put in order, set by set of pixels."""
    count = inside.sum((2, 3), keepdim=True).clamp_min(1)
    strength = ((b.abs() * inside).sum((2, 3), keepdim=True) / count).clamp_min(LEAST_STRENGTH).detach()
    rows = [sets((x / strength).masked_fill(~inside, OUTSIDE)).sort(dim=-1).values for x in (a, b)]
    return ((rows[0] - rows[1]).abs().sum((2, 3)) / count.flatten(1)).mean()


def _tiles(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, tiles, pixels)."""
    side = min(TILE_PX, *x.shape[-2:])
    return x.unflatten(-1, (-1, side)).unflatten(-3, (-1, side)).transpose(-3, -2).flatten(-2).flatten(2, 3)


def _places(x: Tensor, patch_px: int) -> Tensor:
    """(B, C, H, W) -> (B, C, places in a patch, patches)."""
    return F.pixel_unshuffle(x, patch_px).unflatten(1, (x.shape[1], -1)).flatten(3)
