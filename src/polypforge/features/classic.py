"""Inception v3 and VGG19 with ImageNet weights, as torchvision has them."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from polypforge.features.base import Encoder

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
VGG_LAYERS = (1, 6)  # after the activations of conv1_1 and conv2_1


class TorchvisionEncoder(Encoder):
    """Inception v3 (pool features) or VGG19 (conv1_1 and conv2_1), fed with ImageNet-normalised images."""

    def __init__(self, kind: str, path: Path) -> None:
        super().__init__()
        from torchvision.models import inception_v3, vgg19

        net = vgg19(weights=None) if kind == "vgg19" else inception_v3(weights=None, init_weights=False, aux_logits=True)
        net.load_state_dict(load_file(path))
        if kind == "inception_v3":
            net.fc = nn.Identity()
        self.kind, self.net = kind, net

    def maps(self, image: Tensor) -> list[Tensor]:
        if self.kind != "vgg19":
            return super().maps(image)
        x, found = imagenet(image), []
        for i, layer in enumerate(self.net.features):
            x = layer(x)
            if i in VGG_LAYERS:
                found.append(x)
            if i == VGG_LAYERS[-1]:
                break
        return found

    def vector(self, image: Tensor) -> Tensor:
        if self.kind == "vgg19":
            return super().vector(image)
        return self.net(F.interpolate(imagenet(image), (299, 299), mode="bilinear", antialias=True))


def imagenet(image: Tensor) -> Tensor:
    """[-1, 1] -> [0, 1] -> normalised by ImageNet's mean and spread."""
    mean, std = (torch.tensor(v, device=image.device).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return ((image + 1) / 2 - mean) / std
