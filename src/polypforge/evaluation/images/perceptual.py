"""LPIPS (Zhang et al. 2018): how different two pictures look to a network."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor

from polypforge.core.errors import UserError
from polypforge.features.base import Encoder


def linear_weights() -> list[Tensor]:
    """The published weights of VGG16's five layers, as torchmetrics ships them. (channels,) each."""
    path = Path(str(files("torchmetrics"))) / "functional" / "image" / "lpips_models" / "vgg.pth"
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path} is missing: install torchmetrics 1.6 or newer.") from error
    return [stored[f"lin{k}.model.1.weight"].flatten() for k in range(5)]


@torch.inference_mode()
def unit_layers(encoder: Encoder, images: Tensor) -> list[Tensor]:
    """(B, 3, S, S) in [-1, 1] -> for each layer (B, C, h, w) features of unit length at each place, on the CPU."""
    return [(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)).cpu() for x in (m.float() for m in encoder.maps(images))]


def perceptual_distance(a: Sequence[Tensor], b: Sequence[Tensor], weights: Sequence[Tensor] | None = None) -> Tensor:
    """`unit_layers` of as many pictures twice -> (B,): squared differences, weighted by channel, averaged over places, summed over layers.

    weights: None counts every channel of a layer equally, with sum 1 (a network without LPIPS weights).
    """
    total = torch.zeros(len(a[0]))
    for layer, (x, y) in enumerate(zip(a, b, strict=True)):
        weight = torch.full((x.shape[1],), 1 / x.shape[1]) if weights is None else weights[layer]
        total += ((x - y).square() * weight.view(1, -1, 1, 1)).sum(1).mean((-2, -1))
    return total
