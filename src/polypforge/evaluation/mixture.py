"""How real and synthetic examples come together in the batches of a downstream network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from polypforge.data.prepared import NORMAL_SHARE

T = TypeVar("T")

MODES = ("pool", "share", "add", "replace")


@dataclass(frozen=True)
class Mix:
    """mode and amount:

    pool: all examples are one set; amount: synthetic examples for each real one, or, from 10 up, their number (CondPolypDiff, DiffAug).
    share: an example is synthetic with probability amount, however many there are.
    add: each real example comes, with `probability`, together with `amount` synthetic ones that were made from it (diffuse-gen, text).
    replace: with `probability` it gives way to one of the first `amount` made from it (diffuse-gen, captions).
    """

    mode: str = "pool"
    amount: float = 1.0
    probability: float = 0.5

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"a mix is one of {', '.join(MODES)}, not '{self.mode}'")
        if not 0 <= self.amount < float("inf") or (self.mode == "share" and self.amount > 1) or not 0 <= self.probability <= 1:
            raise ValueError("amount is not negative, shares and probabilities lie between 0 and 1")
        if self.mode in ("add", "replace") and self.amount != int(self.amount):
            raise ValueError(f"{self.mode} takes whole numbers of synthetic cases for each real one, not {self.amount:g}")

    def pooled(self, real: int) -> int:
        """How many synthetic examples a pool takes beside `real` real ones."""
        return round(self.amount if self.amount >= 10 else self.amount * real)


@dataclass
class Mixture(Sequence[T]):
    """Draws examples. children: for add and replace, the synthetic examples of each real one, by its index. normal: how many of the last
    real examples are frames without lesion; of the real examples that are drawn, they are `normal_share` at most."""

    real: Sequence[T]
    synthetic: Sequence[T] = ()
    mix: Mix = field(default_factory=Mix)
    children: Mapping[int, Sequence[T]] = field(default_factory=dict)
    augment: str = "none"
    normal: int = 0
    normal_share: float = 1.0

    def __post_init__(self) -> None:
        if not self.real and not self.synthetic:
            raise ValueError("there is nothing to draw from")
        if not 0 <= self.normal <= len(self.real) or not 0 <= self.normal_share <= 1:
            raise ValueError("normal counts real examples, and normal_share lies between 0 and 1")

    @classmethod
    def of_real(cls, examples: Iterable[T], shows: Callable[[T], bool], augment: str = "none") -> Mixture[T]:
        """Real examples alone: those in which nothing shows come last, and are NORMAL_SHARE at most of what is drawn."""
        ordered = sorted(examples, key=lambda example: not shows(example))
        return cls(ordered, augment=augment, normal=sum(not shows(e) for e in ordered), normal_share=NORMAL_SHARE)

    def __len__(self) -> int:
        return len(self.real) + len(self.synthetic)

    def __getitem__(self, index):
        return [*self.real, *self.synthetic][index]

    def children_of(self, index: int) -> Sequence[T]:
        return list(self.children.get(index, ()))[: round(self.mix.amount)]

    def drawable(self) -> int:
        """How many synthetic examples can be drawn."""
        if self.mix.mode in ("add", "replace"):
            return sum(len(self.children_of(index)) for index in range(len(self.real)))
        return len(self.synthetic) if self.mix.amount or not self.real else 0

    def draw(self, rng: np.random.Generator) -> T:
        """One example; every draw is independent of the others."""
        if not self.synthetic:
            return self.real[self._pick(rng)]
        if not self.real:
            return self.synthetic[rng.integers(len(self.synthetic))]
        mode, amount, chance = self.mix.mode, self.mix.amount, self.mix.probability
        if mode == "pool":
            mode, amount = "share", len(self.synthetic) / (len(self.synthetic) + self._effective())
        if mode == "share" and rng.random() < amount:
            return self.synthetic[rng.integers(len(self.synthetic))]
        index = self._pick(rng)
        if mode == "share":
            return self.real[index]
        made = self.children_of(index)
        # "add" as a share of what is drawn: a real example and, with `chance`, all of its children
        synthetic = chance * len(made) / (1 + chance * len(made)) if mode == "add" else chance
        return made[rng.integers(len(made))] if made and rng.random() < synthetic else self.real[index]

    def _effective(self) -> float:
        """How many real examples there would be, had frames without lesion been left out until they are their share."""
        labelled = len(self.real) - self.normal
        if not labelled:
            return len(self.real)
        return min(float(len(self.real)), labelled / (1 - self.normal_share) if self.normal_share < 1 else np.inf)

    def _pick(self, rng: np.random.Generator) -> int:
        """Index of a real example."""
        labelled = len(self.real) - self.normal
        if labelled and rng.random() < labelled / self._effective():
            return int(rng.integers(labelled))
        return labelled + int(rng.integers(self.normal))
