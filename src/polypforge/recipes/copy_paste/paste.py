"""A real lesion cut out and blended into another frame (Poisson blending, Perez et al. 2003)."""

from __future__ import annotations

import cv2
import numpy as np

from polypforge.core.errors import UserError
from polypforge.core.types import Case
from polypforge.data.prepared import prepare
from polypforge.masks.shapes import bounding_box, components, dilate, region_mask
from polypforge.recipes.base import Job
from polypforge.recipes.windows import finished

FIT = 0.96  # of the region's box at most, so that the rim keeps clear of the region's outline
MARGIN = 0.06  # of the lesion's size: rim of the donor's own tissue that is blended in


def turned(donor: Case, degrees: float, mirrored: bool) -> Case:
    """The donor turned about its middle, on a canvas that holds all of it. Beyond its edges lies its mirror image, unlabelled."""
    assert donor.mask is not None
    height, width = donor.mask.shape
    angle = np.deg2rad(degrees)
    across = abs(np.cos(angle)) * width + abs(np.sin(angle)) * height
    down = abs(np.sin(angle)) * width + abs(np.cos(angle)) * height
    size = int(np.ceil(across)), int(np.ceil(down))
    move = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    move[:, 2] += (size[0] - width) / 2, (size[1] - height) / 2
    image = cv2.warpAffine(donor.image, move, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    mask = cv2.warpAffine(donor.mask.astype(np.uint8), move, size, flags=cv2.INTER_NEAREST).astype(bool)
    if mirrored:
        image, mask = np.ascontiguousarray(image[:, ::-1]), np.ascontiguousarray(mask[:, ::-1])
    return Case(donor.name, image, mask, group=donor.group)


def paste_lesion(job: Job, donor: Case, fit: float) -> Case:
    """`donor`'s largest lesion on the job's background, filling at most the share `fit` of its region's box.

    Pixels outside the region stay bit-equal. The label is the pasted lesion plus what of the old label still shows. Raises UserError when
    donor or region is empty.
    """
    frame = job.background.image
    region = region_mask(job.request.region, frame.shape[:2])
    if donor.mask is None or not donor.mask.any() or not region.any():
        raise UserError(f"request {job.request.id}: copy-paste needs a donor with a lesion mask and a region inside the frame.")
    lesion = components(donor.mask)[0]
    margin = dilate(lesion, MARGIN * np.sqrt(lesion.sum()))
    x0, y0, x1, y1 = bounding_box(margin)
    rx0, ry0, rx1, ry1 = bounding_box(region)
    scale = fit * min((rx1 - rx0) / (x1 - x0), (ry1 - ry0) / (y1 - y0))
    size = max(4, round((x1 - x0) * scale)), max(4, round((y1 - y0) * scale))
    patch = cv2.resize(donor.image[y0:y1, x0:x1], size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    cut = cv2.resize(margin[y0:y1, x0:x1].astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    shape = cv2.resize(lesion[y0:y1, x0:x1].astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    top = int(np.clip((ry0 + ry1 - size[1]) // 2, 1, frame.shape[0] - size[1] - 1))
    left = int(np.clip((rx0 + rx1 - size[0]) // 2, 1, frame.shape[1] - size[0] - 1))
    place = (slice(top, top + size[1]), slice(left, left + size[0]))

    source, stencil, pasted = frame.copy(), np.zeros(frame.shape[:2], np.uint8), np.zeros(frame.shape[:2], bool)
    source[place], stencil[place], pasted[place] = patch, cut * 255, shape.astype(bool)
    stencil[~region] = 0
    if not stencil[1:-1, 1:-1].any():
        raise UserError(f"request {job.request.id}: its region is too small or lies at the very edge of '{job.background.name}'.")
    x, y, w, h = cv2.boundingRect(stencil)
    touched = stencil > 0
    # OpenCV draws a border into the stencil that it is given, and so may write outside: it gets copies, and what it may change is cut.
    blended = cv2.seamlessClone(source, frame.copy(), stencil.copy(), (x + w // 2, y + h // 2), cv2.NORMAL_CLONE)
    image = np.where(touched[..., None], blended, frame)
    return finished(job, touched, prepare(job.background).field, image, pasted & touched)
