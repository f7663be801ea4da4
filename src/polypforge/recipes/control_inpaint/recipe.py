"""`control_inpaint`: a ControlNet that is shown the lesion's mask over the image (ControlPolypNet), a baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np

from polypforge.core.console import console
from polypforge.core.types import Case, Mask
from polypforge.data.prepared import Prepared
from polypforge.masks.pseudo import lesion_free_region, lesion_region
from polypforge.recipes.latent_inpainting.config import LatentInpaintingConfig
from polypforge.recipes.latent_inpainting.recipe import CONTROL, LatentInpainting, Seen

FOCUS_PX = 256


@dataclass(frozen=True)
class ControlInpaintConfig(LatentInpaintingConfig):
    """least_focus: frames whose Laplacian varies less (8-bit units squared, at 256 px) are blurred, flushed or empty and teach nothing."""

    least_focus: float = 12.0


class ControlInpaint(LatentInpainting):
    name: ClassVar[str] = "control_inpaint"
    config_class: ClassVar[type] = ControlInpaintConfig
    condition: ClassVar[str] = CONTROL
    config: ControlInpaintConfig

    def prepare(self, cases: Sequence[Case]) -> list[Prepared]:
        informative = [p for p in super().prepare(cases) if focus(p) >= self.config.least_focus]
        if len(informative) < len(cases):
            console.print(f"Leaving out {len(cases) - len(informative)} of {len(cases)} frames as uninformative (blurred or empty).")
        return informative

    def draw(self, seen: Seen, rng: np.random.Generator) -> tuple[Mask, Mask, str] | None:
        if seen.lesion.sum() < 12:
            free = lesion_free_region(seen.field, seen.lesions, rng, (0.15 * len(seen.field), 0.5 * len(seen.field)))
            return None if free is None else (free, np.zeros_like(seen.lesion), self.normal_prompt)
        region = lesion_region(seen.lesion, seen.field, rng, seen.exact)
        return region, seen.lesion & region, self.polyp_prompt


def focus(prepared: Prepared) -> float:
    """Variance of the Laplacian inside the field of view, at 256 px; 0 where less than a quarter of the frame shows tissue."""
    if prepared.field.mean() < 0.25:
        return 0.0
    grey = cv2.cvtColor(prepared.case.image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (FOCUS_PX, FOCUS_PX), interpolation=cv2.INTER_AREA)
    field = cv2.resize(prepared.field.astype(np.uint8), (FOCUS_PX, FOCUS_PX), interpolation=cv2.INTER_NEAREST).astype(bool)
    return float(cv2.Laplacian(small, cv2.CV_32F)[field].var())
