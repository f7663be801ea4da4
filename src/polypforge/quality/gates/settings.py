"""The gates of a run, as a configuration file holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from polypforge.core.config import from_dict, read_yaml
from polypforge.core.errors import UserError
from polypforge.quality.gates.gate import Rule

SHIPPED = ("starter", "boxes", "none")


@dataclass(frozen=True)
class GateSettings:
    """judges, detectors: models by path, hub id or starter:NAME. gates: in the order in which they are asked. repeats: correlation with
    an earlier kept lesion from which a case counts as its repetition; None: not looked for."""

    gates: tuple[Rule, ...]
    judges: tuple[str, ...] = ("starter:window_segmenter",)
    detectors: tuple[str, ...] = ()
    repeats: float | None = 0.95

    def __post_init__(self) -> None:
        if self.gates and not any(r.name == "lesion_drawn" for r in self.gates):  # what isn't there has no score, and would pass the rest
            object.__setattr__(self, "gates", (Rule("lesion_drawn"), *self.gates))
        names = [r.name for r in self.gates]
        twice = {n for n in names if names.count(n) > 1}
        if not names or twice:
            raise ValueError(f"a gate is named twice: {', '.join(sorted(twice))}" if twice else "no gate is named")
        for kind, given in (("judge", self.judges), ("detector", self.detectors)):
            idle = [r.name for r in self.gates if r.gate.needs == kind]
            if idle and not given:
                raise ValueError(f"the gates {', '.join(idle)} need a {kind}: name one, or leave them out")
        if self.repeats is not None and not 0 <= self.repeats <= 1:
            raise ValueError(f"repeats is {self.repeats:g}, but a correlation to reject from lies in 0..1")

    def with_thresholds(self, thresholds: Mapping[str, float]) -> GateSettings:
        """Other thresholds for some of the gates. Raises UserError for a gate that isn't in the list."""
        unknown = set(thresholds) - {r.name for r in self.gates}
        if unknown:
            raise UserError(
                f"no gate '{sorted(unknown)[0]}' is in use: the gates of this configuration are {', '.join(r.name for r in self.gates)}."
            )
        return replace(self, gates=tuple(replace(r, threshold=thresholds.get(r.name, r.threshold)) for r in self.gates))

    def without(self, name: str) -> GateSettings:
        """The same gates less one, if it is there."""
        return replace(self, gates=tuple(r for r in self.gates if r.name != name))

    def to_json(self) -> dict[str, Any]:
        return {
            "judges": list(self.judges),
            "detectors": list(self.detectors),
            "gates": [{"name": r.name, "threshold": r.threshold, "rejected_real": r.rejected_real} for r in self.gates],
            "repeats": self.repeats,
        }


def read_gates(config: str | Path = "starter", labels: bool = False, **models: tuple[str, ...]) -> GateSettings:
    """Settings from a YAML file, or from a shipped one (SHIPPED). models: `judges` and `detectors` in place of the file's. labels: whether
    judges are asked for more than verdicts. Raises UserError, also for models that no gate would ask."""
    path = Path(config)
    if str(config) in SHIPPED:
        path = Path(str(files("polypforge") / "configs" / "gates" / f"{config}.yaml"))
    values = read_yaml(path) | {k: list(v) for k, v in models.items() if v}
    rules = values.get("gates")
    if not isinstance(rules, list):
        raise UserError(f"{path}: gates must be a list of gates, each with a name.")
    settings = from_dict(GateSettings, values | {"gates": [{"name": r} if isinstance(r, str) else r for r in rules]}, str(path))
    for kind, given in models.items():
        asked = any(f"{r.gate.needs}s" == kind for r in settings.gates) or (labels and kind == "judges")
        if given and not asked:
            raise UserError(f"no gate of '{config}' asks {kind}, so {given[0]} would judge nothing: leave it out, or choose other gates.")
    if labels and not settings.judges:
        raise UserError(f"'{config}' has no judge, who alone could refine a label or soften it: name one with --judge.")
    return settings
