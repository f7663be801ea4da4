"""Which lesions of a synthetic case on disk are synthetic."""

from __future__ import annotations

from polypforge.core.types import POLYP, Case, Mask, Request
from polypforge.data.source import SourceCase
from polypforge.quality.audit.training import lesions_of
from polypforge.quality.gates import Subject


def request_of(case: SourceCase) -> Request | None:
    row = case.provenance.get("request")
    return Request.from_json(row) if isinstance(row, dict) else None


def is_whole_frame(case: SourceCase) -> bool:
    request = request_of(case)
    return request is None or not request.region


def drawn_lesions(source: SourceCase, case: Case) -> list[Mask]:
    """The lesions that are synthetic."""
    request = request_of(source)
    if request is None or not request.region:
        return list(lesions_of(case))
    if request.label != POLYP:
        return []
    drawn = Subject.synthetic(case, request).lesion
    return [drawn] if drawn.any() else []
