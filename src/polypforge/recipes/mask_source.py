"""Where a whole-frame recipe takes the mask of a request from."""

from __future__ import annotations

import numpy as np

from polypforge.core.errors import UserError
from polypforge.core.types import Mask
from polypforge.data.prepared import prepare
from polypforge.masks.shapes import polygon_mask
from polypforge.recipes.base import Job
from polypforge.recipes.windows import square_window


def asked_mask(job: Job, size_px: int) -> Mask:
    """(S, S) bool: the lesion polygon of the request, or the mask of the case that it names, in a square that keeps the lesion.

    Raises UserError when there is neither, or nothing of it is left.
    """
    case = job.background
    prepared = prepare(case)
    mask = polygon_mask(list(job.request.lesion), case.size) if job.request.lesion else case.mask
    if mask is None or not mask.any():
        raise UserError(f"request {job.request.id} needs a mask, but '{case.name}' shows no lesion: name a case with a mask.")
    found = square_window(prepared).crop_mask(mask, size_px)
    if not found.any():
        raise UserError(f"request {job.request.id}: the lesion lies outside '{case.name}'.")
    return np.ascontiguousarray(found)
