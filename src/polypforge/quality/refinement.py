"""Better labels from judges: soft ones, and boundaries moved to where all judges agree."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from polypforge.core.types import Mask
from polypforge.core.window import Window
from polypforge.quality.agreement import iou
from polypforge.quality.gates.subject import Subject

AGREED = 0.8  # least IoU between any two judges, and between their mean and the label, for a boundary to move


def judged_chance(subject: Subject) -> NDArray[np.float32] | None:
    """(H, W) float32 lesion probability: the judges' mean in the window around the lesion, 0 elsewhere. None when none looked."""
    looks = [looks[0] for looks in subject.looks.values() if looks]
    if not looks:
        return None
    return np.mean([_in_frame(look.chance, look.window, subject.case.size) for look in looks], 0, dtype=np.float32)


def soft_label(subject: Subject) -> NDArray[np.float32] | None:
    """(H, W) float32 in 0..1: mean of the label and of what the judges see, inside the region; the hard label elsewhere."""
    chance, label = judged_chance(subject), subject.case.mask
    if chance is None or label is None:
        return None
    return np.where(subject.region, (chance + label) / 2, label).astype(np.float32)


def refined_label(subject: Subject) -> Mask | None:
    """The label with the lesion's boundary where the judges see it; None where they don't agree with each other and with the label.

    Only pixels inside the region change; other lesions keep their label.
    """
    looks = [looks[0] for looks in subject.looks.values() if looks]
    chance, label = judged_chance(subject), subject.case.mask
    if chance is None or label is None or subject.removed:
        return None
    found = (chance > 0.5) & subject.region
    each = [_in_frame(look.chance, look.window, subject.case.size) > 0.5 for look in looks]
    between = [iou(a, b) for a, b in combinations(each, 2)]
    if not found.any() or min([iou(found, subject.lesion), *between]) < AGREED:
        return None
    return (label & ~subject.region) | found


def _in_frame(chance: NDArray[np.float32], window: Window, size: tuple[int, int]) -> NDArray[np.float32]:
    """The window's values drawn into a frame of zeros."""
    height, width = size
    half = window.side_px / 2
    inside = np.zeros(size, np.float32)
    x0, x1 = max(0, round(window.x - half)), min(width, round(window.x + half) + 1)
    y0, y1 = max(0, round(window.y - half)), min(height, round(window.y + half) + 1)
    inside[y0:y1, x0:x1] = window.uncrop(chance, np.s_[y0:y1, x0:x1])
    return inside.clip(0, 1)
