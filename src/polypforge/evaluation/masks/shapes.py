"""Are generated lesions of the sizes, places and shapes of real ones, and is their outline where the picture changes?"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.stats import ks_2samp, wasserstein_distance

from polypforge.core.images import shrunk_size
from polypforge.core.types import Image, Mask
from polypforge.masks.attributes import shape
from polypforge.masks.shapes import components

LONGEST_PX = 256  # masks are measured at this size
NAMES = ("size", "x", "y", "elongation", "solidity", "lesions")


def describe(mask: Mask) -> dict[str, float] | None:
    """size: sqrt(area / image area). x, y: centre, in shares of width and height. elongation, solidity: as `Attributes`, of the largest
    lesion. lesions: their number. None for an empty mask."""
    small = at_longest(mask)
    if not small.any():
        return None
    parts = components(small, 4) or [small]
    ys, xs = np.nonzero(small)
    elongation, solidity = shape(parts[0])
    return {
        "size": float(np.sqrt(small.mean())),
        "x": float((xs.mean() + 0.5) / small.shape[1]), "y": float((ys.mean() + 0.5) / small.shape[0]),
        "elongation": elongation, "solidity": solidity, "lesions": float(len(parts)),
    }  # fmt: skip


def at_longest(mask: Mask) -> Mask:
    """With LONGEST_PX as its longer side, or as it is when smaller; what is thinner than a pixel of it is gone."""
    _, size = shrunk_size(mask.shape, LONGEST_PX)
    return cv2.resize(mask.astype(np.uint8) * 255, size, interpolation=cv2.INTER_AREA) >= 128


def distribution_distances(
    real: Sequence[Mask], made: Sequence[Mask], real_groups: Sequence[str] = (), made_groups: Sequence[str] = ()
) -> dict[str, dict[str, float]]:
    """For each of NAMES: Wasserstein distance, Kolmogorov-Smirnov p, means. Raises ValueError when a set shows no lesion.

    groups: of each mask (patient, video, scene), where some are of one: p then looks at the first mask of each group alone, as the others
    are no witnesses of their own.
    """
    rows, lone = [], []
    for masks, groups in ((real, real_groups), (made, made_groups)):
        told = [(d, g) for mask, g in zip(masks, groups or map(str, range(len(masks))), strict=True) if (d := describe(mask)) is not None]
        rows.append([d for d, _ in told])
        lone.append(list({g: d for d, g in reversed(told)}.values()))
    if not all(rows):
        raise ValueError("one of the sets shows no lesion")
    found = {}
    for name in NAMES:
        a, b = (np.array([row[name] for row in part]) for part in rows)
        ks = ks_2samp(*([row[name] for row in part] for part in lone))
        found[name] = {
            "real": float(a.mean()), "made": float(b.mean()), "distance": float(wasserstein_distance(a, b)), "p": float(ks.pvalue),
        }  # fmt: skip
    return found


def boundary_sharpness(image: Image, mask: Mask) -> float:
    """How much more the picture changes across the outline than beside it: mean CIELAB step between 3 px inside and 3 px outside, over the
    mean step of that length around it. 1: the outline follows nothing. NaN without an outline inside the frame. At LONGEST_PX."""
    small = at_longest(mask)
    if not small.any() or small.all():
        return float("nan")
    lab = cv2.cvtColor(cv2.resize(image, small.shape[::-1], interpolation=cv2.INTER_AREA).astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    outside = cv2.distanceTransform((~small).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    inside = cv2.distanceTransform(small.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    level = cv2.GaussianBlur(outside - inside, (0, 0), 2.0)
    gy, gx = np.gradient(level)
    across = np.stack([gx, gy]) / np.maximum(np.hypot(gx, gy), 1e-6)
    steps = _step(lab, across)
    edge = np.abs(level) < 1
    beside = (np.abs(level) > 6) & (np.abs(level) < 14)
    if not edge.any() or not beside.any():
        return float("nan")
    return float(steps[edge].mean() / max(float(steps[beside].mean()), 1e-6))


def _step(lab: NDArray[np.float32], across: NDArray[np.float32], reach: float = 3.0) -> NDArray[np.float32]:
    """CIELAB distance between the points `reach` px either way along `across`, for each pixel."""
    ys, xs = np.mgrid[: lab.shape[0], : lab.shape[1]].astype(np.float32)
    ends = []
    for sign in (-1, 1):
        x, y = (xs + sign * reach * across[0]).astype(np.float32), (ys + sign * reach * across[1]).astype(np.float32)
        ends.append(cv2.remap(lab, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))
    return np.linalg.norm(ends[0] - ends[1], axis=-1)
