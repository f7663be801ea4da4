"""The detector's gate: for data whose labels are boxes (ControlPolypNet keeps a confidence of 0.7 and above)."""

from __future__ import annotations

from polypforge.masks.shapes import bounding_box, box_iou
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
