"""The gate against copies of training lesions; the audit looks further (`polypforge audit`)."""

from __future__ import annotations

from polypforge.quality.gates.gate import register_gate
from polypforge.quality.gates.subject import Subject

COPIED = 0.4  # unrelated real lesions stay below, pasted copies lie above (docs/audit.md has both distributions)


@register_gate("copied", keep="at most", threshold=COPIED, needs="training", reason="the lesion copies one of the training data")
def copied(subject: Subject) -> float | None:
    """Correlation of fine structure with the most similar training lesion after alignment; -1 where none could be aligned."""
    return subject.nearest.correlation if subject.nearest is not None else None
