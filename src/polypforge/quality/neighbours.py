"""The real lesion that looks most like a synthetic one: a first, plain look at memorisation.

A lesion is described by its window (twice its size) at 24x24, in grey and normalised, so that colour and light don't hide a copy; mirror
images and quarter turns count as equal. The score is the correlation, 1 for a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from polypforge.core.types import Image, Mask
from polypforge.core.window import around_mask

SIDE_PX = 24


@dataclass(frozen=True)
class Neighbour:
    index: int
    correlation: float


def descriptor(image: Image, lesion: Mask) -> NDArray[np.float32]:
    """(24, 24) float32 of zero mean and unit norm."""
    window = around_mask(lesion, 1.5, 32).crop(image, 4 * SIDE_PX)
    grey = cv2.resize(cv2.cvtColor(window, cv2.COLOR_RGB2GRAY), (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA).astype(np.float32)
    grey -= grey.mean()
    return grey / max(1e-6, float(np.linalg.norm(grey)))


def poses(view: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """The eight mirror images and quarter turns of a square view."""
    turned = [np.rot90(view, k) for k in range(4)]
    return turned + [v[:, ::-1] for v in turned]


def nearest(queries: Sequence[NDArray[np.float32]], references: Sequence[NDArray[np.float32]]) -> list[Neighbour]:
    """For each query its most similar reference under any pose. Raises ValueError without references."""
    if not len(references):
        raise ValueError("there are no references to compare with")
    bank = np.stack([r.reshape(-1) for r in references])
    found = []
    for query in queries:
        scores = np.max([bank @ np.ascontiguousarray(p).reshape(-1) for p in poses(query)], axis=0)
        best = int(scores.argmax())
        found.append(Neighbour(best, float(scores[best])))
    return found


def first_alike(views: Sequence[NDArray[np.float32]], limit: float) -> list[int | None]:
    """For each view the first earlier one that stays and correlates at least `limit` with it under any pose; None: it stays itself."""
    bank = np.empty((len(views), views[0].size if views else 0), np.float32)
    kept: list[int] = []
    found: list[int | None] = []
    for i, view in enumerate(views):
        turned = np.stack([p.reshape(-1) for p in poses(view)]).astype(np.float32)
        alike = np.flatnonzero((bank[: len(kept)] @ turned.T).max(1, initial=-1) >= limit)
        found.append(kept[alike[0]] if len(alike) else None)
        if not len(alike):
            bank[len(kept)] = view.reshape(-1)
            kept.append(i)
    return found
