"""`blended_latent`: text-guided latent blending without training (Avrahami et al. 2023), a baseline.

With pretrained weights nothing is learned. From scratch, the small text-to-image model that it needs is trained on the frames first.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from polypforge.core.types import Mask
from polypforge.masks.pseudo import lesion_region
from polypforge.models.latent_backbone import LatentBackbone
from polypforge.recipes.latent_inpainting.config import LatentInpaintingConfig
from polypforge.recipes.latent_inpainting.recipe import BLEND, LatentInpainting, Seen


class BlendedLatent(LatentInpainting):
    name: ClassVar[str] = "blended_latent"
    config_class: ClassVar[type] = LatentInpaintingConfig
    condition: ClassVar[str] = BLEND

    def __init__(self, config: LatentInpaintingConfig, backbone: LatentBackbone | None = None) -> None:
        super().__init__(config, backbone)
        if config.backbone.weights:
            self.backbone.unet.requires_grad_(False)

    def draw(self, seen: Seen, rng: np.random.Generator) -> tuple[Mask, Mask, str] | None:
        """Plain text-to-image examples: the region is of no matter to the objective, the prompt says whether the window shows a polyp."""
        if seen.lesion.sum() < 12:
            return seen.field, np.zeros_like(seen.lesion), self.normal_prompt
        return lesion_region(seen.lesion, seen.field, rng, seen.exact), seen.lesion, self.polyp_prompt
