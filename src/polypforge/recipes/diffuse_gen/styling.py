"""Styling: the reverse diffusion of an inpainted image, guided towards the look of its real source (diffuse-gen, section 2.3).

Seven losses act on the clean estimate; `StylingConfig` holds their weights. Each is a function of (B, 3, S, S) images in [-1, 1].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from torch import Tensor

from polypforge.features import Encoder
from polypforge.recipes.diffuse_gen.config import StylingConfig


def patch_nce(made: list[Tensor], given: list[Tensor], patches: int, tau: float, generator: torch.Generator) -> Tensor:
    """(B,) contrastive loss of features (B, C, h, w): a patch must resemble its own place more than others (Park et al. 2020), summed
    over the maps."""
    total = made[0].new_zeros(len(made[0]))
    for a, b in zip(made, given, strict=True):
        places = torch.randperm(a.shape[-2] * a.shape[-1], generator=generator)[:patches].to(a.device)
        a, b = (F.normalize(x.flatten(2)[:, :, places].transpose(1, 2), dim=2) for x in (a, b))
        likeness = a @ b.transpose(1, 2) / tau  # (B, P, P)
        target = torch.arange(len(places), device=a.device).expand(len(a), -1)
        total = total + F.cross_entropy(likeness.flatten(0, 1), target.flatten(), reduction="none").view(len(a), -1).mean(1)
    return total


def unet_features(unet: UNet2DModel, state: Tensor, times: Tensor) -> list[Tensor]:
    """What the down blocks of the U-Net give, fine to coarse."""
    found: list[Tensor] = []
    hooks = [block.register_forward_hook(lambda m, i, o: found.append(o[0])) for block in unet.down_blocks]
    try:
        unet(state, times)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def perceptual_distance(encoder: Encoder, made: Tensor, given: Tensor) -> Tensor:
    """(B,) mean squared difference of feature maps, summed over the first two levels."""
    pairs = list(zip(encoder.maps(made), encoder.maps(given), strict=True))[:2]
    return torch.stack([(a - b).square().flatten(1).mean(1) for a, b in pairs]).sum(0)


def vector_distance(encoder: Encoder, made: Tensor, given: Tensor) -> Tensor:
    """(B,) mean squared difference of the encoder's vectors."""
    return (encoder.vector(made) - encoder.vector(given)).square().mean(1)


def pixel_distance(made: Tensor, given: Tensor) -> Tensor:
    return (made - given).square().flatten(1).mean(1)


def out_of_range(made: Tensor) -> Tensor:
    """(B,) mean squared excess beyond [-1, 1]."""
    return (made - made.clamp(-1, 1)).square().flatten(1).mean(1)


class StylingLoss:
    """loss(clean, sigma) -> (B,) for `diffusion.loss_guidance`. clean: (B, 4, S, S), of which the mask channel is left alone.

    given: the inpainted images, real: their real sources, (B, 3, S, S). unet_maps(state of 4 channels) gives U-Net features.
    """

    def __init__(
        self, config: StylingConfig, given: Tensor, real: Tensor, unet_maps, perceptual: Encoder | None, semantics: Encoder | None
    ) -> None:
        self.config, self.given, self.real = config, given, real
        self.unet_maps, self.perceptual, self.semantics = unet_maps, perceptual, semantics
        self.generator = torch.Generator().manual_seed(0)
        self.before: Tensor | None = None

    def terms(self, clean: Tensor) -> dict[str, Tensor]:
        """Each active loss before its weight."""
        config, image = self.config, clean[:, :3]
        found: dict[str, Tensor] = {}
        if config.zecon:
            mask = clean[:, 3:].detach()
            made, given = self.unet_maps(torch.cat([image, mask], 1)), self.unet_maps(torch.cat([self.given, mask], 1))
            found["zecon"] = patch_nce(made, given, config.patches, config.tau, self.generator)
        if config.vgg and self.perceptual is not None:
            found["vgg"] = perceptual_distance(self.perceptual, image, self.given)
        if config.mse:
            found["mse"] = pixel_distance(image, self.given)
        if config.style and self.semantics is not None:
            found["style"] = vector_distance(self.semantics, image, self.real)
        if config.l2:
            found["l2"] = pixel_distance(image, self.real)
        if config.semantic and self.semantics is not None and self.before is not None:
            found["semantic"] = -vector_distance(self.semantics, image, self.before)
        if config.range:
            found["range"] = out_of_range(image)
        return found

    def __call__(self, clean: Tensor, sigma: Tensor) -> Tensor:
        terms = self.terms(clean)
        self.before = clean[:, :3].detach()
        if not terms:
            return clean.flatten(1).sum(1) * 0
        return torch.stack([getattr(self.config, name) * value for name, value in terms.items()]).sum(0)
