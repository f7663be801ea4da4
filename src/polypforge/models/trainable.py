"""What the training loop asks of a model, be it a recipe or a judge."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from polypforge.core.types import Case

Batch = dict[str, Tensor]


class Trainable(nn.Module, ABC):
    """`pool = prepare(cases)` once, then `training_batch(pool, size, rng)` and `loss(batch, generator)` at each step."""

    name: ClassVar[str]
    kind: ClassVar[str] = "model"  # the key of `name` in config.json
    config: Any  # the model's own frozen dataclass
    knows_cases: ClassVar[bool] = True  # whether `loss` tells one case from another, as an attack on membership needs
    about_lesions: ClassVar[bool] = True  # else any frame teaches as much as another
    optional: ClassVar[tuple[str, ...]] = ()  # how names of state begin that weights to set out from may lack, or have beside
    uses_all_parameters: bool = True  # in every step; where not, several processes must look for those left out

    def fit(self, cases: Sequence[Case]) -> None:
        """Take from all training cases what is not learned by gradients (clusters, donors). Called before training and on resuming.

        Raises UserError when the cases don't suffice.
        """
        return

    @abstractmethod
    def prepare(self, cases: Sequence[Case]) -> Sequence[Any]:
        """Measure once what every draw of a training example needs."""

    @abstractmethod
    def training_batch(self, pool: Sequence[Any], batch_size: int, rng: np.random.Generator) -> Batch:
        """Random examples as CPU tensors; a pure function of its arguments."""

    def validation_batch(self, pool: Sequence[Any], count: int, rng: np.random.Generator) -> Batch:
        """What `validation_losses` is asked about: by default `count` random examples."""
        return self.training_batch(pool, count, rng)

    @abstractmethod
    def batch_shapes(self, count: int) -> dict[str, tuple[int, ...]]:
        """Shapes of `training_batch` for `count` examples, by name: what --dry-run measures with."""

    @abstractmethod
    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """(scalar to minimise, its named parts). All randomness comes from `generator` (CPU)."""

    @abstractmethod
    def validation_losses(self, batch: Batch, seed: int) -> dict[str, float]:
        """Named errors on a fixed batch with fixed noise, smaller is better."""

    @abstractmethod
    def save_pretrained(self, folder: Path) -> None:
        """Write `config.json` and the weights as safetensors."""

    def save_config(self, folder: Path, **more: Any) -> None:
        """`config.json`: which class this is, its configuration, and `more`. To be called last: see `_without_paths`."""
        described = {self.kind: self.name, "config": asdict(self.config), **more}
        (folder / "config.json").write_text(json.dumps(described, indent=2) + "\n")
        _without_paths(folder)

    @classmethod
    @abstractmethod
    def load_pretrained(cls, folder: Path) -> Self:
        """The inverse of `save_pretrained`."""

    def forward(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        return self.loss(batch, generator)


def _without_paths(folder: Path) -> None:
    """Take out where on this machine diffusers once loaded a part from: that is nobody's business, and no property of the weights."""
    for path in folder.rglob("config.json"):
        stored = json.loads(path.read_text())
        if stored.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(stored, indent=2, sort_keys=True) + "\n")
