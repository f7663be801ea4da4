"""From a data set to requests: which frame, which place, what kind of lesion. Request k depends on the seed, k and the data only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import cv2
import numpy as np

from polypforge.core.errors import UserError
from polypforge.core.seeding import numpy_rng, seed_from
from polypforge.core.types import POLYP, Attributes, Case, Request
from polypforge.data.prepared import Prepared, prepare
from polypforge.masks import attributes
from polypforge.masks.shapes import components, polygon_mask
from polypforge.proposals.places import loosened, propose, region_polygon
from polypforge.proposals.removal import lesions_of, removals

LIGHTEST, DARKEST = 78.0, 20.0  # CIELAB lightness that a lesion is asked to keep within


@dataclass(frozen=True)
class PlanConfig:
    """Shares of what is done to frames that show a lesion already (normal frames always get a lesion placed).

    replace: a new lesion where the old one is. add: a second lesion beside it; the label then holds both. move: the lesion
    is turned to normal first, and another placed elsewhere. size_range: least and greatest size (sqrt of lesion area / field).
    """

    replace: float = 0.5
    add: float = 0.25
    move: float = 0.25
    size_range: tuple[float, float] = (0.06, 0.5)

    def __post_init__(self) -> None:
        if min(self.replace, self.add, self.move) < 0 or abs(self.replace + self.add + self.move - 1) > 1e-6:
            raise ValueError("replace, add and move are shares that sum to 1")


class Planner:
    """Draws requests from backgrounds and from the attributes of the data set's own lesions.

    names: the frames that may be repainted, in a fixed order. load(name) gives the case. references: measured lesions. shapes: whether
    requests also ask for an outline of the lesion, for recipes that need a mask.
    """

    def __init__(
        self,
        names: Sequence[str],
        load: Callable[[str], Case],
        references: Sequence[Attributes],
        seed: int,
        config: PlanConfig,
        shapes: bool = False,
    ) -> None:
        if not names:
            raise UserError("there is no frame to repaint: the data set has no usable training case.")
        if not references:
            raise UserError("the data set shows no lesion to learn sizes and colours from: add labelled polyp frames.")
        self.names, self.load, self.references, self.seed, self.config = names, load, references, seed, config
        self.shapes = shapes
        self._order = numpy_rng(seed, "background order").permutation(len(names))

    def requests(self, index: int) -> list[Request]:
        """What makes case number `index`: one request, or two when a lesion is moved (the first one removes it).

        Frames that offer no place are passed over for the next frame in the order.
        """
        for attempt in range(25):
            rng = numpy_rng(self.seed, "plan", index, attempt)
            name = self.names[self._order[(index + attempt) % len(self.names)]]
            planned = self._plan(prepare(self.load(name)), rng, seed_from(self.seed, "sample", index))
            if planned:
                return planned
        raise UserError(f"no place for a lesion was found in 25 frames (case {index}): are the frames dark, or lesions everywhere?")

    def _plan(self, background: Prepared, rng: np.random.Generator, seed: int) -> list[Request]:
        wanted = self.references[rng.integers(len(self.references))]
        if not background.boxes:
            return self._place(background, wanted, rng, seed, [])
        edit = rng.choice(["replace", "add", "move"], p=[self.config.replace, self.config.add, self.config.move])
        if edit == "replace":
            return self._replace(background, wanted, rng, seed)
        if edit == "add":
            return self._place(background, wanted, rng, seed, [])
        return self._place(background, wanted, rng, seed, removals(background, seed))

    def _place(self, background: Prepared, wanted: Attributes, rng: np.random.Generator, seed: int, first: list[Request]) -> list[Request]:
        case = background.case
        occupied = lesions_of(case)
        size = float(np.clip(wanted.size * np.exp(rng.normal(0, 0.15)), *self.config.size_range))
        if occupied.any() and not first:
            size = min(size, 0.3)  # a second lesion beside the first
        fill = float(rng.uniform(0.5, 0.72))
        radius = size * np.sqrt(background.field_area_px / np.pi / fill)
        proposal = propose(case.image, background.field, occupied, float(radius), wanted.elongation, rng)
        if proposal is None:
            return []
        parent = first[-1].id if first else ""
        asked = self._asked(wanted, fill, size, lightness(case, polygon_mask(list(proposal.region), case.size)), rng)
        lesion = shrunk(proposal.region, float(np.sqrt(fill))) if self.shapes else ()
        return [*first, Request(case.name, POLYP, proposal.region, seed, asked, parent=parent, lesion=lesion)]

    def _replace(self, background: Prepared, wanted: Attributes, rng: np.random.Generator, seed: int) -> list[Request]:
        lesion = self._largest(background)
        region = loosened(lesion, float(rng.uniform(0.08, 0.2))) & background.field
        if not region.any() or (lesion & background.field & ~region).any():
            return []
        fill = float(np.clip(lesion.sum() / region.sum() * np.exp(rng.normal(0, 0.1)), 0.4, 0.85))
        size = float(np.sqrt(fill * region.sum() / background.field_area_px))
        asked = self._asked(wanted, fill, size, lightness(background.case, region), rng)
        shape = region_polygon(lesion & background.field) if self.shapes else ()
        return [Request(background.case.name, POLYP, region_polygon(region), seed, asked, lesion=shape)]

    def _largest(self, background: Prepared) -> np.ndarray:
        parts = components(lesions_of(background.case), 30)
        return parts[0]

    def _asked(self, wanted: Attributes, fill: float, size: float, place: float, rng: np.random.Generator) -> dict[str, float]:
        values = asdict(wanted) | {"fill": fill, "size": size}
        for name in ("delta_l", "delta_a", "delta_b"):
            values[name] += rng.normal(0, 1.0)
        # A lesion that is much lighter than a light place would be burnt out, and a dark one in a dark place black.
        values["delta_l"] = float(np.clip(values["delta_l"], DARKEST - place, LIGHTEST - place))
        return {k: round(float(v), 4) for k, v in values.items()}


def shrunk(polygon: Sequence[tuple[int, int]], factor: float) -> tuple[tuple[int, int], ...]:
    """The polygon scaled by `factor` about the mean of its corners."""
    points = np.asarray(polygon, np.float64)
    centre = points.mean(0)
    return tuple((int(x), int(y)) for x, y in np.rint(centre + factor * (points - centre)))


def lightness(case: Case, region: np.ndarray) -> float:
    """Mean CIELAB lightness (0..100) of the frame in the region."""
    mean = case.image[region].mean(0) if region.any() else np.full(3, 128.0)
    return float(cv2.cvtColor((mean / 255).astype(np.float32).reshape(1, 1, 3), cv2.COLOR_RGB2LAB)[0, 0, 0])


def measure_lesions(case: Case) -> list[Attributes]:
    """Attributes of every lesion of a case with a mask, each in a loosened region of its own."""
    if case.mask is None or not case.mask.any():
        return []
    field = prepare(case).field
    found = []
    for lesion in components(case.mask, 60):
        region = loosened(lesion, 0.12) & field
        if (lesion & region).any():
            found.append(attributes.measure(case.image, lesion, region, field))
    return found
