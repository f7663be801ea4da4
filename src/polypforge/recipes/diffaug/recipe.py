"""`diffaug`: text-guided inpainting of an asked lesion (DiffAug, Nazir, Aqeel & Setti)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from polypforge.core.seeding import numpy_rng
from polypforge.core.types import Mask
from polypforge.diffusion.gaussian import Errors
from polypforge.masks import attributes
from polypforge.masks.pseudo import lesion_free_region
from polypforge.masks.shapes import dilate
from polypforge.recipes.base import Job
from polypforge.recipes.diffaug.prompts import BANKS, describe
from polypforge.recipes.latent_inpainting.config import LatentInpaintingConfig
from polypforge.recipes.latent_inpainting.recipe import LatentInpainting, Seen, is_normal
from polypforge.recipes.windows import View


@dataclass(frozen=True)
class DiffAugConfig(LatentInpaintingConfig):
    """bank: polyp or fundus; its prompt of healthy tissue is the negative prompt unless one is given. preserve_weight: of the loss that
    keeps what lies outside the region. margin: how far the region reaches beyond the asked lesion, as a share of the window's side.
    normal_share: share of windows trained on healthy tissue."""

    bank: str = "polyp"
    preserve_weight: float = 0.1
    margin: float = 0.03
    normal_share: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bank not in BANKS:
            raise ValueError(f"bank is one of {', '.join(BANKS)}")
        if self.preserve_weight < 0 or not 0 <= self.margin < 0.5 or not 0 <= self.normal_share <= 1:
            raise ValueError("preserve_weight is not negative; margin and normal_share are shares")


def masked_with_preservation(errors: Errors, region: Tensor, clean: Tensor, weight: float) -> Tensor:
    """mean over the region of e^2, plus weight x abar x mean over the whole latent of (z0_hat - z0)^2 outside it.

    The paper's preservation term compares two given images and so has no gradient; here it holds the *predicted* clean latent. The
    factor abar undoes the 1/abar by which an error in epsilon grows in z0_hat, so that the noisiest steps don't drown the others.
    """
    inside, outside = region, 1 - region
    drawn = (errors.each * inside).flatten(1).sum(1) / (inside.expand_as(errors.each).flatten(1).sum(1)).clamp_min(1)
    kept = ((errors.clean - clean).square() * outside * errors.signal).flatten(1).mean(1)
    return (drawn * errors.weight + weight * kept).mean()


class DiffAug(LatentInpainting):
    name: ClassVar[str] = "diffaug"
    config_class: ClassVar[type] = DiffAugConfig
    words: ClassVar[tuple[str, ...]] = tuple(sorted({w for bank in BANKS.values() for w in bank.words()}))
    config: DiffAugConfig

    def draw(self, seen: Seen, rng: np.random.Generator) -> tuple[Mask, Mask, str] | None:
        bank, size = BANKS[self.config.bank], seen.field.shape[0]
        lesion = seen.lesion & seen.field
        if lesion.sum() < 12 or rng.random() < self.config.normal_share:
            free = lesion_free_region(seen.field, seen.lesions, rng, (0.12 * size, 0.45 * size))
            return None if free is None else (free, np.zeros_like(lesion), bank.normal)
        region = dilate(lesion, self.config.margin * size * rng.uniform(0.5, 1.5)) & seen.field
        if not seen.exact:
            return region, lesion, describe(bank, {})
        measured = attributes.measure(seen.image, lesion, region, seen.field, seen.field_area_px)
        return region, lesion, describe(bank, measured)

    def objective(self, errors: Errors, region: Tensor, lesion: Tensor, clean: Tensor) -> Tensor:
        return masked_with_preservation(errors, region, clean, self.config.preserve_weight)

    def default_prompt(self, job: Job) -> str:
        bank = BANKS[self.config.bank]
        if is_normal(job):
            return bank.normal
        asked = job.request.attributes
        return describe(bank, asked) if asked else bank.draw(numpy_rng(job.request.seed, "prompt"))

    def negative_prompt(self) -> str:
        return self.config.negative_prompt or BANKS[self.config.bank].normal

    def region_of(self, view: View, lesion: Mask) -> Mask:
        return dilate(lesion, self.config.margin * view.window.side_px) & view.region & view.field if lesion.any() else view.region
