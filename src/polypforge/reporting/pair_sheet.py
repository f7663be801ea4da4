"""Closest pairs of an audit, as a picture: each synthetic picture beside the training picture that it resembles most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from polypforge.core.types import Image
from polypforge.reporting.panels import sheet

SIDE, HEAD = 200, 34


@dataclass(frozen=True)
class PairTile:
    """synthetic, real: square RGB pictures of any size. texts: two lines above them. copied: framed in red."""

    synthetic: Image
    real: Image
    texts: tuple[str, str]
    copied: bool


def pair_sheet(pairs: Sequence[PairTile], columns: int = 3) -> Image:
    """Raises ValueError for no pair."""
    if not pairs:
        raise ValueError("there is no pair to show")
    return sheet([_tile(p) for p in pairs], columns, gap_px=8)


def _tile(pair: PairTile) -> Image:
    halves = [cv2.resize(x, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for x in (pair.synthetic, pair.real)]
    row = np.hstack([halves[0], np.full((SIDE, 4, 3), 255, np.uint8), halves[1]])
    if pair.copied:
        cv2.rectangle(row, (0, 0), (row.shape[1] - 1, SIDE - 1), (220, 40, 40), 4)
    head = np.full((HEAD, row.shape[1], 3), 255, np.uint8)
    for line, text in enumerate(pair.texts):
        colour = (200, 40, 40) if pair.copied and line else (40, 40, 40)
        cv2.putText(head, text[:58], (3, 13 + 16 * line), cv2.FONT_HERSHEY_SIMPLEX, 0.4, colour, 1, cv2.LINE_AA)
    return np.vstack([head, row])
