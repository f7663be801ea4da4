"""`graft`: a real lesion of the data set put into another frame, and redrawn there by `forge` from a middle noise level.

Noising a rough draft part of the way and denoising it again is SDEdit (Meng et al. 2022); here image and mask are redrawn together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Self

from polypforge.core.config import from_dict
from polypforge.core.errors import UserError
from polypforge.core.files import read_json
from polypforge.core.types import POLYP, Case
from polypforge.features import Encoder
from polypforge.models.locate import locate
from polypforge.recipes.base import Job, UntrainedRecipe
from polypforge.recipes.copy_paste.recipe import CopyPaste, CopyPasteConfig
from polypforge.recipes.forge.recipe import Forge

FORGE, PASTE = "forge", "copy_paste"  # folders of the parts beside config.json


@dataclass(frozen=True)
class GraftConfig:
    """forge: weights of `forge` that redraw (run, folder, hub id or starter:NAME).

    strength: noise level in 0..1 from which forge sets out: 0 keeps the form of what was pasted, 1 draws from nothing.
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
        drawn = iter(self.forge.redraw(lesions, self.paste.generate(lesions), self.config.strength) if lesions else [])
        normal = [job for job in jobs if job.request.label != POLYP]
        removed = iter(self.forge.generate(normal) if normal else [])
        return [next(drawn if job.request.label == POLYP else removed) for job in jobs]

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


def _load_forge(name: str) -> Forge:
    folder = locate(name)
    if read_json(folder / "config.json").get("recipe") != Forge.name:
        raise UserError(f"{name} holds no weights of forge: model.forge names a run, folder or hub id of that recipe.")
    return Forge.load_pretrained(folder)
