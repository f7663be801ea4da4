"""Requests for whole new frames: for masks that the data has, or from nothing. Request k depends on the seed, k and the data only."""

from __future__ import annotations

from collections.abc import Sequence

from polypforge.core.errors import UserError
from polypforge.core.seeding import numpy_rng, seed_from
from polypforge.core.types import POLYP, Attributes, Request


class MaskPlanner:
    """A new frame for the mask of one case after the other; each round through the data has other seeds."""

    def __init__(self, names: Sequence[str], references: Sequence[Attributes], seed: int) -> None:
        if not names:
            raise UserError("there is no mask to draw a frame for: the data set shows no lesion in its training cases.")
        self.names, self.references, self.seed = names, references, seed
        self._order = numpy_rng(seed, "mask order").permutation(len(names))

    def requests(self, index: int) -> list[Request]:
        name = self.names[self._order[index % len(self.names)]]
        return [Request(name, POLYP, (), seed_from(self.seed, "sample", index))]


class FreePlanner:
    """Frames from nothing but a seed. Seeds follow one another, so that a recipe which numbers its cases gives each once."""

    def __init__(self, references: Sequence[Attributes], seed: int) -> None:
        self.references, self.seed = references, seed
        self._first = seed_from(seed, "free") % 2**31

    def requests(self, index: int) -> list[Request]:
        return [Request("", POLYP, (), self._first + index)]
