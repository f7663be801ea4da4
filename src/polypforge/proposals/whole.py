"""Requests for whole new frames: for masks that the data has, or from nothing. Request k depends on the seed, k and the data only."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from polypforge.core.errors import UserError
from polypforge.core.seeding import numpy_rng, seed_from
from polypforge.core.types import POLYP, Case, Request
from polypforge.proposals.census import Lesion


class MaskPlanner:
    """A new frame for the mask of one case after the other, each case once before any twice; normal frames are passed over.

    load(name) gives the case.
    """

    def __init__(self, names: Sequence[str], load: Callable[[str], Case], references: Sequence[Lesion], seed: int) -> None:
        self.references, self.seed, self.load = references, seed, load
        self._left = [names[i] for i in numpy_rng(seed, "mask order").permutation(len(names))]
        self._showing: list[str] = []

    def requests(self, index: int) -> list[Request]:
        while self._left and len(self._showing) <= index:  # cases are opened as they are needed
            name = self._left.pop(0)
            mask = self.load(name).mask
            if mask is not None and mask.any():
                self._showing.append(name)
        if not self._showing:
            raise UserError("there is no mask to draw a frame for: the data set shows no lesion in its training cases.")
        return [Request(self._showing[index % len(self._showing)], POLYP, (), seed_from(self.seed, "sample", index))]


class FreePlanner:
    """Frames from nothing but a seed. Seeds follow one another, so that a recipe which numbers its cases gives each once."""

    def __init__(self, references: Sequence[Lesion], seed: int) -> None:
        self.references, self.seed = references, seed
        self._first = seed_from(seed, "free") % 2**31

    def requests(self, index: int) -> list[Request]:
        return [Request("", POLYP, (), self._first + index)]
