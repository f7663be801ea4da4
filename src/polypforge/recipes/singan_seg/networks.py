"""Single-image GANs, many at once: the networks of M images run side by side as groups of one convolution."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STATE = 4  # red, green, blue, mask


class Convolutions(nn.Sequential):
    """`layers` 3x3 convolutions for each of `images` groups: (B, images * inputs, H, W) -> (B, images * outputs, H, W)."""

    def __init__(self, images: int, inputs: int, width: int, outputs: int, layers: int) -> None:
        parts: list[nn.Module] = []
        for k in range(layers):
            first, last = k == 0, k == layers - 1
            parts.append(
                nn.Conv2d(images * (inputs if first else width), images * (outputs if last else width), 3, padding=1, groups=images)
            )
            if not last:
                parts += [nn.GroupNorm(images, images * width), nn.LeakyReLU(0.2)]
        super().__init__(*parts)


class Scale(nn.Module):
    """Generator and critic of one scale."""

    def __init__(self, images: int, width: int, layers: int) -> None:
        super().__init__()
        self.generator = Convolutions(images, STATE, width, STATE, layers)
        self.critic = Convolutions(images, STATE, width, 1, layers)

    def draw(self, noise: Tensor, coarse: Tensor) -> Tensor:
        """coarse + what the generator adds to it under noise (Shaham et al. 2019, equation 3)."""
        return (coarse + torch.tanh(self.generator(noise + coarse))).clamp(-1.2, 1.2)


def sizes(size_px: int, least_px: int, factor: float) -> list[int]:
    """Sides of the pyramid, coarse to fine: `factor` from one to the next."""
    found = [size_px]
    while round(found[-1] * factor) >= least_px:
        found.append(round(found[-1] * factor))
    return found[::-1]


def resized(image: Tensor, side: int) -> Tensor:
    """Bicubic, antialiased."""
    return F.interpolate(image, (side, side), mode="bicubic", align_corners=False, antialias=True)


def gradient_penalty(critic, real: Tensor, fake: Tensor, share: Tensor) -> Tensor:
    """(|grad critic| - 1)^2 at a mix of real and fake (Gulrajani et al. 2017), meant over images."""
    mixed = (share * real + (1 - share) * fake).detach().requires_grad_(True)
    (slope,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
    images = slope.shape[1] // STATE
    norm = slope.reshape(len(slope), images, -1).norm(dim=2)
    return (norm - 1).square().mean()
