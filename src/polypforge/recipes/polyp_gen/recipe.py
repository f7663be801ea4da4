"""`polyp_gen`: repaint a region as `Polyp` or `Normal` (Polyp-Gen, arXiv 2501.16679)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from polypforge.core.types import Mask
from polypforge.diffusion.gaussian import Errors
from polypforge.masks.pseudo import POLYGONS, lesion_free_region
from polypforge.masks.shapes import bounding_box, components, dilate
from polypforge.recipes.latent_inpainting.config import LatentInpaintingConfig
from polypforge.recipes.latent_inpainting.recipe import LatentInpainting, Seen, enlarged_box
from polypforge.recipes.windows import View

POLYP_PROMPT, NORMAL_PROMPT = "Polyp", "Normal"
PAPER_PX = 512  # the size at which the paper gives its pixel distances
REGIONS = ("box", "polygon", "outline")


@dataclass(frozen=True)
class PolypGenConfig(LatentInpaintingConfig):
    """lesion_weight: lambda of the lesion-guided loss. polyp_share: share of polyp frames' windows trained to draw the polyp, the others
    draw normal tissue beside it. enlarge_px: how far a region reaches beyond the lesion. sides_px: of random regions. Both at 512.
    regions: shapes of regions around lesions: the enlarged "box", a "polygon" in it (both the paper's), or the lesion's own "outline"
    dilated as far, which lets the label keep the asked shape. polygons: "inscribed" (convex, as the paper says) or "radial" (as its
    program draws them)."""

    lesion_weight: float = 0.5
    polyp_share: float = 0.6
    enlarge_px: float = 15.0
    sides_px: tuple[float, float] = (30.0, 200.0)
    regions: tuple[str, ...] = ("box", "polygon")
    polygons: str = "inscribed"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.regions or set(self.regions) - set(REGIONS):
            raise ValueError(f"regions are some of {', '.join(REGIONS)}")
        if self.polygons not in POLYGONS:
            raise ValueError(f"polygons is one of {', '.join(POLYGONS)}")
        if self.lesion_weight < 0 or self.enlarge_px < 0 or not 0 <= self.polyp_share <= 1:
            raise ValueError("lesion_weight and enlarge_px are not negative, polyp_share lies between 0 and 1")


def lesion_guided(errors: Errors, lesion: Tensor, weight: float) -> Tensor:
    """mean(w e^2) + lambda mean(w (m e)^2), both means over all latent elements (paper, equation 3), w the SNR weight of each image.

    The authors' program drops the second term as soon as w is not 1; here both compose.
    """
    per_image = errors.each.flatten(1).mean(1) + weight * (errors.each * lesion).flatten(1).mean(1)
    return (per_image * errors.weight).mean()


class PolypGen(LatentInpainting):
    name: ClassVar[str] = "polyp_gen"
    config_class: ClassVar[type] = PolypGenConfig
    polyp_prompt: ClassVar[str] = POLYP_PROMPT
    normal_prompt: ClassVar[str] = NORMAL_PROMPT
    words: ClassVar[tuple[str, ...]] = ("polyp", "normal")
    config: PolypGenConfig

    def draw(self, seen: Seen, rng: np.random.Generator) -> tuple[Mask, Mask, str] | None:
        config, size = self.config, seen.field.shape[0]
        lesion = seen.lesion
        margin = config.enlarge_px * size / PAPER_PX
        if lesion.sum() >= 12 and rng.random() < config.polyp_share:
            region = self._around(lesion, margin, seen.exact, rng) & seen.field
            return (region, lesion & region, POLYP_PROMPT) if (lesion & region).any() else None
        low, high = (side * size / PAPER_PX for side in config.sides_px)
        avoid = np.zeros_like(lesion)
        for part in components(seen.lesions):
            avoid |= enlarged_box(part, margin, lesion.shape)
        free = lesion_free_region(seen.field, avoid, rng, (max(3.0, low), high), config.polygons)
        return None if free is None else (free, np.zeros_like(lesion), NORMAL_PROMPT)

    def _around(self, lesion: Mask, margin_px: float, exact: bool, rng: np.random.Generator) -> Mask:
        kinds: Sequence[str] = [k for k in self.config.regions if exact or k != "outline"] or ["box"]
        kind = kinds[rng.integers(len(kinds))]
        if kind == "outline":
            return dilate(lesion, margin_px * rng.uniform(0.7, 1.3))
        box = enlarged_box(lesion, margin_px, lesion.shape)
        return box if kind == "box" else POLYGONS[self.config.polygons](bounding_box(box), lesion.shape, rng)

    def objective(self, errors: Errors, region: Tensor, lesion: Tensor, clean: Tensor) -> Tensor:
        return lesion_guided(errors, lesion, self.config.lesion_weight)

    def region_of(self, view: View, lesion: Mask) -> Mask:
        """The asked lesion's box (or its outline, where the model was trained so) with 15 px around it, if the request allows."""
        if not lesion.any():
            return view.region
        margin = self.config.enlarge_px * view.window.side_px / PAPER_PX
        wide = dilate(lesion, margin) if "outline" in self.config.regions else enlarged_box(lesion, margin, lesion.shape)
        return wide & view.region & view.field
