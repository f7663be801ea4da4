"""Judges trained by turns on parts of a data set, so that what was made from a real case is judged by one that never saw it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from torch import nn

from polypforge.core.errors import UserError
from polypforge.core.files import read_json, write_json
from polypforge.quality.judges import CROSS_FITTED, Judge, load_judge


@dataclass(frozen=True)
class CrossFittedConfig:
    """window_px: side of the windows that the judges see."""

    window_px: int


class CrossFitted(Judge):
    """judges: one for each fold, trained on the others. folds: name of a real case -> its fold. Made by `polypforge train --folds`."""

    name: ClassVar[str] = CROSS_FITTED
    config_class = CrossFittedConfig

    def __init__(self, judges: list[Judge], folds: Mapping[str, int]) -> None:
        super().__init__()
        self.judges = nn.ModuleList(judges)
        self.folds = dict(folds)
        self.config = CrossFittedConfig(judges[0].config.window_px)

    def for_case(self, name: str) -> Judge:
        """The judge of the case's fold; for a case that none saw, all of them together."""
        return self.judges[self.folds[name]] if name in self.folds else self  # type: ignore[return-value]

    def predict(self, windows: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Mean of the judges' probabilities."""
        return np.mean([j.predict(windows) for j in self.judges], 0)  # type: ignore[union-attr, operator]

    def loss(self, batch, generator) -> Any:
        raise UserError("a cross-fitted judge is trained by `polypforge train NAME --folds K`, one fold after the other.")

    def validation_losses(self, batch, seed: int) -> dict[str, float]:
        return self.judges[0].validation_losses(batch, seed)  # type: ignore[operator, return-value]

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for number, judge in enumerate(self.judges):
            judge.save_pretrained(folder / f"fold-{number}")  # type: ignore[operator]
        write_json(folder / "config.json", {"model": self.name, "count": len(self.judges), "folds": self.folds})

    @classmethod
    def load_pretrained(cls, folder: Path) -> Self:
        stored = read_json(folder / "config.json")
        count, folds = stored.get("count", 0), stored.get("folds", {})
        if not count or any(not 0 <= fold < count for fold in folds.values()):
            raise UserError(f"{folder / 'config.json'} is damaged: its folds don't fit its {count} judges. Train again.")
        return cls([load_judge(folder / f"fold-{k}") for k in range(count)], folds)
