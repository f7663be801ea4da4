"""The first gate: an independent segmenter must find the lesion where the label says it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from polypforge.core.types import POLYP, Case, Mask, Request
from polypforge.core.window import Window, around_mask
from polypforge.data.field_of_view import field_of_view
from polypforge.masks.pseudo import is_speck
from polypforge.masks.shapes import region_mask
from polypforge.quality.agreement import iou
from polypforge.quality.judges import Judge

WINDOW_SCALE = 2.0  # window side / longer side of the lesion
MIN_WINDOW_PX = 64
MAX_LEFT = 0.08  # share of the region in which a removed lesion may still be found


@dataclass(frozen=True)
class GateConfig:
    """min_iou: least agreement between the label and the segmenter's prediction (DiffAug: 0.7)."""

    min_iou: float = 0.7

    def __post_init__(self) -> None:
        if not 0 <= self.min_iou <= 1:
            raise ValueError("min_iou must lie between 0 and 1")


@dataclass(frozen=True)
class Verdict:
    """kept or not, why not ("" when kept), and the agreement that was measured (None when there was nothing to measure)."""

    id: str
    kept: bool
    reason: str
    score: float | None

    def to_json(self) -> dict:
        return {"id": self.id, "kept": self.kept, "reason": self.reason, "score": self.score}


def judge(segmenter: Judge, cases: Sequence[Case], requests: Sequence[Request], config: GateConfig) -> list[Verdict]:
    """One verdict for each synthetic case; all windows run as one batch."""
    verdicts: dict[int, Verdict] = {}
    windows: dict[int, Window] = {}
    for i, (case, request) in enumerate(zip(cases, requests, strict=True)):
        region = region_mask(request.region, case.size)
        lesion = drawn_lesion(case, region)
        if request.label != POLYP:
            windows[i] = around_mask(region, 1.6, MIN_WINDOW_PX)
        elif is_speck(lesion, 2.0):
            verdicts[i] = Verdict(request.id, False, "no lesion was drawn", None)
        elif fills(lesion, region):
            verdicts[i] = Verdict(request.id, False, "the lesion fills its region: its outline is the region's", None)
        else:
            windows[i] = around_mask(lesion, WINDOW_SCALE, MIN_WINDOW_PX)
    order = list(windows)
    if order:
        chances = segmenter.predict_in([cases[i].image for i in order], [windows[i] for i in order])
        for i, chance in zip(order, chances, strict=True):
            verdicts[i] = _verdict(cases[i], requests[i], windows[i], chance > 0.5, config)
    return [verdicts[i] for i in range(len(cases))]


def drawn_lesion(case: Case, region: Mask) -> Mask:
    return case.mask & region if case.mask is not None else np.zeros(region.shape, bool)


def fills(lesion: Mask, region: Mask) -> bool:
    """True when the lesion leaves less than 4 % of its region free: then the boundary was cut, not drawn."""
    return float(lesion.sum()) > 0.96 * float(region.sum())


def agreement(segmenter: Judge, images: Sequence[np.ndarray], masks: Sequence[Mask]) -> list[float]:
    """IoU between each mask (not empty) and the prediction in a window around it; the same measure as the gate's."""
    windows = [around_mask(m, WINDOW_SCALE, MIN_WINDOW_PX) for m in masks]
    size = segmenter.config.window_px
    chances = segmenter.predict_in(images, windows)
    fields = [w.crop_mask(field_of_view(i), size) for i, w in zip(images, windows, strict=True)]
    return [iou((c > 0.5) & f, w.crop_mask(m, size) & f) for c, f, w, m in zip(chances, fields, windows, masks, strict=True)]


def _verdict(case: Case, request: Request, window: Window, found: Mask, config: GateConfig) -> Verdict:
    size = len(found)
    if request.label != POLYP:
        region = window.crop_mask(region_mask(request.region, case.size), size)
        left = float((found & region).sum() / max(1, region.sum()))
        return Verdict(
            request.id, left <= MAX_LEFT, "" if left <= MAX_LEFT else f"a lesion is still seen in {left:.0%} of the region", 1 - left
        )
    field = window.crop_mask(field_of_view(case.image), size)
    label = case.mask if case.mask is not None else np.zeros(case.size, bool)
    score = iou(found & field, window.crop_mask(label, size) & field)
    if score >= config.min_iou:
        return Verdict(request.id, True, "", score)
    reason = (
        "the segmenter sees no lesion there" if score < 0.1 else f"the segmenter disagrees with the label (IoU below {config.min_iou:g})"
    )
    return Verdict(request.id, False, reason, score)
