"""Inception v3, VGG16 and VGG19 with ImageNet weights, as torchvision has them."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from polypforge.features.base import Encoder

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
VGG_LAYERS = {  # after which activations
    "vgg19": (1, 6),  # of conv1_1 and conv2_1: diffuse-gen's style loss
    "vgg16": (3, 8, 15, 22, 29),  # before each halving: LPIPS
}


class TorchvisionEncoder(Encoder):
    """Inception v3 (pool features) or a VGG (feature maps, and their last mean), fed with ImageNet-normalised images."""

    def __init__(self, kind: str, path: Path) -> None:
        super().__init__()
        from torchvision.models import inception_v3, vgg16, vgg19

        if kind in VGG_LAYERS:
            net = {"vgg16": vgg16, "vgg19": vgg19}[kind](weights=None)
        else:  # transform_input, as torchvision sets it for its own weights: they were trained on -1 to 1
            net = inception_v3(weights=None, init_weights=False, transform_input=True)
        net.load_state_dict(load_file(path))
        if kind == "inception_v3":
            net.fc = nn.Identity()
        self.kind, self.net = kind, net

    def maps(self, image: Tensor) -> list[Tensor]:
        if self.kind not in VGG_LAYERS:
            return super().maps(image)
        x, found = imagenet(image), []
        for i, layer in enumerate(self.net.features):
            x = layer(x)
            if i in VGG_LAYERS[self.kind]:
                found.append(x)
            if i == VGG_LAYERS[self.kind][-1]:
                break
        return found

    def vector(self, image: Tensor) -> Tensor:
        if self.kind in VGG_LAYERS:
            return super().vector(image)
        return self.net(F.interpolate(imagenet(image), (299, 299), mode="bilinear", antialias=True))


def imagenet(image: Tensor) -> Tensor:
    """[-1, 1] -> [0, 1] -> normalised by ImageNet's mean and spread."""
    mean, std = (torch.tensor(v, device=image.device).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return ((image + 1) / 2 - mean) / std
