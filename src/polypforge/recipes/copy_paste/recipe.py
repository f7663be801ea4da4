"""`copy_paste`: real lesions of the data set pasted into other frames; the cheap alternative that must be beaten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import cv2
import numpy as np
import torch
from safetensors.torch import load_file, save_file

from polypforge.core.config import from_dict
from polypforge.core.errors import UserError
from polypforge.core.files import read_json
from polypforge.core.seeding import numpy_rng
from polypforge.core.types import Case
from polypforge.masks.shapes import bounding_box, components, enlarge
from polypforge.recipes.base import Job, UntrainedRecipe
from polypforge.recipes.copy_paste.paste import FIT, MARGIN, paste_lesion, turned


@dataclass(frozen=True)
class CopyPasteConfig:
    """donors: how many lesions are kept at most. donor_px: their longest side is shrunk to it. seed: which ones are kept.

    fit: share of the region's box that a pasted lesion fills at most. turn: whether lesions are turned and mirrored at random.
    """

    donors: int = 400
    donor_px: int = 320
    seed: int = 0
    fit: float = FIT
    turn: bool = True

    def __post_init__(self) -> None:
        if self.donors < 2 or self.donor_px < 32:
            raise ValueError("donors is at least 2, donor_px at least 32")
        if not 0.3 <= self.fit <= FIT:  # the rim must keep clear of the region's outline
            raise ValueError(f"fit lies in 0.3..{FIT}")


class CopyPaste(UntrainedRecipe):
    name: ClassVar[str] = "copy_paste"
    copies: ClassVar[bool] = True
    config_class: ClassVar[type] = CopyPasteConfig
    needs: ClassVar[frozenset[str]] = frozenset({"background"})

    def __init__(self, config: CopyPasteConfig, donors: Sequence[Case] = ()) -> None:
        super().__init__()
        self.config, self.donors = config, list(donors)

    def fit(self, cases: Sequence[Case]) -> None:
        """Keep cut-outs of lesions. Raises UserError when fewer than two cases show one."""
        usable = [c for c in cases if c.mask is not None and c.mask.any()]
        order = numpy_rng(self.config.seed, "donors").permutation(len(usable))[: self.config.donors]
        self.donors = [self._cut_out(usable[i]) for i in sorted(order)]
        if len(self.donors) < 2:
            raise UserError("copy_paste needs at least two cases with a lesion mask to take lesions from.")

    def _cut_out(self, case: Case) -> Case:
        lesion = components(case.mask)[0] if case.mask is not None else np.zeros(case.size, bool)
        rim = round(MARGIN * float(np.sqrt(lesion.sum()))) + 2
        x0, y0, x1, y1 = enlarge(bounding_box(lesion), rim, case.size)
        image, mask = case.image[y0:y1, x0:x1], lesion[y0:y1, x0:x1]
        scale = min(1.0, self.config.donor_px / max(mask.shape))
        size = max(4, round(mask.shape[1] * scale)), max(4, round(mask.shape[0] * scale))
        small = cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_AREA)
        return Case(
            case.name, small, cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST).astype(bool), group=case.group
        )

    def donor_of(self, job: Job) -> Case:
        """Drawn by the request's seed; not from the frame that is repainted, nor from its patient or video where there are others."""
        source = job.background  # what a removal left of the named frame, where a lesion is moved
        others = [d for d in self.donors if d.name not in (source.name, job.request.background)]
        others = [d for d in others if not (d.group and d.group == source.group)] or others
        if not others:
            raise UserError(f"'{source.name}' is the only case with a lesion: copy_paste has no other donor for it.")
        return others[numpy_rng(job.request.seed, "donor").integers(len(others))]

    def generate(self, jobs: Sequence[Job]) -> list[Case]:
        """As every recipe; each case's provenance names its donor."""
        return [self._pasted(job) for job in jobs]

    def _pasted(self, job: Job) -> Case:
        donor = self._placed(job)
        made = paste_lesion(job, donor, self.config.fit)
        made.provenance = {"donor": donor.name}
        return made

    def _placed(self, job: Job) -> Case:
        donor = self.donor_of(job)
        if not self.config.turn:
            return donor
        rng = numpy_rng(job.request.seed, "turn")
        return turned(donor, float(rng.uniform(0, 360)), bool(rng.random() < 0.5))

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        planes = {f"image_{i:04d}": torch.from_numpy(d.image.copy()) for i, d in enumerate(self.donors)}
        planes |= {f"mask_{i:04d}": torch.from_numpy(d.mask.copy()) for i, d in enumerate(self.donors) if d.mask is not None}
        save_file(planes, folder / "donors.safetensors")
        names = [[d.name, d.group] for d in self.donors]
        self.save_config(folder, donors=names)

    @classmethod
    def load_pretrained(cls, folder: Path) -> Self:
        stored = read_json(folder / "config.json")
        planes = load_file(folder / "donors.safetensors")
        donors = [
            Case(name, planes[f"image_{i:04d}"].numpy(), planes[f"mask_{i:04d}"].numpy(), group=group)
            for i, (name, group) in enumerate(stored["donors"])
        ]
        return cls(from_dict(CopyPasteConfig, {"turn": False} | stored["config"], str(folder / "config.json")), donors)
