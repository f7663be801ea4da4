"""What every recipe is: a model that learns from cases and turns jobs into cases."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from polypforge.core.errors import UserError
from polypforge.core.types import Case, Mask, Request
from polypforge.features import Encoder
from polypforge.models.locate import locate
from polypforge.models.trainable import Batch, Trainable

__all__ = ["Batch", "Job", "Recipe", "UntrainedRecipe"]


@dataclass
class Job:
    """A request together with the case it edits or whose mask it fills; None when the request asks for a frame from nothing."""

    request: Request
    case: Case | None

    @property
    def background(self) -> Case:
        """Raises UserError when the request names none."""
        if self.case is None:
            raise UserError(f"request {self.request.id} names no background, which this recipe needs: add one, or plan requests anew.")
        return self.case


class Recipe(Trainable):
    """A named, typed combination of conditions, networks, objective and sampler.

    `needs` names what a request must bring: a subset of background (a frame to repaint), mask (a lesion's shape), prompt.
    `config_class` is the frozen dataclass that a recipe is built from: `RecipeClass(config)`. `removes`: whether it can turn a lesion
    into normal tissue. `copies`: whether it takes lesions from the data by design. `capacity`: how many cases it can give at most, None
    for no limit.
    """

    kind: ClassVar[str] = "recipe"
    config_class: ClassVar[type]
    needs: ClassVar[frozenset[str]]
    removes: ClassVar[bool] = False
    copies: ClassVar[bool] = False
    steps_setting: ClassVar[str] = "steps"  # of its config: how many steps its sampler takes
    capacity: int | None = None

    def set_steps(self, steps: int) -> None:
        """Sample in so many steps from now on. Raises UserError as `with_steps` does."""
        self.config = self.with_steps(self.config, steps)

    @classmethod
    def with_steps(cls, config: Any, steps: int) -> Any:
        """The configuration with so many steps. Raises UserError for a recipe without a number of them, and for one it can't take."""
        if cls.steps_setting not in {f.name for f in fields(cls.config_class)}:
            raise UserError(f"{cls.name} has no number of steps to set: leave --steps out.")
        try:
            if steps < 1:
                raise ValueError("a sampler takes at least one")
            return replace(config, **{cls.steps_setting: steps})
        except ValueError as error:
            raise UserError(f"--steps {steps}: {error}.") from None

    @abstractmethod
    def generate(self, jobs: Sequence[Job]) -> list[Case]:
        """One case for each job. With a background: at its size, pixels outside the region bit-equal to it.

        The result of a job depends on its request and background only, never on its neighbours in the batch.
        """

    def encoder(self) -> Encoder:
        """The denoiser's own features of frames. Raises UserError for a recipe without a denoiser."""
        raise UserError(f"{self.name} has no denoiser that could give features: use another recipe's, or starter:encoder.")

    def draw_masks(self, seeds: Sequence[int]) -> list[Mask]:
        """New lesion masks, one for each seed, some perhaps empty. Raises UserError for a recipe without a model of masks."""
        raise UserError(f"{self.name} has no model of masks: use weights of cond_polyp_diff.")

    @staticmethod
    def from_pretrained(model: str | Path, offline: bool = False) -> Recipe:
        """The recipe saved in a folder, on the hub, or shipped as `starter:NAME`, ready to generate. Raises UserError."""
        from polypforge.recipes import load_recipe  # the table of recipes knows the subclasses

        return load_recipe(locate(str(model), offline))


class UntrainedRecipe(Recipe):
    """A recipe that learns nothing by gradients: `fit` takes all it needs from the cases."""

    knows_cases: ClassVar[bool] = False

    def prepare(self, cases: Sequence[Case]) -> Sequence[Case]:
        return cases

    def training_batch(self, pool: Sequence[Case], batch_size: int, rng: np.random.Generator) -> Batch:
        raise NotImplementedError(f"{self.name} learns nothing by gradients")

    def batch_shapes(self, count: int) -> dict[str, tuple[int, ...]]:
        return {}

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        raise NotImplementedError(f"{self.name} learns nothing by gradients")

    def validation_losses(self, batch: Batch, seed: int) -> dict[str, float]:
        raise NotImplementedError(f"{self.name} learns nothing by gradients")
