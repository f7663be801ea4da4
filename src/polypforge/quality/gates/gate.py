"""What a gate is, the gates by name, and the rule by which a configuration uses one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import isfinite
from pathlib import Path
from typing import Literal

from polypforge.core.errors import UserError
from polypforge.core.seeding import content_hash
from polypforge.quality.gates.subject import Subject

Keep = Literal["at least", "at most"]
Score = Callable[[Subject], float | None]


@dataclass(frozen=True)
class Gate:
    """score: a number, or None where there is nothing to measure (such a case passes). keep: the side of the threshold that passes.

    reason: why a case fails, in words. threshold: the usual one; None: taken from real lesions (see `Rule`). share: the score lies in
    0..1, and so must a threshold. needs: "judge", "detector", "training" (the training data; slow, so only cases
    that passed the others are looked at) or "" (pixels and label alone).
    """

    name: str
    score: Score
    keep: Keep
    reason: str
    threshold: float | None = None
    share: bool = False
    needs: str = ""

    def passes(self, score: float | None, threshold: float) -> bool:
        if score is None:
            return True
        return score >= threshold if self.keep == "at least" else score <= threshold

    @property
    def version(self) -> str:
        """A hash of the code of all gates and of this one's module: scores on disk are used again only while it is the same."""
        try:
            source = inspect.getsource(inspect.getmodule(self.score) or self.score)
        except (OSError, TypeError):  # typed at a prompt
            source = self.score.__code__.co_code.hex()
        return content_hash([_code(), source])


@lru_cache(maxsize=1)
def _code() -> str:
    """What scores depend on: everything in this room, and in those below that measure pixels."""
    package = Path(__file__).parents[2]
    rooms = (package / room for room in ("core", "masks", "data", "quality"))
    return content_hash([path.read_text() for room in rooms for path in sorted(room.rglob("*.py"))])


GATES: dict[str, Gate] = {}


def register_gate(
    name: str, keep: Keep, reason: str, threshold: float | None = None, *, share: bool = False, needs: str = ""
) -> Callable[[Score], Score]:
    """Register the decorated function, score(subject) -> float or None, as a gate that configurations can name.

    >>> @register_gate("redness", keep="at most", reason="redder than any real lesion")
    ... def redness(subject):
    ...     return float(subject.crop.lab[subject.crop.lesion][:, 1].mean()) if subject.crop else None
    """
    if keep not in ("at least", "at most"):
        raise ValueError('keep is "at least" or "at most"')

    def register(score: Score) -> Score:
        if name in GATES and GATES[name].score.__module__ != score.__module__:
            raise ValueError(f"there is a gate '{name}' already: choose another name")
        GATES[name] = Gate(name, score, keep, reason, threshold, share, needs)
        return score

    return register


@dataclass(frozen=True)
class Rule:
    """A gate in use. threshold: its own, or the gate's usual one; where neither is, the one that `rejected_real` of the real lesions
    would fail."""

    name: str
    threshold: float | None = None
    rejected_real: float = 0.01

    def __post_init__(self) -> None:
        if self.name not in GATES:
            raise UserError(
                f"there is no gate '{self.name}': choose from {', '.join(sorted(GATES))}, or register it with polypforge.register_gate."
            )
        if not 0 <= self.rejected_real < 1:
            raise UserError(f"gate '{self.name}': rejected_real is {self.rejected_real:g}, but a share of real lesions lies in 0..1.")
        if self.threshold is not None and not isfinite(self.threshold):
            raise UserError(f"gate '{self.name}': the threshold is {self.threshold}: give a number.")
        if self.name == "lesion_drawn" and self.threshold is not None and self.threshold <= 0:
            raise UserError("gate 'lesion_drawn': the threshold must be above 0, or cases without a lesion would pass.")
        if self.threshold is not None and self.gate.share and not 0 <= self.threshold <= 1:
            raise UserError(f"gate '{self.name}': the threshold is {self.threshold:g}, but its score lies in 0..1.")

    @property
    def gate(self) -> Gate:
        return GATES[self.name]

    @property
    def fixed(self) -> float | None:
        """The threshold, when it doesn't depend on real lesions."""
        return self.threshold if self.threshold is not None else self.gate.threshold
