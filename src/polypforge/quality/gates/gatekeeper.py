"""Runs a list of gates over cases: judges look in batches, scores are taken, thresholds are found on real lesions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from polypforge.core.window import Window, around_mask
from polypforge.masks.shapes import bounding_box
from polypforge.quality.audit.training import TrainingPictures, match_lesion
from polypforge.quality.detector import Detector
from polypforge.quality.gates.gate import Rule
from polypforge.quality.gates.subject import Look, Subject
from polypforge.quality.gates.verdict import Scores, Verdict, decide
from polypforge.quality.judges import MIN_WINDOW_PX, WINDOW_SCALE, Judge

REMOVED_SCALE = 1.6  # window side / longer side of a region whose lesion was removed


@dataclass
class Gatekeeper:
    """judges, detectors: by name. training: lesions that must not be copied. thresholds: of each rule, filled by `calibrate`; a rule
    without one is not applied."""

    rules: Sequence[Rule]
    judges: Mapping[str, Judge] = field(default_factory=dict)
    detectors: Mapping[str, Detector] = field(default_factory=dict)
    training: TrainingPictures | None = None
    thresholds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.thresholds = {r.name: r.fixed for r in self.rules if r.fixed is not None} | self.thresholds

    @property
    def uncalibrated(self) -> list[str]:
        return [r.name for r in self.rules if r.name not in self.thresholds]

    def calibrate(self, scores: Iterable[Scores]) -> None:
        """Take the thresholds that `calibrated` finds."""
        self.thresholds |= self.calibrated(scores)

    def calibrated(self, scores: Iterable[Scores]) -> dict[str, float]:
        """All thresholds: fixed ones, and the others from scores of real lesions: the quantile that `rejected_real` of them would fail."""
        rows = list(scores)
        found = {r.name: r.fixed for r in self.rules if r.fixed is not None}
        for rule in self.rules:
            values = [row[rule.name] for row in rows if row.get(rule.name) is not None]
            if rule.fixed is None and values:
                low = rule.gate.keep == "at least"
                share = rule.rejected_real if low else 1 - rule.rejected_real
                found[rule.name] = float(np.quantile(values, share, method="lower" if low else "higher"))

        return found

    def see(self, subjects: Sequence[Subject], needs: set[str]) -> None:
        """Let judges and detectors look, where a rule among `needs` wants them. All windows of a judge run as one batch."""
        for name, judge in self.judges.items() if "judge" in needs else ():
            for each in {id(j): j for j in (judge.for_case(s.made_from) for s in subjects)}.values():
                mine = [s for s in subjects if judge.for_case(s.made_from) is each]
                _look(name, each, mine)
        for name, detector in self.detectors.items() if "detector" in needs else ():
            shown = [s for s in subjects if s.lesion.any()]
            windows = [_windows(s)[0] for s in shown]
            for subject, seen in zip(shown, detector.detect_in([s.case.image for s in shown], windows), strict=True):
                subject.sightings[name] = seen
        if "training" in needs and self.training is not None:
            for subject in subjects:
                if subject.lesion.any():
                    subject.nearest = match_lesion(self.training, subject.case.image, subject.lesion)

    def scores(self, subjects: Sequence[Subject], names: Iterable[str] | None = None) -> list[Scores]:
        """Of every rule, or of the named ones alone."""
        wanted = [r for r in self.rules if names is None or r.name in set(names)]
        self.see(subjects, {r.gate.needs for r in wanted})
        return [{r.name: _number(r.gate.score(s)) for r in wanted} for s in subjects]

    def decide(self, id: str, scores: Scores) -> Verdict:
        return decide(id, scores, self.rules, self.thresholds)

    def verdicts(self, subjects: Sequence[Subject]) -> list[Verdict]:
        return [self.decide(s.id, row) for s, row in zip(subjects, self.scores(subjects), strict=True)]


def label_gates(judge: Judge, min_iou: float = 0.7) -> Gatekeeper:
    """The gates on drawing and label alone, whose thresholds need no data."""
    rules = [Rule("lesion_drawn"), Rule("own_outline"), Rule("removed"), Rule("label_agreement", min_iou)]
    return Gatekeeper(rules, {judge.name: judge})


def _number(score: float | None) -> float | None:
    """A plain float; None for what is no number."""
    return float(score) if score is not None and np.isfinite(score) else None


def _windows(subject: Subject) -> list[Window]:
    """Where a judge looks: around the lesion (or the region that was emptied); in a new frame, at the whole of it too."""
    if subject.removed:
        return [around_mask(subject.region, REMOVED_SCALE, MIN_WINDOW_PX)]
    if not subject.lesion.any():
        return []
    windows = [around_mask(subject.lesion, WINDOW_SCALE, MIN_WINDOW_PX)]
    if subject.whole_frame:
        x0, y0, x1, y1 = bounding_box(subject.field) if subject.field.any() else (0, 0, *subject.case.size[::-1])
        windows.append(Window((x0 + x1 - 1) / 2, (y0 + y1 - 1) / 2, max(x1 - x0, y1 - y0)))
    return windows


def _look(name: str, judge: Judge, subjects: Sequence[Subject]) -> None:
    places = [(s, w) for s in subjects for w in _windows(s)]
    for subject in subjects:
        subject.looks[name] = []
    if not places:
        return
    size = judge.config.window_px
    chances = judge.predict_in([s.case.image for s, _ in places], [w for _, w in places])
    for (subject, window), chance in zip(places, chances, strict=True):
        label = subject.case.mask if subject.case.mask is not None else subject.lesion
        subject.looks[name].append(Look(window, chance, window.crop_mask(label, size), window.crop_mask(subject.field, size)))
