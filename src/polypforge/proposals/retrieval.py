"""Hierarchical retrieval (Polyp-Gen, section 2.3): frames that look alike once bore a polyp in places that look alike.

Global: the K references nearest to the frame. Local, with each: patches where the reference's polyp was find their nearest patches in the
frame (the paper), and patches of the frame find theirs in the reference, kept when those bore the polyp (the authors' program); the best
of both are clustered by DBSCAN. Unlike there, the clusters of all candidates are kept, merged where they agree, and ranked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import DBSCAN

from polypforge.core.errors import UserError
from polypforge.core.types import Box, Mask
from polypforge.features.frames import FrameFeatures
from polypforge.masks.shapes import box_iou, polygon_mask
from polypforge.proposals.database import Reference, ReferenceDatabase

CELL_FINE = 8  # subdivisions of a cell when polygons are drawn on cells


@dataclass(frozen=True)
class RetrievalConfig:
    """references: K, frames nearest in the global feature. matches: best local matches kept for each. directions: of matching. eps: of
    DBSCAN, in patches (Polyp-Gen's 2P + 1 pixels are just above 2)."""

    references: int = 5
    matches: int = 30
    directions: tuple[str, ...] = ("reference to frame", "frame to reference")
    eps: float = 2.05

    def __post_init__(self) -> None:
        if self.references < 1 or self.matches < 1 or self.eps <= 0:
            raise ValueError("references and matches are at least 1, eps is positive")
        if not self.directions or set(self.directions) - {"reference to frame", "frame to reference"}:
            raise ValueError("directions are 'reference to frame' and 'frame to reference'")


@dataclass(frozen=True)
class Matches:
    """One candidate's local matches. row: of the database. near: cosine similarity of the frames. cells, theirs: (m, 2) row and column of
    matched patches in the frame and in the reference; score: (m,) their cosine similarity; cluster: (m,) number of each one's cluster;
    lesion: (m,) number of the reference's lesion that was matched."""

    row: int
    near: float
    cells: NDArray[np.int64]
    theirs: NDArray[np.int64]
    score: NDArray[np.float32]
    cluster: NDArray[np.int64]
    lesion: NDArray[np.int64]


@dataclass(frozen=True)
class Place:
    """A cluster of matches. box: enclosing its patches, in frame pixels. score: summed similarity of its matches, of all candidates that
    agree. row, lesion: the reference that lends its shape."""

    box: Box
    score: float
    row: int
    lesion: int


def lesion_cells(reference: Reference, shape: tuple[int, int]) -> NDArray[np.int64]:
    """(h, w) int: 1 + number of the lesion that covers at least half of each cell of a grid over the reference, 0 for none."""
    cell = max(reference.size) / max(shape)
    grid = np.zeros(shape, np.int64)
    fine = shape[0] * CELL_FINE, shape[1] * CELL_FINE
    for number, polygon in enumerate(reference.lesions, 1):
        points = np.rint((np.asarray(polygon, float) + 0.5) / cell * CELL_FINE - 0.5)
        share = polygon_mask(points, fine).reshape(shape[0], CELL_FINE, shape[1], CELL_FINE).mean((1, 3))
        covered = share >= 0.5
        if not covered.any():  # a lesion smaller than a cell still has its own
            covered = share == share.max()
        grid[covered & (share > 0)] = number
    return grid


def local_matches(
    frame: NDArray, usable: Mask, reference: NDArray, lesions: NDArray[np.int64], config: RetrievalConfig
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """(cells, theirs, similarity) of the best matches between patches (h, w, D) of unit length; `usable` (h, w): cells of the frame that
    may be matched."""
    mine, where = frame[usable].astype(np.float32), np.argwhere(usable)
    all_theirs = reference.reshape(-1, reference.shape[-1]).astype(np.float32)
    inside = np.flatnonzero(lesions.ravel() > 0)
    if not len(mine) or not len(inside):
        return np.zeros((0, 2), np.int64), np.zeros((0, 2), np.int64), np.zeros(0, np.float32)
    similar = mine @ all_theirs.T
    found: list[tuple[NDArray, NDArray, NDArray]] = []
    if "reference to frame" in config.directions:
        best = similar[:, inside].argmax(0)
        found.append((best, inside, similar[best, inside]))
    if "frame to reference" in config.directions:
        nearest = similar.argmax(1)
        kept = np.flatnonzero(lesions.ravel()[nearest] > 0)
        found.append((kept, nearest[kept], similar[kept, nearest[kept]]))
    a, b, score = (np.concatenate(part) for part in zip(*found, strict=True))
    pairs, first = np.unique(np.stack([a, b], 1), axis=0, return_index=True)  # a match found both ways counts once
    score = score[first]
    order = np.argsort(-score, kind="stable")[: config.matches]
    theirs = np.stack(np.unravel_index(pairs[order, 1], lesions.shape), 1)
    return where[pairs[order, 0]], theirs, score[order].astype(np.float32)


def retrieve(
    features: FrameFeatures, usable: Mask, database: ReferenceDatabase, config: RetrievalConfig, group: str = "", name: str = ""
) -> list[Matches]:
    """Local matches with each of the K nearest references; those of the frame's own group and name are passed over.

    Raises UserError when K is above the database, or the database is empty.
    """
    own = database.kin(name, group)
    if len(database) and config.references > len(database):
        raise UserError(
            f"{config.references} references were asked for each frame, but the database holds {len(database)}: "
            "lower --references-per-frame."
        )
    distance, rows = database.search(features.vector[None], min(len(database), config.references + len(own)))
    chosen = [(int(r), float(d)) for r, d in zip(rows[0], distance[0], strict=True) if r >= 0 and int(r) not in own]
    found = []
    for row, d in chosen[: config.references]:
        theirs = database.patches(row)
        lesions = lesion_cells(database.references[row], theirs.shape[:2])
        cells, other, score = local_matches(features.patches, usable, theirs, lesions, config)
        cluster = DBSCAN(eps=config.eps, min_samples=1).fit_predict(cells) if len(cells) else np.zeros(0, np.int64)
        found.append(Matches(row, 1 - d / 2, cells, other, score, cluster, lesions[other[:, 0], other[:, 1]] - 1))
    return found


def places(matches: Sequence[Matches], cell_px: float, size: tuple[int, int]) -> list[Place]:
    """Clusters of all candidates, best first. Two that overlap by half are one place, whose score is their sum."""
    found: list[Place] = []
    for match in matches:
        for number in range(match.cluster.max() + 1 if len(match.cluster) else 0):
            own = match.cluster == number
            rows, columns = match.cells[own].T
            # Widened by half a patch on each side from the patches' centres: the patches' outer edges.
            box = (
                int(columns.min() * cell_px), int(rows.min() * cell_px),
                min(size[1], int(np.ceil((columns.max() + 1) * cell_px))), min(size[0], int(np.ceil((rows.max() + 1) * cell_px))),
            )  # fmt: skip
            score = float(match.score[own].clip(0).sum() * (1 + match.near) / 2)
            found.append(Place(box, score, match.row, int(np.bincount(match.lesion[own]).argmax())))
    merged: list[Place] = []
    for place in sorted(found, key=lambda p: -p.score):
        twin = next((i for i, m in enumerate(merged) if box_iou(m.box, place.box) > 0.5), None)
        if twin is None:
            merged.append(place)
        else:
            merged[twin] = replace(merged[twin], score=merged[twin].score + place.score)
    return sorted(merged, key=lambda p: -p.score)
