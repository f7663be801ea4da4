"""`graft`: a real lesion of the data set put into another frame, and redrawn there by `forge` from a middle noise level.

Noising a rough draft part of the way and denoising it again is SDEdit (Meng et al. 2022); here image and mask are redrawn together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Self

import torch

from polypforge.core.config import from_dict
from polypforge.core.errors import UserError
from polypforge.core.files import read_json
from polypforge.core.types import NORMAL, POLYP, Case
from polypforge.features import Encoder
from polypforge.masks.shapes import region_mask
from polypforge.recipes.base import Job, Recipe, UntrainedRecipe
from polypforge.recipes.copy_paste.recipe import CopyPaste, CopyPasteConfig
from polypforge.recipes.forge.config import ForgeConfig
from polypforge.recipes.forge.recipe import Forge

FORGE, PASTE = "forge", "copy_paste"  # folders of the parts beside config.json


@dataclass(frozen=True)
class GraftConfig:
    """forge: weights of `forge` that redraw (run, folder, hub id or starter:NAME).

    strength: noise level in 0..1 from which forge sets out: near 0 keeps the form of what was pasted, 1 draws from nothing.
    paste: which lesions are kept, and how they are put into their new place.
    """

    forge: str = "starter:forge"
    strength: float = 0.5
    paste: CopyPasteConfig = field(default_factory=lambda: CopyPasteConfig(fit=0.85))

    def __post_init__(self) -> None:
        if not 0 < self.strength <= 1:
            raise ValueError("strength lies above 0 and at most at 1")


class Graft(UntrainedRecipe):
    name: ClassVar[str] = "graft"
    config_class: ClassVar[type] = GraftConfig
    needs: ClassVar[frozenset[str]] = frozenset({"background"})
    removes: ClassVar[bool] = True

    def __init__(self, config: GraftConfig, paste: CopyPaste | None = None, forge: Forge | None = None) -> None:
        super().__init__()
        self.config = config
        self.paste = paste or CopyPaste(config.paste)
        self.forge = forge or _load_forge(config.forge)
        self.requires_grad_(False)

    def fit(self, cases: Sequence[Case]) -> None:
        """Keep cut-outs of lesions. Raises UserError when fewer than two cases show one."""
        self.paste.fit(cases)

    def generate(self, jobs: Sequence[Job]) -> list[Case]:
        """As every recipe; a request for normal tissue is forge's own work."""
        lesions = [job for job in jobs if job.request.label == POLYP]
        drafts = self.paste.generate(self._cleared(lesions)) if lesions else []
        redrawn = self.forge.redraw(lesions, drafts, self.config.strength) if lesions else []
        for case, draft in zip(redrawn, drafts, strict=True):
            case.provenance = draft.provenance
        drawn = iter(redrawn)
        normal = [job for job in jobs if job.request.label != POLYP]
        removed = iter(self.forge.generate(normal) if normal else [])
        return [next(drawn if job.request.label == POLYP else removed) for job in jobs]

    def _cleared(self, jobs: Sequence[Job]) -> list[Job]:
        """The same jobs on frames from which forge has removed what their regions hold: else the draft would show that, too."""
        held = [job for job in jobs if _holds_lesion(job)]
        asked = [Job(replace(job.request, label=NORMAL, attributes={}, lesion=()), job.case) for job in held]
        cleared = dict(zip(map(id, held), self.forge.generate(asked) if asked else [], strict=True))
        return [Job(job.request, replace(cleared[id(job)], name=job.background.name)) if id(job) in cleared else job for job in jobs]

    def encoder(self) -> Encoder:
        return self.forge.encoder()

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.forge.save_pretrained(folder / FORGE)
        self.paste.save_pretrained(folder / PASTE)
        self.save_config(folder)

    @classmethod
    def load_pretrained(cls, folder: Path) -> Self:
        config = from_dict(GraftConfig, read_json(folder / "config.json")["config"], str(folder / "config.json"))
        return cls(config, CopyPaste.load_pretrained(folder / PASTE), Forge.load_pretrained(folder / FORGE))


def _holds_lesion(job: Job) -> bool:
    background = job.background
    if background.mask is None:
        return bool(background.boxes)
    return bool((background.mask & region_mask(job.request.region, background.size)).any())


def _load_forge(name: str) -> Forge:
    if torch.empty(0).is_meta:  # a dry run looks at no weights
        return Forge(ForgeConfig())
    found = Recipe.from_pretrained(name)
    if not isinstance(found, Forge):
        raise UserError(f"{name} holds no weights of forge: model.forge names a run, folder or hub id of that recipe.")
    return found
