"""How proposals came about, as a picture (after Polyp-Gen's Fig. 6): the frame, its references, matched patches, clusters, proposals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from polypforge.core.types import Box, Image, Mask
from polypforge.reporting.panels import LABEL_COLOUR, REGION_COLOUR, sheet

SIDE, HEAD = 300, 26
CLUSTERS = ((64, 224, 120), (255, 214, 64), (96, 176, 255), (255, 128, 200), (255, 150, 80), (180, 140, 255), (120, 255, 255))
FORBIDDEN = (200, 40, 40)


@dataclass(frozen=True)
class Candidate:
    """One reference. image: small picture of it; size: (height, width) of the full one, whose pixels lesions are outlined in. near:
    similarity to the frame. cells, theirs: (m, 2) row, column of matched patches; cell_px, their_cell_px: patches' sides in full pixels;
    cluster: (m,)."""

    name: str
    image: Image
    size: tuple[int, int]
    lesions: Sequence[Sequence[tuple[int, int]]]
    near: float
    cells: NDArray[np.int64]
    theirs: NDArray[np.int64]
    cell_px: float
    their_cell_px: float
    cluster: NDArray[np.int64]


@dataclass(frozen=True)
class Drawn:
    """One proposal: outline, rectangle, and what to say of it."""

    lesion: Sequence[tuple[int, int]]
    rectangle: Box | None
    text: str


def retrieval_figure(frame: Image, allowed: Mask, candidates: Sequence[Candidate], proposals: Sequence[Drawn]) -> Image:
    """First row: the frame, what of it is allowed, its proposals, the best one's rectangle in white. Then each reference, two in a row: it,
    with what was matched, and the frame with the patches that match; a colour for each cluster."""
    shaded = frame.copy()
    shaded[~allowed] = (0.45 * shaded[~allowed] + 0.55 * np.array(FORBIDDEN)).astype(np.uint8)
    own = _fit(frame)
    scale = _scale(frame.shape)
    for i, proposal in enumerate(reversed(proposals)):
        best = i == len(proposals) - 1
        colour = LABEL_COLOUR if best else REGION_COLOUR
        points = np.rint(np.asarray(proposal.lesion, float) * scale).astype(np.int32)
        cv2.polylines(own, [points], True, colour, 2 if best else 1, cv2.LINE_AA)
        if best and proposal.rectangle is not None:
            x0, y0, x1, y1 = (round(v * scale) for v in proposal.rectangle)
            cv2.rectangle(own, (x0, y0), (x1, y1), (255, 255, 255), 1)
    tiles = [
        _titled(_fit(frame), "frame"),
        _titled(_fit(shaded), "allowed"),
        _titled(own, proposals[0].text if proposals else "no proposal"),
    ]
    tiles.append(np.full_like(tiles[0], 255))
    for candidate in candidates:
        theirs = _fit(candidate.image)
        zoom = _scale(candidate.size)
        for polygon in candidate.lesions:
            cv2.polylines(theirs, [np.rint(np.asarray(polygon, float) * zoom).astype(np.int32)], True, (255, 255, 255), 1, cv2.LINE_AA)
        both = _fit(frame)
        for k in range(len(candidate.cells)):
            colour = CLUSTERS[int(candidate.cluster[k]) % len(CLUSTERS)]
            _square(theirs, candidate.theirs[k], candidate.their_cell_px * zoom, colour)
            _square(both, candidate.cells[k], candidate.cell_px * scale, colour)
        count = int(candidate.cluster.max()) + 1 if len(candidate.cluster) else 0
        tiles += [
            _titled(theirs, f"{candidate.name[:22]}  {candidate.near:.2f}"),
            _titled(both, f"{len(candidate.cells)} patches, {count} clusters"),
        ]
    return sheet(tiles, 4)


def _scale(shape: tuple[int, ...]) -> float:
    return SIDE / max(shape[:2])


def _fit(image: Image) -> Image:
    """(SIDE, SIDE, 3): the picture in the upper left corner, grey beside it."""
    scale = _scale(image.shape)
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    canvas = np.full((SIDE, SIDE, 3), 235, np.uint8)
    canvas[: size[1], : size[0]] = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return canvas


def _square(canvas: Image, cell: NDArray[np.int64], side: float, colour: tuple[int, int, int]) -> None:
    y, x = (round(float(v) * side) for v in cell)
    cv2.rectangle(canvas, (x, y), (x + max(2, round(side)) - 1, y + max(2, round(side)) - 1), colour, 1)


def _titled(tile: Image, text: str) -> Image:
    head = np.full((HEAD, tile.shape[1], 3), 255, np.uint8)
    cv2.putText(head, text, (4, HEAD - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.48, (40, 40, 40), 1, cv2.LINE_AA)
    return np.vstack([head, tile])
