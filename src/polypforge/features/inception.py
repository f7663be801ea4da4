"""The Inception network of FID: TensorFlow's weights of 2015, its resizing and its pooling (Heusel et al. 2017)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image as PIL
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models.inception import BasicConv2d, Inception3, InceptionA, InceptionC, InceptionE

from polypforge.core.types import Image
from polypforge.features.base import Encoder

INPUT_PX = 299
WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"  # the hash is the beginning of its SHA-256
SOURCE = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{WEIGHTS}"
RESIZES = ("tensorflow", "clean")


class _A(InceptionA):
    def _forward(self, x: Tensor) -> list[Tensor]:
        pooled = self.branch_pool(_inner_mean(x))
        return [self.branch1x1(x), self.branch5x5_2(self.branch5x5_1(x)), _chain(x, self, "branch3x3dbl_", 3), pooled]


class _C(InceptionC):
    def _forward(self, x: Tensor) -> list[Tensor]:
        pooled = self.branch_pool(_inner_mean(x))
        return [self.branch1x1(x), _chain(x, self, "branch7x7_", 3), _chain(x, self, "branch7x7dbl_", 5), pooled]


class _E(InceptionE):
    """last: the very last block pools by maximum, a slip of the original that its figures depend on."""

    def __init__(self, channels: int, last: bool) -> None:
        super().__init__(channels)
        self.last = last

    def _forward(self, x: Tensor) -> list[Tensor]:
        one, double = self.branch3x3_1(x), self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        wide = torch.cat([self.branch3x3_2a(one), self.branch3x3_2b(one)], 1)
        deep = torch.cat([self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)], 1)
        around = F.max_pool2d(x, 3, 1, 1) if self.last else _inner_mean(x)
        return [self.branch1x1(x), wide, deep, self.branch_pool(around)]


def _inner_mean(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def _chain(x: Tensor, block: nn.Module, prefix: str, count: int) -> Tensor:
    for k in range(1, count + 1):
        x = getattr(block, f"{prefix}{k}")(x)
    return x


def inception_network() -> Inception3:
    """Untrained, with names as in `WEIGHTS`, and without what FID doesn't use."""
    net = Inception3(num_classes=1008, aux_logits=False, transform_input=False, init_weights=False)
    for name, width, pool in (("Mixed_5b", 192, 32), ("Mixed_5c", 256, 64), ("Mixed_5d", 288, 64)):
        setattr(net, name, _A(width, pool))
    for name, width in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
        setattr(net, name, _C(768, width))
    net.Mixed_7b, net.Mixed_7c = _E(1280, last=False), _E(2048, last=True)
    return net.eval()


class FidInception(Encoder):
    """Pool features (2048) of the network. resize: "tensorflow" (as FID was defined) or "clean" (Parmar et al. 2022)."""

    def __init__(self, net: Inception3, resize: str = "tensorflow") -> None:
        super().__init__()
        if resize not in RESIZES:
            raise ValueError(f"resize is one of {', '.join(RESIZES)}")
        self.net, self.kind, self.look_px = _fused(net.eval()), resize, INPUT_PX

    @property
    def resizing(self) -> str:
        return f"{self.kind} to {INPUT_PX}"

    def look(self, image: Image) -> Tensor:
        resized = tensorflow_resize(image) if self.kind == "tensorflow" else clean_resize(image)
        return torch.from_numpy(resized).permute(2, 0, 1) / 127.5 - 1

    def vector(self, image: Tensor) -> Tensor:
        """(B, 3, 299, 299) as `look` gives it."""
        x = self._trunk(((image + 1) * 127.5 - 128) / 128)
        return x.mean((-2, -1))

    def logits(self, features: Tensor) -> Tensor:
        """(B, 2048) features -> (B, 1008), without the bias, as the Inception score wants it."""
        return features @ self.net.fc.weight.T

    def _trunk(self, x: Tensor) -> Tensor:
        net = self.net
        x = net.maxpool1(net.Conv2d_2b_3x3(net.Conv2d_2a_3x3(net.Conv2d_1a_3x3(x))))
        x = net.maxpool2(net.Conv2d_4a_3x3(net.Conv2d_3b_1x1(x)))
        for name in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"):
            x = getattr(net, f"Mixed_{name}")(x)
        return x


def _fused(net: Inception3) -> Inception3:
    """The same network with every batch norm folded into its convolution, weights in the layout that they are multiplied in."""
    for block in net.modules():
        if isinstance(block, BasicConv2d) and isinstance(block.bn, nn.BatchNorm2d):
            block.conv, block.bn = fuse_conv_bn_eval(block.conv, block.bn), nn.Identity()
    return net.to(memory_format=torch.channels_last)


def tensorflow_resize(image: Image, size: int = INPUT_PX) -> NDArray[np.float32]:
    """(H, W, 3) uint8 -> (size, size, 3) float32 in 0..255: bilinear without antialiasing, corners at (0, 0), as TensorFlow 1 did."""
    return _interpolated(_interpolated(image.astype(np.float32), size, axis=0), size, axis=1)


def _interpolated(values: NDArray[np.float32], size: int, axis: int) -> NDArray[np.float32]:
    length = values.shape[axis]
    places = np.arange(size, dtype=np.float32) * np.float32(length / size)
    low = places.astype(int)
    share = np.expand_dims(places - low, tuple(k for k in range(values.ndim) if k != axis)).astype(np.float32)
    before, after = values.take(low, axis), values.take(np.minimum(low + 1, length - 1), axis)
    return before + (after - before) * share


def clean_resize(image: Image, size: int = INPUT_PX) -> NDArray[np.float32]:
    """The same by Pillow's antialiased bicubic on floats, clipped to 0..255: the choice of clean-fid."""
    channels = [np.asarray(PIL.fromarray(image[..., c].astype(np.float32)).resize((size, size), PIL.Resampling.BICUBIC)) for c in range(3)]
    return np.clip(np.stack(channels, -1), 0, 255)


def weights_file() -> Path:
    """Where torch.hub keeps the weights."""
    return Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS


__all__ = ["SOURCE", "WEIGHTS", "FidInception", "clean_resize", "inception_network", "tensorflow_resize", "weights_file"]
