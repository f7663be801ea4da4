"""Where a lesion of a given outline fits in a frame, and how its region is drawn."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from polypforge.core.images import shrunk_size
from polypforge.core.types import Image, Mask
from polypforge.masks.shapes import dilate, outline, polygon_mask
from polypforge.proposals.proposal import Proposal

LUMEN_LEVEL = 48  # mean grey below which a place is taken for the lumen or deep shadow
GLARE_LEVEL = 238
WORK_PX = 320  # longer side at which places are judged
TRIALS = 60
MARGIN = 0.12  # room around a lesion's hull, as a share of its longer side
LEAST_AREA_PX = 30  # of a part of a label that is taken for a lesion


def region_polygon(region: Mask) -> tuple[tuple[int, int], ...]:
    """The region's outline as a short polygon (tolerance 1 % of its size)."""
    size = float(np.sqrt(region.sum()))
    return tuple(outline(region, max(1.0, 0.01 * size)))


def propose(
    image: Image,
    field: Mask,
    occupied: Mask,
    radius_px: float,
    draw: Callable[[np.random.Generator], NDArray[np.float64]],
    rng: np.random.Generator,
    centres: Mask | None = None,
) -> Proposal | None:
    """The best of several random places for a region of `radius_px` (area-equivalent, frame pixels); None when none fits.

    draw(rng) gives an outline of unit radius around (0, 0). centres: (H, W), where its middle may lie; None: anywhere. A place must lie in
    the field of view (>= 97 %), touch nothing in `occupied`, and be neither lumen nor glare.
    """
    scale, size = shrunk_size(image.shape, WORK_PX)
    grey = cv2.cvtColor(cv2.resize(image, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    view = cv2.resize(field.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST).astype(bool)
    taken = cv2.resize(occupied.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST).astype(bool)
    taken = dilate(taken, 0.02 * size[0]) if taken.any() else taken
    open_to = view & ~taken
    if centres is not None:
        open_to &= cv2.resize(centres.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST).astype(bool)
    rows, columns = np.nonzero(open_to)
    if not len(rows):
        return None
    best: Proposal | None = None
    accepted = 0
    for _ in range(TRIALS):
        pick = rng.integers(len(rows))
        points = draw(rng) * radius_px * scale + np.array([columns[pick], rows[pick]])
        place = polygon_mask(np.rint(points), grey.shape)
        clipped = (points.min() < 0) or (points[:, 0].max() >= size[0]) or (points[:, 1].max() >= size[1])
        if clipped or not place.any() or view[place].mean() < 0.97 or taken[place].any():
            continue
        light = grey[place].astype(np.float32)
        if light.mean() < LUMEN_LEVEL or (light > GLARE_LEVEL).mean() > 0.15 or (light < LUMEN_LEVEL * 0.7).mean() > 0.25:
            continue
        score = float(np.clip(1 - light.std() / 60, 0, 1) * np.clip(light.mean() / 110, 0.3, 1))
        if best is None or score > best.score:
            best = Proposal(tuple((int(x), int(y)) for x, y in np.rint(points / scale)), score)
        accepted += 1
        if accepted >= 3:  # the best of a few, not the best of all: variety of places matters more
            break
    return best
