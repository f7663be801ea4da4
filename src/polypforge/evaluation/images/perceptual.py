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
def perceptual_distance(encoder: Encoder, a: Tensor, b: Tensor, weights: Sequence[Tensor] | None = None) -> Tensor:
    """(B, 3, S, S) in [-1, 1] twice -> (B,): squared differences of unit-length features, weighted by channel, averaged over places, summed
    over layers. weights: None counts every channel once over their number (a network without LPIPS weights)."""
    total = torch.zeros(len(a))
    for layer, (x, y) in enumerate(zip(encoder.maps(a), encoder.maps(b), strict=True)):
        difference = (_unit(x.float()) - _unit(y.float())).square()
        weight = torch.full((x.shape[1],), 1 / x.shape[1]) if weights is None else weights[layer]
        total += (difference * weight.view(1, -1, 1, 1)).sum(1).mean((-2, -1)).cpu()
    return total


def _unit(features: Tensor) -> Tensor:
    return features / (features.square().sum(1, keepdim=True).sqrt() + 1e-10)
