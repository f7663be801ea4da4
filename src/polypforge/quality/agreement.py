"""How well two masks agree."""

from __future__ import annotations

import cv2
import numpy as np

from polypforge.core.types import Mask
from polypforge.masks.shapes import bounding_box, rim

BOUNDARY_TOLERANCE = 0.03  # of the longer side of the two masks' common box


def iou(a: Mask, b: Mask) -> float:
    """Intersection over union; 1.0 when both are empty."""
    either = int((a | b).sum())
    return float((a & b).sum() / either) if either else 1.0


def boundary_f(a: Mask, b: Mask, tolerance_px: float | None = None) -> float:
    """Boundary F-score (Csurka et al. 2013): harmonic mean of the shares of either boundary that lie within `tolerance_px` of the other.

    tolerance_px: by default BOUNDARY_TOLERANCE of the longer side of the box around both, at least 1. 1.0 when both are empty, 0.0 when
    one is.
    """
    if not a.any() or not b.any():
        return float(a.any() == b.any())
    x0, y0, x1, y1 = bounding_box(a | b)
    tolerance = tolerance_px if tolerance_px is not None else max(1.0, BOUNDARY_TOLERANCE * max(x1 - x0, y1 - y0))
    edges = [rim(np.pad(m[y0:y1, x0:x1], 2)) for m in (a, b)]
    far = [cv2.distanceTransform((~e).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) for e in edges]
    near = [float((far[1 - i][edges[i]] <= tolerance).mean()) for i in range(2)]
    return 2 * near[0] * near[1] / sum(near) if sum(near) else 0.0
