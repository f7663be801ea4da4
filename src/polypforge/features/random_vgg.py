"""A VGG16 that never learned anything, with fixed weights: an embedding that favours no kind of picture (Naeem et al. 2020)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polypforge.features.base import Encoder
from polypforge.features.classic import imagenet

WIDTHS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)  # 0: halve
LOOK_PX = 128
DIMENSIONS = 64
SEED = 20200221


class RandomVGG(Encoder):
    """64 numbers of a frame at 128 px. The weights are drawn by NumPy from a fixed seed, so they are the same everywhere."""

    look_px = LOOK_PX

    def __init__(self) -> None:
        super().__init__()
        rng = np.random.default_rng(SEED)
        layers: list[nn.Module] = []
        before = 3
        for width in WIDTHS:
            if width == 0:
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [_filled(nn.Conv2d(before, width, 3, 1, 1), before * 9, rng), nn.ReLU()]
            before = width
        side = LOOK_PX // 32
        self.stack = nn.Sequential(*layers)
        self.head = _filled(nn.Linear(before * side * side, DIMENSIONS), before * side * side, rng)
        self.name, self.version = "random_vgg", f"numpy-{SEED}"

    def maps(self, image: Tensor) -> list[Tensor]:
        """After the last activation before each halving."""
        found, x = [], imagenet(image)
        for layer in self.stack:
            if isinstance(layer, nn.MaxPool2d):
                found.append(x)
            x = layer(x)
        return found

    def vector(self, image: Tensor) -> Tensor:
        if image.shape[-1] != LOOK_PX:
            image = F.interpolate(image, (LOOK_PX, LOOK_PX), mode="bilinear", antialias=True)
        return self.head(self.stack(imagenet(image)).flatten(1))


def _filled(layer, inputs: int, rng: np.random.Generator):
    """He-normal weights, no bias."""
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(rng.standard_normal(tuple(layer.weight.shape), np.float32) * np.float32(np.sqrt(2 / inputs))))
        layer.bias.zero_()
    return layer
