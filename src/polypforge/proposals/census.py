"""What lesions a data set has, in words that a user can ask for: bins of size, place, colour, shape and relief."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from polypforge.core.types import Attributes, Case, Mask
from polypforge.data.prepared import prepare
from polypforge.masks import attributes
from polypforge.masks.shapes import components, loosened
from polypforge.proposals.outlines import Points, unit_outline
from polypforge.proposals.places import MARGIN

LEAST_AREA_PX = 60
INNER = 0.45  # of the field's half extent: nearer to its middle is "centre"


@dataclass(frozen=True)
class Lesion:
    """attributes: see there. at: (x, y) of its middle, from the field's middle, in half extents of the field: -1..1. outline: see
    `outlines.unit_outline`; None when it isn't known."""

    attributes: Attributes
    at: tuple[float, float]
    outline: Points | None = None


# (least, below) of one attribute. Fixed numbers, so that the words mean the same for every data set.
RANGES: dict[str, tuple[str, dict[str, tuple[float, float]]]] = {
    "size": ("size", attributes.SIZES),
    "colour": ("delta_a", {"pale": (-40.0, 2.0), "similar": (2.0, 8.0), "red": (8.0, 60.0)}),
    "shape": ("elongation", {"round": (0.75, 1.01), "oval": (0.5, 0.75), "long": (0.0, 0.5)}),
    "relief": ("contrast", {"flat": (0.0, 9.0), "raised": (9.0, 60.0)}),
}
PLACES = ("centre", "upper", "right", "lower", "left")
BINS: dict[str, tuple[str, ...]] = {name: tuple(bins) for name, (_, bins) in RANGES.items()} | {"place": PLACES}
DIMENSION_OF = {label: name for name, labels in BINS.items() for label in labels}

# Where values are drawn for a bin that the data doesn't have, when its range is wider than what lesions are like.
USUAL = {
    "small": (0.07, 0.13),
    "large": (0.32, 0.45),
    "pale": (-4.0, 1.0),
    "red": (9.0, 14.0),
    "round": (0.78, 0.95),
    "long": (0.35, 0.48),
    "flat": (4.5, 8.5),
    "raised": (10.0, 16.0),
}

Cell = Mapping[str, str]  # bins by dimension; a dimension that is not named may be any


def place_of(at: tuple[float, float]) -> str:
    x, y = at
    if np.hypot(x, y) < INNER:
        return "centre"
    return ("right" if x > 0 else "left") if abs(x) > abs(y) else ("lower" if y > 0 else "upper")


def classify(lesion: Lesion) -> dict[str, str]:
    """The bin of each dimension."""
    found = {"place": place_of(lesion.at)}
    for name, (attribute, bins) in RANGES.items():
        value = getattr(lesion.attributes, attribute)
        labels = list(bins)
        found[name] = next((label for label in labels if bins[label][0] <= value < bins[label][1]), labels[-1 if value > 0 else 0])
    return found


def belongs(lesion: Lesion, cell: Cell) -> bool:
    own = classify(lesion)
    return all(own[name] == label for name, label in cell.items())


def moved_into(values: Attributes, cell: Cell, rng: np.random.Generator) -> Attributes:
    """The attributes with each one that the cell rules drawn inside its range when it lies outside."""
    for name, label in cell.items():
        if name == "place":
            continue
        attribute, bins = RANGES[name]
        low, high = bins[label]
        if not low <= getattr(values, attribute) < high:
            middle = USUAL.get(label, (low + 0.1 * (high - low), high - 0.1 * (high - low)))
            values = replace(values, **{attribute: float(rng.uniform(*middle))})
    return values


def field_frame(field: Mask) -> tuple[float, float, float, float]:
    """(x, y, half width, half height) of the field of view."""
    rows, columns = np.flatnonzero(field.any(1)), np.flatnonzero(field.any(0))
    if not len(rows):
        return field.shape[1] / 2, field.shape[0] / 2, field.shape[1] / 2, field.shape[0] / 2
    x0, x1, y0, y1 = columns[0], columns[-1] + 1, rows[0], rows[-1] + 1
    return (x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) / 2, (y1 - y0) / 2


def relative(x: float, y: float, field: Mask) -> tuple[float, float]:
    """A point in frame pixels as `Lesion.at` says it."""
    cx, cy, half_width, half_height = field_frame(field)
    return (x - cx) / half_width, (y - cy) / half_height


def place_mask(label: str, field: Mask) -> Mask:
    """(H, W) bool: the pixels of the field that lie in this place."""
    cx, cy, half_width, half_height = field_frame(field)
    x = (np.arange(field.shape[1])[None] + 0.5 - cx) / half_width
    y = (np.arange(field.shape[0])[:, None] + 0.5 - cy) / half_height
    centre = np.hypot(x, y) < INNER
    if label == "centre":
        return field & centre
    wide = np.abs(x) > np.abs(y)
    side = {"right": wide & (x > 0), "left": wide & (x <= 0), "lower": ~wide & (y > 0), "upper": ~wide & (y <= 0)}[label]
    return field & side & ~centre


def measure_lesions(case: Case) -> list[Lesion]:
    """Every lesion of a case with a mask, each measured in a loosened region of its own."""
    if case.mask is None or not case.mask.any():
        return []
    prepared = prepare(case)
    found = []
    for lesion in components(case.mask, LEAST_AREA_PX):
        region = loosened(lesion, MARGIN) & prepared.field
        if (lesion & region).any():
            rows, columns = np.nonzero(lesion)
            at = relative(float(columns.mean()), float(rows.mean()), prepared.field)
            found.append(Lesion(attributes.measure(case.image, lesion, region, prepared.field), at, unit_outline(lesion)))
    return found


@dataclass(frozen=True)
class Census:
    """lesions: all that were measured. per_frame: how many frames show 0, 1, 2 ... of them."""

    lesions: tuple[Lesion, ...]
    per_frame: dict[int, int]

    def shares(self) -> dict[str, dict[str, float]]:
        """Of each dimension, the share of lesions in each bin."""
        return shares([classify(lesion) for lesion in self.lesions])


def shares(classified: Sequence[Mapping[str, str]]) -> dict[str, dict[str, float]]:
    total = max(1, len(classified))
    counts = {name: Counter(c[name] for c in classified if name in c) for name in BINS}
    return {name: {label: round(counts[name][label] / total, 4) for label in labels} for name, labels in BINS.items()}


def take_census(names: Iterable[str], load: Callable[[str], Case]) -> Census:
    lesions: list[Lesion] = []
    per_frame: Counter[int] = Counter()
    for name in names:
        found = measure_lesions(load(name))
        lesions += found
        per_frame[len(found)] += 1
    return Census(tuple(lesions), dict(sorted(per_frame.items())))
