"""Gates on the label: do independent segmenters find the lesion where the label says it is, and nowhere else?

With several judges the least favourable one counts.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2

from polypforge.core.types import Mask
from polypforge.masks.shapes import components
from polypforge.quality.agreement import boundary_f, iou
from polypforge.quality.gates.gate import register_gate
from polypforge.quality.gates.subject import Look, Subject

LEAST_SHARE = 0.004  # of a judge's window: smaller parts are noise


@register_gate(
    "removed", keep="at most", threshold=0.08, share=True, needs="judge", reason="a lesion is still seen where it was to be removed"
)
def removed(subject: Subject) -> float | None:
    """Share of the region in which a lesion is found."""
    if not subject.removed:
        return None
    shares = []
    for look in _first_looks(subject):
        region = look.window.crop_mask(subject.region, len(look.chance))
        shares.append(float((look.found & region).sum() / max(1, region.sum())))
    return max(shares, default=None)


@register_gate("label_agreement", keep="at least", threshold=0.7, share=True, needs="judge", reason="the judge disagrees with the label")
def label_agreement(subject: Subject) -> float | None:
    """IoU of label and prediction in the window around the lesion (DiffAug keeps 0.7 and above)."""
    return min((iou(look.found, look.label & look.field) for look in _lesion_looks(subject)), default=None)


@register_gate("label_boundary", keep="at least", share=True, needs="judge", reason="the label's boundary lies elsewhere than the judge's")
def label_boundary(subject: Subject) -> float | None:
    """Boundary F-score of label and prediction."""
    return min((boundary_f(look.found, look.label & look.field) for look in _lesion_looks(subject)), default=None)


@register_gate(
    "asked_found", keep="at least", threshold=0.4, share=True, needs="judge", reason="the judge finds another shape than was asked for"
)
def asked_found(subject: Subject) -> float | None:
    """IoU of the asked outline and the prediction inside the region."""
    if subject.asked is None:
        return None
    scores = []
    for look in _lesion_looks(subject):
        asked, region = (look.window.crop_mask(m, len(look.chance)) for m in (subject.asked & subject.region, subject.region))
        scores.append(iou(look.found & region, asked & look.field))
    return min(scores, default=None)


@register_gate(
    "missed_lesion", keep="at least", threshold=0.3, share=True, needs="judge", reason="the judge misses one of several labelled lesions"
)
def missed_lesion(subject: Subject) -> float | None:
    """Of the labelled lesions in view, the worst found one: share of its pixels. None for a single lesion."""
    worst = []
    for look in _lesion_looks(subject):
        parts = _parts(look.label & look.field)
        if len(parts) > 1:
            worst.append(min(float(look.found[p].mean()) for p in parts))
    return min(worst, default=None)


@register_gate("extra_lesion", keep="at most", needs="judge", reason="the judge sees a lesion that the label doesn't hold")
def extra_lesion(subject: Subject) -> float | None:
    """Largest found part that touches no label, as a share of the lesion's area; in all windows."""
    if subject.removed or not subject.looks:
        return None
    most = 0.0
    for looks in subject.looks.values():
        for look in looks:
            area = max(float((look.label & look.field).sum()), LEAST_SHARE * look.label.size)
            free = [float(p.sum()) for p in _parts(look.found) if not (p & look.label).any()]
            most = max(most, max(free, default=0.0) / area)
    return most


def _first_looks(subject: Subject) -> Iterator[Look]:
    return (looks[0] for looks in subject.looks.values() if looks)


def _lesion_looks(subject: Subject) -> Iterator[Look]:
    return iter(()) if subject.removed or not subject.lesion.any() else _first_looks(subject)


def _parts(mask: Mask) -> list[Mask]:
    least = max(4, round(LEAST_SHARE * mask.size))
    return components(mask, least) if cv2.countNonZero(mask.view("uint8")) >= least else []
