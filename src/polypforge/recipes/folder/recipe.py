"""`folder`: image and mask pairs that any outside generator made, so that they pass the same gates and reports as ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from polypforge.core.config import from_dict
from polypforge.core.errors import UserError
from polypforge.core.files import content_of, read_json
from polypforge.core.seeding import content_hash
from polypforge.core.types import Case
from polypforge.data.layouts import open_source
from polypforge.recipes.base import Job, UntrainedRecipe
from polypforge.recipes.windows import whole_frame


@dataclass(frozen=True)
class FolderConfig:
    """path: a folder of pairs in any layout that `polypforge data import` knows."""

    path: str = ""


class Folder(UntrainedRecipe):
    name: ClassVar[str] = "folder"
    config_class: ClassVar[type] = FolderConfig
    needs: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, config: FolderConfig) -> None:
        super().__init__()
        if not config.path:
            raise UserError("folder needs to know where the pairs are: name them with --set model.path=DIR.")
        self.config = FolderConfig(str(Path(config.path).resolve()))
        self.source = open_source(Path(config.path))
        self.capacity = len(self.source)
        unmasked = [c.name for c in self.source.cases if c.read_masks is None]
        if not self.capacity or unmasked:
            named = f" ('{unmasked[0]}' has none)" if unmasked else ""
            raise UserError(f"{config.path} must hold pairs of image and mask{named}.")

    def generate(self, jobs: Sequence[Job]) -> list[Case]:
        """Pair number (seed modulo their count) for each request, at its own size."""
        made = []
        for job in jobs:
            given = self.source.cases[job.request.seed % len(self.source)].load()
            mask = given.mask if given.mask is not None else np.zeros(given.size, bool)
            made.append(whole_frame(job, given.image, mask, given.group))
        return made

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.save_config(folder, pairs=self._state())

    def _state(self) -> str:
        return content_hash([[c.name, *(content_of(path) for path in (c.image_path, *c.mask_paths))] for c in self.source.cases])

    @classmethod
    def load_pretrained(cls, folder: Path) -> Self:
        """Raises UserError when the pairs are others than those that were saved: they would be another model."""
        stored = read_json(folder / "config.json")
        recipe = cls(from_dict(FolderConfig, stored["config"], str(folder / "config.json")))
        if stored.get("pairs") != recipe._state():
            raise UserError(f"{recipe.config.path} has changed since {folder} was made of it: make it again (polypforge train folder).")
        return recipe
