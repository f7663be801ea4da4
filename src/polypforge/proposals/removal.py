"""Requests that turn the lesions of a frame to normal tissue, one after the other."""

from __future__ import annotations

import numpy as np

from polypforge.core.seeding import seed_from
from polypforge.core.types import NORMAL, Case, Mask, Request
from polypforge.data.prepared import Prepared
from polypforge.masks.shapes import box_mask, components, loosened
from polypforge.proposals.places import LEAST_AREA_PX, MARGIN, region_polygon


def removals(background: Prepared, seed: int) -> list[Request]:
    """One request for each lesion; each but the first has the one before as its parent."""
    requests: list[Request] = []
    for lesion in visible_lesions(background):
        outline = region_polygon(loosened(lesion, MARGIN) & background.field)
        if len(outline) < 3:  # a sliver at the edge of the field: there is nothing to remove
            continue
        parent = requests[-1].id if requests else ""
        own = seed_from(seed, "remove", len(requests))
        requests.append(Request(background.case.name, NORMAL, outline, own, parent=parent))
    return requests


def visible_lesions(background: Prepared) -> list[Mask]:
    """The parts of the label that reach into the field of view, largest first."""
    return [part for part in components(lesions_of(background.case), LEAST_AREA_PX) if (part & background.field).any()]


def lesions_of(case: Case) -> Mask:
    """The case's mask, or its boxes filled when it has no mask."""
    if case.mask is not None:
        return case.mask
    filled = np.zeros(case.size, bool)
    for box in case.boxes:
        filled |= box_mask(box, case.size)
    return filled
