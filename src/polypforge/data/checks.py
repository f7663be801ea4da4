"""What is wrong or remarkable in a set of cases, file by file, before anything learns from it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import joblib
import numpy as np
from numpy.typing import NDArray

from polypforge.core.errors import UserError
from polypforge.core.files import sha256_of
from polypforge.core.images import LESION_LEVEL, read_grey
from polypforge.core.types import NORMAL, Case, Mask
from polypforge.data.duplicates import Fingerprint, Pair, find_pairs, fingerprint
from polypforge.data.field_of_view import field_of_view
from polypforge.data.overlays import has_inset_box, overlay_text
from polypforge.data.source import Source, SourceCase

ERRORS = ("unreadable", "unpaired", "size-mismatch", "inverted-mask", "full-mask", "contradiction", "unmarked")  # such cases can't be used
WARNINGS = ("soft-mask", "empty-mask", "exact-duplicate", "duplicate", "near-duplicate", "crosses-splits")
NOTES = ("possible-near-duplicate", "burnt-in-text", "inset-box", "black-border")

SOFT_SHARE = 0.12  # of a lesion's area that may be neither black nor white; a JPEG's fringe stays below it
BORDER_SHARE = 0.02  # of the frame outside the field of view that counts as a black border


@dataclass(frozen=True)
class Finding:
    """One remark on one case, or on a pair of them."""

    kind: str
    cases: tuple[str, ...]
    message: str

    @property
    def severity(self) -> str:
        return "error" if self.kind in ERRORS else "warning" if self.kind in WARNINGS else "note"


@dataclass
class CheckReport:
    """Findings, the links between cases that belong together, the names of the cases that can be used, and of those that show a lesion."""

    total: int
    usable: list[str]
    findings: list[Finding]
    pairs: list[tuple[str, str]] = field(default_factory=list)
    lesions: list[str] = field(default_factory=list)

    def of(self, kind: str) -> list[Finding]:
        return [f for f in self.findings if f.kind == kind]

    def counts(self) -> dict[str, int]:
        kinds = [*ERRORS, *WARNINGS, *NOTES]
        return {kind: len(self.of(kind)) for kind in kinds if self.of(kind)}

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"counts": self.counts(), "findings": [asdict(f) | {"severity": f.severity} for f in self.findings]}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> CheckReport:
        findings = [Finding(f["kind"], tuple(f["cases"]), f["message"]) for f in values["findings"]]
        return cls(values["total"], values["usable"], findings, [(a, b) for a, b in values["pairs"]], values["lesions"])


def check(source: Source, advance: Callable[[str, int], None] | None = None, workers: int | None = None) -> CheckReport:
    """Look at every case. `advance(stage, total)` is called once for each step of a stage ("cases", "pairs")."""
    findings = [Finding("unpaired", (path.stem,), text) for path, text in zip(source.unpaired, source.lacking, strict=True)]
    usable: list[SourceCase] = []
    lesions: list[str] = []
    prints: list[Fingerprint] = []
    by_hash: dict[str, str] = {}
    with ThreadPoolExecutor(workers or joblib.cpu_count()) as pool:
        for case, looked in zip(source.cases, pool.map(_look, source.cases), strict=True):
            own, print_, digest, shows = looked
            findings += own
            if advance:
                advance("cases", len(source.cases))
            if print_ is None:
                continue
            if digest in by_hash:
                text = f"{case.image_path} equals the image of '{by_hash[digest]}' byte for byte: keep one of them."
                findings.append(Finding("exact-duplicate", (by_hash[digest], case.name), text))
            by_hash.setdefault(digest, case.name)
            usable.append(case)
            lesions += [case.name] if shows else []
            prints.append(print_)
    pairs = find_pairs(prints, (lambda total: advance("pairs", total)) if advance else None)
    findings += [_pair_finding(pair, usable) for pair in pairs]
    findings += [_crossing(pair, usable) for pair in pairs if _splits(pair, usable)]
    return CheckReport(len(source), [c.name for c in usable], findings, [(usable[p.a].name, usable[p.b].name) for p in pairs], lesions)


def _look(case: SourceCase) -> tuple[list[Finding], Fingerprint | None, str, bool]:
    """(findings, fingerprint or None when the case can't be used, SHA-256 of the image file, whether it shows a lesion)."""
    try:
        loaded = case.load()
    except UserError as error:
        kind = "size-mismatch" if "but its image" in str(error) else "unreadable"
        return [Finding(kind, (case.name,), str(error))], None, "", False
    findings = _mask_findings(case, loaded)
    findings += _frame_findings(case, loaded)
    bad = any(f.severity == "error" for f in findings)
    shows = bool(loaded.boxes) if loaded.mask is None else bool(loaded.mask.any())
    return findings, None if bad else fingerprint(loaded.image), sha256_of(case.image_path), shows


def _mask_findings(case: SourceCase, loaded: Case) -> list[Finding]:
    mask = loaded.mask
    if mask is None:
        if loaded.boxes or case.label in ("", NORMAL):
            return []
        text = f"{case.image_path} is labelled {case.label}, but no mask or box says where: add one, or leave the frame out."
        return [Finding("unmarked", (case.name,), text)]
    where = case.mask_paths[0] if case.mask_paths else case.image_path
    if mask.all():
        return [Finding("full-mask", (case.name,), f"{where} marks every pixel: it is no lesion mask.")]
    if looks_inverted(mask):
        return [Finding("inverted-mask", (case.name,), f"{where} marks the surroundings instead of the lesion: invert it.")]
    if not mask.any():
        if case.label == NORMAL:
            return []
        text = (
            f"{where} is empty: the case counts as normal."
            if not case.label
            else f"{where} is empty, but the case is labelled {case.label}."
        )
        return [Finding("empty-mask" if not case.label else "contradiction", (case.name,), text)]
    if case.label == NORMAL:
        return [Finding("contradiction", (case.name,), f"{where} shows a lesion, but the case is labelled normal: mend one of them.")]
    if len(case.mask_paths) == 1 and not loaded.classes:
        share = soft_share(read_grey(where))
        if share > SOFT_SHARE:
            text = (
                f"{where} has soft edges ({share:.0%} of its lesion is neither black nor white): from {LESION_LEVEL} up counts as lesion."
            )
            return [Finding("soft-mask", (case.name,), text)]
    return []


def looks_inverted(mask: Mask) -> bool:
    """True when lesion pixels fill most of the frame's edge and most of the frame."""
    edge = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    return bool(edge.mean() > 0.9 and mask.mean() > 0.5)


def soft_share(grey: NDArray[np.uint8]) -> float:
    """Pixels of value 32..223 as a share of the lesion's pixels."""
    lesion = int((grey >= LESION_LEVEL).sum())
    return float(((grey >= 32) & (grey < 224)).sum() / max(1, lesion))


def _frame_findings(case: SourceCase, loaded: Case) -> list[Finding]:
    findings = []
    text = overlay_text(loaded.image)
    if text.mean() > 0.001:
        findings.append(Finding("burnt-in-text", (case.name,), f"{case.image_path} shows text on {text.mean():.1%} of the frame."))
    if has_inset_box(loaded.image):
        findings.append(Finding("inset-box", (case.name,), f"{case.image_path} shows an inset box."))
    outside = 1 - field_of_view(loaded.image).mean()
    if outside > BORDER_SHARE:
        findings.append(Finding("black-border", (case.name,), f"{case.image_path}: {outside:.0%} of the frame is border or inset."))
    return findings


def _pair_finding(pair: Pair, cases: list[SourceCase]) -> Finding:
    a, b = cases[pair.a], cases[pair.b]
    if pair.kind == "duplicate":
        return Finding("duplicate", (a.name, b.name), f"'{a.name}' and '{b.name}' are one picture, saved twice (correlation {pair.score}).")
    verb = "show" if pair.kind == "near-duplicate" else "may show"
    return Finding(pair.kind, (a.name, b.name), f"'{a.name}' and '{b.name}' {verb} one scene ({pair.score:.0f} matching places).")


def _splits(pair: Pair, cases: list[SourceCase]) -> bool:
    a, b = cases[pair.a].split, cases[pair.b].split
    return bool(a and b and a != b)


def _crossing(pair: Pair, cases: list[SourceCase]) -> Finding:
    a, b = cases[pair.a], cases[pair.b]
    text = f"'{a.name}' ({a.split}) and '{b.name}' ({b.split}) belong together but lie in two splits: move one (polypforge data split)."
    return Finding("crosses-splits", (a.name, b.name), text)
