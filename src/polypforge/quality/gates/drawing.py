"""Gates on what was drawn: is there a lesion, is its outline its own, does it lie in the field of view, is it what was asked?"""

from __future__ import annotations

from polypforge.masks.shapes import inner_distance
from polypforge.quality.agreement import boundary_f, iou
from polypforge.quality.gates.gate import register_gate
from polypforge.quality.gates.subject import Subject


@register_gate("lesion_drawn", keep="at least", threshold=2.0, reason="no lesion was drawn")
def lesion_drawn(subject: Subject) -> float | None:
    """Radius in pixels of the largest disc inside the lesion."""
    if subject.removed:
        return None
    return float(inner_distance(subject.lesion).max()) if subject.lesion.any() else 0.0


@register_gate("own_outline", keep="at most", threshold=0.96, share=True, reason="the lesion fills its region: its outline is the region's")
def own_outline(subject: Subject) -> float | None:
    """Share of the region that the lesion covers; above the threshold the outline was cut, not drawn."""
    if subject.removed or subject.asked is not None:
        return None
    return float(subject.lesion.sum()) / max(1.0, float(subject.region.sum()))


@register_gate("in_view", keep="at least", threshold=0.9, share=True, reason="the lesion lies outside the field of view")
def in_view(subject: Subject) -> float | None:
    """Share of the lesion inside the field of view."""
    return float(subject.field[subject.lesion].mean()) if subject.lesion.any() else None


@register_gate("asked_agreement", keep="at least", threshold=0.5, share=True, reason="the label is not the outline that was asked for")
def asked_agreement(subject: Subject) -> float | None:
    """IoU of the asked outline and the label."""
    return iou(subject.asked & subject.region, subject.lesion) if subject.asked is not None and not subject.removed else None


@register_gate(
    "asked_boundary", keep="at least", threshold=0.3, share=True, reason="the label's boundary is not the one that was asked for"
)
def asked_boundary(subject: Subject) -> float | None:
    """Boundary F-score of the asked outline and the label."""
    return boundary_f(subject.asked & subject.region, subject.lesion) if subject.asked is not None and not subject.removed else None
