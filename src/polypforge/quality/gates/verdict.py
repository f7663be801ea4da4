"""What the gates decided on one case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from polypforge.quality.gates.gate import Rule

Scores = dict[str, float | None]


@dataclass(frozen=True)
class Verdict:
    """kept or not; why not ("" when kept): the first rule that failed, in words; the names of all that failed; every score."""

    id: str
    kept: bool
    reason: str
    failed: tuple[str, ...] = ()
    scores: Scores = field(default_factory=dict)

    @property
    def agreement(self) -> float | None:
        """IoU of label and judge; None where it was not measured."""
        return self.scores.get("label_agreement")

    def to_json(self) -> dict[str, Any]:
        rounded = {k: round(v, 4) if v is not None else None for k, v in self.scores.items()}
        return {"id": self.id, "kept": self.kept, "reason": self.reason, "failed": list(self.failed), "scores": rounded}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Verdict:
        return cls(row["id"], row["kept"], row["reason"], tuple(row["failed"]), dict(row["scores"]))

    def because(self, name: str, reason: str) -> Verdict:
        """The same scores, rejected by something that no score of this case alone can tell."""
        return Verdict(self.id, False, self.reason or reason, (*self.failed, name), self.scores)


def decide(id: str, scores: Scores, rules: Sequence[Rule], thresholds: Mapping[str, float]) -> Verdict:
    """Every rule whose threshold is known, in order."""
    failed = [r for r in rules if r.name in thresholds and not r.gate.passes(scores.get(r.name), thresholds[r.name])]
    return Verdict(id, not failed, failed[0].gate.reason if failed else "", tuple(r.name for r in failed), scores)
