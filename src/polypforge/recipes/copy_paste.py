"""The plainest alternative: a real lesion cut out and blended into another frame (Poisson blending, Perez et al. 2003)."""

from __future__ import annotations

import cv2
import numpy as np

from polypforge.core.types import POLYP, Case
from polypforge.masks.shapes import bounding_box, component_boxes, components, dilate, region_mask
from polypforge.recipes.base import Job


def paste_lesion(job: Job, donor: Case) -> Case:
    """`donor`'s largest lesion, scaled to fit the job's region, on the job's background.

    The label is the pasted lesion plus what the background showed outside it. Raises ValueError when donor or region is empty.
    """
    frame = job.background.image
    region = region_mask(job.request.region, frame.shape[:2])
    if donor.mask is None or not donor.mask.any() or not region.any():
        raise ValueError("copy-paste needs a donor with a lesion mask and a region inside the frame")
    lesion = components(donor.mask)[0]
    margin = dilate(lesion, 0.06 * np.sqrt(lesion.sum()))
    x0, y0, x1, y1 = bounding_box(margin)
    rx0, ry0, rx1, ry1 = bounding_box(region)
    scale = min((rx1 - rx0) / (x1 - x0), (ry1 - ry0) / (y1 - y0))
    size = max(4, round((x1 - x0) * scale)), max(4, round((y1 - y0) * scale))
    patch = cv2.resize(donor.image[y0:y1, x0:x1], size, interpolation=cv2.INTER_AREA)
    cut = cv2.resize(margin[y0:y1, x0:x1].astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    shape = cv2.resize(lesion[y0:y1, x0:x1].astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    top = int(np.clip((ry0 + ry1 - size[1]) // 2, 1, frame.shape[0] - size[1] - 1))
    left = int(np.clip((rx0 + rx1 - size[0]) // 2, 1, frame.shape[1] - size[0] - 1))

    source, stencil = frame.copy(), np.zeros(frame.shape[:2], np.uint8)
    source[top : top + size[1], left : left + size[0]] = patch
    stencil[top : top + size[1], left : left + size[0]] = cut * 255
    x, y, w, h = cv2.boundingRect(stencil)
    image = cv2.seamlessClone(source, frame, stencil, (x + w // 2, y + h // 2), cv2.NORMAL_CLONE)
    pasted = np.zeros(frame.shape[:2], bool)
    pasted[top : top + size[1], left : left + size[0]] = shape.astype(bool)
    old = job.background.mask if job.background.mask is not None else np.zeros_like(pasted)
    mask = pasted | (old & ~(stencil > 0))
    return Case(f"paste-{job.request.id}", image, mask, component_boxes(mask, 4), POLYP, job.background.group, job.background.split)
