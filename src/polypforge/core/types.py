"""The nouns of the project: a labelled image, a coarse description of a lesion, and a request for a new image."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polypforge.core.seeding import content_hash

Image = NDArray[np.uint8]  # (H, W, 3) RGB, 0..255
Mask = NDArray[np.bool_]  # (H, W), True = lesion
Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels; x1 and y1 exclusive

POLYP = "polyp"
NORMAL = "normal"


@dataclass
class Case:
    """One image with its label, in memory.

    `mask` is None when only boxes are known. `classes` holds one mask for each class of a multi-class label
    (`mask` is then their union). `provenance` is empty for a real case. `hidden`: pixels that were replaced (burnt-in text), from which
    nothing must be learned.
    """

    name: str
    image: Image
    mask: Mask | None = None
    boxes: tuple[Box, ...] = ()
    label: str = POLYP
    group: str = ""
    split: str = ""
    classes: dict[str, Mask] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    hidden: Mask | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.image.shape[0], self.image.shape[1]


@dataclass(frozen=True)
class Attributes:
    """What can be measured of a lesion (see `masks.attributes`); every value is a plain float.

    fill: lesion area / region area, 0..1. size: sqrt(lesion area / field-of-view area), 0..1.
    elongation: minor / major axis, 0..1. solidity: area / convex hull area, 0..1.
    delta_l, delta_a, delta_b: mean CIELAB difference between the lesion and a ring around it.
    contrast: standard deviation of lightness inside the lesion, CIELAB units.
    """

    fill: float
    size: float
    elongation: float
    solidity: float
    delta_l: float
    delta_a: float
    delta_b: float
    contrast: float


@dataclass(frozen=True)
class Request:
    """What to make: one edit of one background, or a whole frame.

    background: name of the case whose frame is repainted, or whose mask is filled with a new frame; "" for a frame from nothing.
    label: "polyp" or "normal". region: polygon [(x, y), ...] in pixels of the background; only pixels inside it may change; empty:
    the whole frame is new. lesion: polygon asked for the lesion, inside the region; empty leaves its shape to the recipe.
    attributes: what the lesion should be like; empty lets the model choose.
    parent: id of the request whose *result* is the background (an edit of an edit), or "".
    """

    background: str
    label: str
    region: tuple[tuple[int, int], ...]
    seed: int
    attributes: dict[str, float] = field(default_factory=dict)
    prompt: str = ""
    parent: str = ""
    lesion: tuple[tuple[int, int], ...] = ()

    @cached_property
    def id(self) -> str:
        """16 hexadecimal digits: the hash of the request's content. Kept: long runs ask for it again and again."""
        return content_hash(self.to_json())

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"region": [list(p) for p in self.region], "lesion": [list(p) for p in self.lesion]}

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Request:
        known = {k: row[k] for k in cls.__dataclass_fields__ if k in row}
        polygons = {k: tuple((int(x), int(y)) for x, y in known.pop(k, ())) for k in ("region", "lesion")}
        return cls(**polygons, **known)
