"""Proposals for a frame: retrieval first, the data's own habits of place and size where nothing matches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from polypforge.core.seeding import numpy_rng
from polypforge.core.types import Box, Case, Mask
from polypforge.data.prepared import Prepared
from polypforge.features.frames import FrameFeatures
from polypforge.masks.shapes import bounding_box, loosened, polygon_mask
from polypforge.proposals.database import Reference, ReferenceDatabase
from polypforge.proposals.fit import fit_outline
from polypforge.proposals.places import MARGIN, region_polygon
from polypforge.proposals.proposal import Polygon, Proposal
from polypforge.proposals.ranking import covering
from polypforge.proposals.retrieval import Matches, Place, RetrievalConfig, places, retrieve
from polypforge.proposals.scene import Scene, read_scene

HABITS = 400  # references whose places stand for the data's
SPARE = 4  # places considered for each proposal: not all have room for the outline
PERSPECTIVE = (0.6, 1.6)  # an outline is scaled by the ratio of distances from the lumen, within these bounds


@dataclass(frozen=True)
class ProposerConfig:
    """count: proposals for each frame. retrieval: see there. floor: places whose score is below this share of the best are dropped.
    habits: the weight of where the data's lesions lie, against that of matched patches. in_lumen: whether the lumen is allowed.
    margin: room around the lesion, as a share of its longer side."""

    count: int = 5
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    floor: float = 0.1
    habits: float = 0.3
    in_lumen: bool = False
    margin: float = MARGIN

    def __post_init__(self) -> None:
        if self.count < 1 or not 0 <= self.habits <= 1 or not 0 <= self.floor <= 1:
            raise ValueError("count is at least 1; habits and floor lie between 0 and 1")


@dataclass(frozen=True)
class Hypothesis:
    """An outline (n, 2) around (0, 0) and the place wanted for it, frame pixels; its weight among all of the frame's."""

    points: NDArray[np.float64]
    centre: tuple[float, float]
    weight: float
    source: str
    row: int
    lesion: int
    rectangle: Box | None = None  # enclosing the patches that matched

    @property
    def box(self) -> tuple[float, float, float, float]:
        low, high = self.points.min(0) + self.centre, self.points.max(0) + self.centre
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])


@dataclass(frozen=True)
class Explanation:
    """What led to a frame's proposals: the matches with each candidate, and (H, W) where lesions were allowed."""

    matches: list[Matches]
    allowed: Mask


class Proposer:
    """Proposes places in frames, from an open database."""

    def __init__(self, database: ReferenceDatabase, config: ProposerConfig) -> None:
        self.database, self.config = database, config
        self._sample = numpy_rng("habits", len(database)).permutation(len(database))[:HABITS].tolist()

    def propose(self, prepared: Prepared, features: FrameFeatures, occupied: Mask | None = None) -> list[Proposal]:
        """Up to `count` proposals, best first; none in a frame without room. occupied: (H, W), lesions that are there already."""
        return self.explain(prepared, features, occupied)[0]

    def explain(self, prepared: Prepared, features: FrameFeatures, occupied: Mask | None = None) -> tuple[list[Proposal], Explanation]:
        scene, case = read_scene(prepared), prepared.case
        allowed = scene.allowed if occupied is None else scene.allowed & ~occupied
        lumen = None if self.config.in_lumen else scene.lumen
        usable = cells_within(allowed if lumen is None else allowed & ~lumen, features.patches.shape[:2], features.cell_px)
        matches = retrieve(features, usable, self.database, self.config.retrieval, case.group, case.name) if usable.any() else []
        found = places(matches, features.cell_px, case.size)
        found = [p for p in found if p.score >= self.config.floor * found[0].score]
        matched = [self._at_place(p, scene, case.size) for p in found]
        habits = self._habits(case) if allowed.any() and (self.config.habits or not matched) else []
        hypotheses = _shared(matched, 1 - self.config.habits) + _shared(habits, self.config.habits if matched else 1.0)
        proposals: list[Proposal] = []
        for i, gain in covering([h.box for h in hypotheses], [h.weight for h in hypotheses], SPARE * self.config.count):
            outline = fit_outline(hypotheses[i].points, hypotheses[i].centre, allowed, lumen)
            if outline is not None:
                proposals.append(self._proposal(hypotheses[i], outline, gain, prepared, allowed))
            if len(proposals) == self.config.count:
                break
        return proposals, Explanation(matches, allowed)

    def _at_place(self, place: Place, scene: Scene, size: tuple[int, int]) -> Hypothesis:
        """The reference's own polyp, in its own size, at the middle of the matched patches."""
        x0, y0, x1, y1 = place.box
        centre = ((x0 + x1 - 1) / 2, (y0 + y1 - 1) / 2)
        points = self._carried(self.database.references[place.row], place.lesion, centre, scene.lumen_at, size)
        return Hypothesis(points, centre, place.score, "retrieval", place.row, place.lesion, place.box)

    def _habits(self, case: Case) -> list[Hypothesis]:
        """Where the data's lesions lie, each carried to the same place of this frame; of a sample of references, all alike.

        Likeness of frames in the global feature was tried as a weight, and didn't tell places better (docs/proposals.md).
        """
        own = self.database.kin(case.name, case.group)
        size = np.array(case.size[::-1])
        found = []
        for row in (row for row in self._sample if row not in own):
            reference = self.database.references[row]
            for number, polygon in enumerate(reference.lesions):
                x, y = _middle(np.asarray(polygon, float)) / np.array(reference.size[::-1]) * size
                centre = (float(x), float(y))  # the place is its own: no perspective to mend
                points = self._carried(reference, number, centre, None, case.size)
                found.append(Hypothesis(points, centre, 1 / len(reference.lesions), "prior", row, number))
        return found

    def _carried(
        self, reference: Reference, number: int, centre: tuple[float, float], lumen: tuple[float, float] | None, size: tuple[int, int]
    ) -> NDArray[np.float64]:
        """The outline of a reference's lesion around (0, 0): scaled to the frame, by perspective where both lumens are known."""
        points = np.asarray(reference.lesions[number], float)
        middle = _middle(points)
        scale = max(size) / max(reference.size)
        if reference.lumen is not None and lumen is not None:
            theirs = np.linalg.norm(middle - np.asarray(reference.lumen)) / max(reference.size)
            ours = np.linalg.norm(np.asarray(centre) - np.asarray(lumen)) / max(size)
            # What lies farther from the lumen is nearer to the lens; halfway to that rule, as the lumen is known only roughly.
            scale *= float(np.clip(np.sqrt((ours + 0.05) / (theirs + 0.05)), *PERSPECTIVE))
        return (points - middle) * scale

    def _proposal(self, chosen: Hypothesis, outline: NDArray[np.float64], gain: float, prepared: Prepared, allowed: Mask) -> Proposal:
        reference = self.database.references[chosen.row]
        lesion: Polygon = tuple((int(x), int(y)) for x, y in np.rint(outline))
        drawn = polygon_mask(list(lesion), allowed.shape)
        region = loosened(drawn, self.config.margin) & allowed
        size = float(np.sqrt(drawn.sum() / prepared.field_area_px))  # the outline was scaled
        own = {"size": round(size, 4), "fill": round(float(drawn.sum() / region.sum()), 4)}
        return Proposal(
            region=region_polygon(region),
            score=gain,
            lesion=lesion,
            source=chosen.source,
            rectangle=chosen.rectangle or bounding_box(drawn),
            reference=reference.name,
            attributes=reference.attributes[chosen.lesion] | own,
        )


def _middle(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """(2,) of the box around points (n, 2)."""
    return (points.min(0) + points.max(0)) / 2


def cells_within(allowed: Mask, shape: tuple[int, int], cell_px: float) -> Mask:
    """(h, w) bool: cells of a grid over a frame of which at least 90 % is allowed."""
    height, width = round(shape[0] * cell_px), round(shape[1] * cell_px)
    padded = np.zeros((max(height, allowed.shape[0]), max(width, allowed.shape[1])), np.float32)
    padded[: allowed.shape[0], : allowed.shape[1]] = allowed
    return cv2.resize(padded[:height, :width], shape[::-1], interpolation=cv2.INTER_AREA) >= 0.9


def _shared(hypotheses: Sequence[Hypothesis], total: float) -> list[Hypothesis]:
    """The same with weights that sum to `total`."""
    whole = sum(h.weight for h in hypotheses)
    return [replace(h, weight=total * h.weight / whole) for h in hypotheses] if whole and total else []
