"""From a data set to requests: which frame, which place, what kind of lesion. The same seed and data give the same plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import cv2
import numpy as np

from polypforge.core.errors import UserError
from polypforge.core.seeding import numpy_rng, seed_from
from polypforge.core.types import POLYP, Attributes, Box, Case, Mask, Request
from polypforge.data.prepared import Prepared, prepare
from polypforge.masks.attributes import shape as shape_of
from polypforge.masks.shapes import bounding_box, box_iou, components, loosened, polygon_mask, region_mask
from polypforge.proposals.census import Cell, Lesion, belongs, moved_into, place_mask, relative
from polypforge.proposals.outlines import Blobs, Outlines
from polypforge.proposals.places import LEAST_AREA_PX, MARGIN, propose, region_polygon
from polypforge.proposals.proposal import Proposal
from polypforge.proposals.removal import lesions_of, removals
from polypforge.proposals.wishes import Quota, Turns

LIGHTEST, DARKEST = 78.0, 20.0  # CIELAB lightness that a lesion is asked to keep within
TRIES, QUOTA_TRIES = 25, 200  # frames, or other draws on them, before giving up
REPEATED = 0.5  # IoU of the regions of two requests on one frame from which they are the same place


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
    """Draws requests from backgrounds and from what the data set's own lesions are like.

    names: the frames that may be repainted, in a fixed order. load(name) gives the case. references: measured lesions. shapes: whether
    requests also ask for an outline of the lesion, for recipes that need a mask. wanted: shares of kinds of lesions; without them kinds
    come as they are drawn. outlines: where outlines of placed lesions come from. placements: places that are given, by frame; then
    only these frames are repainted, and only there. scenes: what each frame shows, where some show the same (a video): every scene has its
    turn before one comes again, as long as frames last.
    """

    def __init__(
        self,
        names: Sequence[str],
        load: Callable[[str], Case],
        references: Sequence[Lesion],
        seed: int,
        config: PlanConfig,
        shapes: bool = False,
        wanted: Sequence[Quota] = (),
        outlines: Outlines | None = None,
        placements: Mapping[str, Sequence[Proposal]] | None = None,
        scenes: Mapping[str, str] | None = None,
    ) -> None:
        if placements is not None:
            names = [n for n in names if placements.get(n)]
        if not names:
            raise UserError("there is no frame to repaint: the data set has no usable training case.")
        if not references:
            raise UserError("the data set shows no lesion to learn sizes and colours from: add labelled polyp frames.")
        self.names, self.load, self.references, self.seed, self.config = names, load, references, seed, config
        self.shapes, self.outlines, self.placements = shapes or outlines is not None, outlines or Blobs(), placements
        self.turns = Turns(wanted or [Quota({}, 1.0)])
        order, had = numpy_rng(seed, "background order").permutation(len(names)).tolist(), Counter[str]()
        turn = {}
        for k in order:
            scene = (scenes or {}).get(names[k], names[k])
            turn[k], had[scene] = had[scene], had[scene] + 1
        self._order = sorted(order, key=turn.__getitem__)
        self.lesions: list[Lesion] = []  # asked for so far, one for each case
        self._planned: list[list[Request]] = []
        self._boxes: dict[str, list[Box]] = {}

    def requests(self, index: int) -> list[Request]:
        """What makes case number `index`: one request, or two when a lesion is moved (the first one removes it).

        It depends on the seed, the data and what was planned before it: a place serves once for each pass over the frames (were it never
        to serve again, large sets would hardly replace lesions any more). Frames that offer no place, or only places that have served,
        are passed over for the next frame in the order. Raises UserError when no frame has room.
        """
        while len(self._planned) <= index:
            self._planned.append(self._next(len(self._planned)))
        return self._planned[index]

    def _next(self, index: int) -> list[Request]:
        quota = self.turns.turn(index)
        tries = TRIES if not quota.cell else QUOTA_TRIES
        repeated: tuple[list[Request], Lesion, Box] | None = None
        for attempt in range(tries):
            rng = numpy_rng(self.seed, "plan", index, attempt)
            background = prepare(self.load(self.names[self._order[(index + attempt) % len(self.names)]]))
            planned = self._plan(background, quota.cell, rng, seed_from(self.seed, "sample", index))
            if not planned:
                continue
            lesion = requested_lesion(planned[-1], background)
            if not belongs(lesion, quota.cell):
                continue
            box = bounding_box(region_mask(planned[-1].region, background.case.size))
            served = sum(box_iou(box, other) > REPEATED for other in self._boxes.get(background.case.name, ()))
            if served <= index // len(self.names):
                return self._noted(planned, lesion, box)
            repeated = repeated or (planned, lesion, box)
            if attempt >= min(TRIES, len(self.names)) - 1:
                break  # enough frames offered nothing new: a place has to serve again
        if repeated:
            return self._noted(*repeated)
        if quota.cell:
            asked = f"{min(tries, len(self.names))} frames"
            lacking = f"the places that are given in {asked} have no" if self.placements is not None else f"{asked} have no room for a"
            raise UserError(f"the quota '{quota}' can't be met: {lacking} lesion of that kind (case {index}); ask for less of it.")
        raise UserError(f"no place for a lesion was found in {tries} frames (case {index}): are the frames dark, or lesions everywhere?")

    def _noted(self, planned: list[Request], lesion: Lesion, box: Box) -> list[Request]:
        self.lesions.append(lesion)
        self._boxes.setdefault(planned[-1].background, []).append(box)
        return planned

    def _wanted(self, cell: Cell, rng: np.random.Generator) -> Attributes:
        """Attributes of one of the data's lesions of this kind, or, where it has none, of another one changed into it."""
        same = [lesion for lesion in self.references if belongs(lesion, {k: v for k, v in cell.items() if k != "place"})]
        chosen = (same or self.references)[rng.integers(len(same or self.references))].attributes
        return moved_into(chosen, cell, rng)

    def _plan(self, background: Prepared, cell: Cell, rng: np.random.Generator, seed: int) -> list[Request]:
        wanted = self._wanted(cell, rng)
        if self.placements is not None:
            return self._given(background, wanted, cell, rng, seed)
        if not background.boxes:
            return self._place(background, wanted, cell, rng, seed, [])
        edit = rng.choice(["replace", "add", "move"], p=[self.config.replace, self.config.add, self.config.move])
        if edit == "replace":
            return self._replace(background, wanted, cell, rng, seed)
        return self._place(background, wanted, cell, rng, seed, [] if edit == "add" else removals(background, seed))

    def _given(self, background: Prepared, wanted: Attributes, cell: Cell, rng: np.random.Generator, seed: int) -> list[Request]:
        """At one of the frame's given places, the best first; places that lie on a lesion replace it."""
        case = background.case
        offered = (self.placements or {})[case.name]
        used = self._boxes.get(case.name, [])
        for proposal in [*offered[len(used) % len(offered) :], *offered[: len(used) % len(offered)]]:
            region = region_mask(proposal.region, case.size) & background.field
            lesion = region_mask(proposal.lesion or proposal.region, case.size) & region
            if not lesion.any():
                continue
            fill = float(lesion.sum() / region.sum())
            size = float(np.sqrt(lesion.sum() / background.field_area_px))
            asked = self._asked(wanted, fill, size, lightness(case, region), rng, lesion if proposal.lesion else None)
            request = Request(case.name, POLYP, proposal.region, seed, asked, lesion=proposal.lesion if self.shapes else ())
            if belongs(requested_lesion(request, background), cell):
                return [request]
        return []

    def _place(
        self, background: Prepared, wanted: Attributes, cell: Cell, rng: np.random.Generator, seed: int, first: list[Request]
    ) -> list[Request]:
        case = background.case
        occupied = lesions_of(case)
        size = float(np.clip(wanted.size * np.exp(rng.normal(0, 0.15)), *self.config.size_range))
        if occupied.any() and not first:
            size = min(size, 0.3)  # a second lesion beside the first
        size = moved_into(Attributes(**asdict(wanted) | {"size": size}), cell, rng).size
        fill = float(rng.uniform(0.5, 0.72))
        radius = size * np.sqrt(background.field_area_px / np.pi / fill)
        centres = place_mask(cell["place"], background.field) if "place" in cell else None
        proposal = propose(case.image, background.field, occupied, float(radius), lambda r: self.outlines.draw(r, wanted), rng, centres)
        if proposal is None:
            return []
        parent = first[-1].id if first else ""
        region = proposal.region
        lesion = shrunk(region, float(np.sqrt(fill))) if self.shapes else ()
        drawn = polygon_mask(list(lesion), case.size) if lesion else None
        if drawn is not None:  # an outline may be hollow or branched, and a region must leave room all around it
            region = region_polygon(loosened(drawn, MARGIN))
            fill = float(drawn.sum() / max(1, region_mask(region, case.size).sum()))
        asked = self._asked(wanted, fill, size, lightness(case, polygon_mask(list(region), case.size)), rng, drawn)
        return [*first, Request(case.name, POLYP, region, seed, asked, parent=parent, lesion=lesion)]

    def _replace(self, background: Prepared, wanted: Attributes, cell: Cell, rng: np.random.Generator, seed: int) -> list[Request]:
        parts = components(lesions_of(background.case), LEAST_AREA_PX)
        if not parts:
            return []
        lesion = parts[0]
        seen = lesion & background.field
        region = loosened(lesion, float(rng.uniform(0.08, 0.2))) & background.field
        if seen.sum() < LEAST_AREA_PX or (seen & ~region).any():
            return []
        outline, shape = region_polygon(region), region_polygon(seen) if self.shapes else ()
        if min(len(outline), len(shape) if self.shapes else 3) < 3:  # a sliver at the edge of the field
            return []
        fill = float(np.clip(lesion.sum() / region.sum() * np.exp(rng.normal(0, 0.1)), 0.4, 0.85))
        size = float(np.sqrt(fill * region.sum() / background.field_area_px))
        asked = self._asked(wanted, fill, size, lightness(background.case, region), rng, seen if self.shapes else None)
        return [Request(background.case.name, POLYP, outline, seed, asked, lesion=shape)]

    def _asked(
        self, wanted: Attributes, fill: float, size: float, place: float, rng: np.random.Generator, known: Mask | None
    ) -> dict[str, float]:
        """known: the lesion's outline where the request names it: then its shape is what it is."""
        values = asdict(wanted) | {"fill": fill, "size": size}
        if known is not None:
            values["elongation"], values["solidity"] = shape_of(known)
        for name in ("delta_l", "delta_a", "delta_b"):
            values[name] += rng.normal(0, 1.0)
        # A lesion that is much lighter than a light place would be burnt out, and a dark one in a dark place black.
        values["delta_l"] = float(np.clip(values["delta_l"], DARKEST - place, LIGHTEST - place))
        return {k: round(float(v), 4) for k, v in values.items()}


def requested_lesion(request: Request, background: Prepared) -> Lesion:
    """What a request asks for, as the census would measure it."""
    rows, columns = np.nonzero(region_mask(request.lesion or request.region, background.case.size))
    at = relative(float(columns.mean()), float(rows.mean()), background.field)
    return Lesion(Attributes(**request.attributes), at)


def shrunk(polygon: Sequence[tuple[int, int]], factor: float) -> tuple[tuple[int, int], ...]:
    """The polygon scaled by `factor` about the mean of its corners."""
    points = np.asarray(polygon, np.float64)
    centre = points.mean(0)
    return tuple((int(x), int(y)) for x, y in np.rint(centre + factor * (points - centre)))


def lightness(case: Case, region: np.ndarray) -> float:
    """Mean CIELAB lightness (0..100) of the frame in the region."""
    mean = np.array(cv2.mean(case.image, region.astype(np.uint8))[:3]) if region.any() else np.full(3, 128.0)
    return float(cv2.cvtColor((mean / 255).astype(np.float32).reshape(1, 1, 3), cv2.COLOR_RGB2LAB)[0, 0, 0])
