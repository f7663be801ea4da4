"""The detector's gate: for data whose labels are boxes (ControlPolypNet keeps a confidence of 0.7 and above)."""

from __future__ import annotations

from polypforge.core.types import Box
from polypforge.masks.shapes import bounding_box
from polypforge.quality.gates.gate import register_gate
from polypforge.quality.gates.subject import Subject

LEAST_OVERLAP = 0.5  # IoU of boxes that name the same lesion


@register_gate("detected", keep="at least", threshold=0.7, share=True, needs="detector", reason="the detector is not sure of the lesion")
def detected(subject: Subject) -> float | None:
    """Confidence of the surest box that overlaps the lesion's; with several detectors, the least favourable one's."""
    if subject.removed or not subject.lesion.any() or not subject.sightings:
        return None
    label = bounding_box(subject.lesion)
    return min(
        max((sure for box, sure in seen if box_iou(box, label) >= LEAST_OVERLAP), default=0.0) for seen in subject.sightings.values()
    )


def box_iou(a: Box, b: Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(0, width) * max(0, height)
    either = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    return both / either if either else 0.0
