"""A downstream experiment as a plan: which arms are trained on what, how often, and against what they are compared."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from polypforge.core.config import from_dict, override, read_yaml
from polypforge.core.errors import UserError
from polypforge.core.seeding import content_hash
from polypforge.data.prepared import NORMAL_SHARE
from polypforge.evaluation.augment import AUGMENTATIONS
from polypforge.evaluation.mixture import MODES, Mix

ALL = 0  # as a number of labelled cases
CHOOSING = -1  # seed of trainings that choose an amount


@dataclass(frozen=True)
class Supply:
    """Where an arm's synthetic cases come from.

    recipe, model, steps, gates, judge, budget_seconds: as for `expand`, which makes them from the very labelled cases that the arm learns
    from. per_real, most: how many: per_real for each labelled case, at most `most`. folder: made elsewhere.
    """

    recipe: str = "forge"
    model: str = ""
    steps: int | None = None
    gates: str = "starter"
    judge: str = ""
    budget_seconds: float | None = None
    per_real: float = 2.0
    most: int = 100000
    folder: str = ""

    def __post_init__(self) -> None:
        if self.recipe == "folder":  # made elsewhere, whichever way it is said
            object.__setattr__(self, "folder", self.folder or self.model)
            if not self.folder:
                raise ValueError("cases made elsewhere need their folder")
        if not 0 < self.per_real < float("inf") or self.most < 1 or (self.steps is not None and self.steps < 1):
            raise ValueError("per_real, most and steps are positive numbers")

    def count(self, real: int) -> int:
        return max(1, min(self.most, round(self.per_real * real)))


@dataclass(frozen=True)
class Arm:
    """One way of training. augment: none, flips or strong. real: share of the labelled cases that it learns from (0: synthetic only).
    synthetic: name of a supply, or "". mode, amounts, probability: see `Mix`; with `choose`, the best amount is taken by validation, in
    trainings on the first draw whose seed doesn't count; without it, each amount is an arm of its own. sizes: those of the plan that it is
    for; empty: all. network, training: where it differs from the plan's, such as other weights to set out from, and fewer steps for it."""

    augment: str = "flips"
    real: float = 1.0
    synthetic: str = ""
    mode: str = "share"
    amounts: tuple[float, ...] = (0.5,)
    probability: float = 0.5
    choose: bool = False
    sizes: tuple[int, ...] = ()
    network: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.augment not in AUGMENTATIONS or self.mode not in MODES:
            raise ValueError(f"augment is one of {', '.join(AUGMENTATIONS)}; mode one of {', '.join(MODES)}")
        if not 0 <= self.real <= 1 or (not self.real and not self.synthetic) or not self.amounts:
            raise ValueError("an arm learns from real cases, synthetic ones or both, with at least one amount")
        if self.choose and not self.synthetic:
            raise ValueError("an arm without synthetic cases has no amount to choose")
        if len(set(self.amounts)) < len(self.amounts):
            raise ValueError("no amount comes twice")
        for amount in self.amounts:
            Mix(self.mode, amount, self.probability)


@dataclass(frozen=True)
class Cell:
    """One training: network, size (labelled cases), draw of them, seed, arm and amount (None for an arm without synthetic cases)."""

    network: str
    size: int
    draw: int
    seed: int
    arm: str
    amount: float | None

    @property
    def label(self) -> str:
        amount = "" if self.amount is None else f" {self.amount:g}"
        return f"{self.network}, {self.size or 'all'} cases, draw {self.draw}, seed {self.seed}, {self.arm}{amount}"


@dataclass(frozen=True)
class Plan:
    """title, question: what it is about. baseline: the arm that the others are compared with. sizes: numbers of labelled cases (0: all).
    draws: how often they are drawn; seeds: trainings for each draw. validation: cases that choose checkpoint and amount. normal: frames
    without lesion, at most, that go with them (-1: all there are); of the real examples that a network is shown they are at most
    `normal_share`, or many of them would starve the arms without synthetic cases of lesions. task: segmentation or detection. networks:
    settings by name. training: of all networks. published: rows of the paper, shown beside ours."""

    title: str
    baseline: str
    arms: Mapping[str, Arm]
    networks: Mapping[str, Mapping[str, Any]]
    training: Mapping[str, Any]
    supplies: Mapping[str, Supply] = field(default_factory=dict)
    task: str = "segmentation"
    question: str = ""
    sizes: tuple[int, ...] = (ALL,)
    draws: int = 1
    seeds: int = 1
    validation: int = 32
    normal: int = 300
    normal_share: float = NORMAL_SHARE
    published: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if self.baseline not in self.arms:
            raise ValueError(f"the baseline '{self.baseline}' is no arm: choose one of {', '.join(self.arms)}")
        if self.task not in ("segmentation", "detection"):
            raise ValueError("task is segmentation or detection")
        for name, arm in self.arms.items():
            if arm.synthetic and arm.synthetic not in self.supplies:
                raise ValueError(f"arm '{name}' asks for synthetic cases '{arm.synthetic}', which supplies doesn't describe")
            if set(arm.sizes) - set(self.sizes):
                raise ValueError(f"arm '{name}' is for sizes that the plan doesn't have: {self.sizes}")
            for size in arm.sizes or self.sizes:
                if arm.real and size != ALL and not round(arm.real * size):
                    raise ValueError(f"arm '{name}': real = {arm.real:g} of {size} cases is less than one")
            self._refuse_too_much(name, arm)
        base = self.arms[self.baseline]
        if base.synthetic and not base.choose and len(base.amounts) > 1:
            raise ValueError("the baseline has one amount of synthetic cases, or chooses it")
        for name in self.supplies:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 _-]*", name):
                raise ValueError(f"supply '{name}' becomes a folder: use letters, digits, - and _")
        if (
            min(self.draws, self.seeds, self.validation) < 1
            or not self.sizes
            or min(self.sizes) < 0
            or len(set(self.sizes)) < len(self.sizes)
            or self.normal < -1
            or not 0 <= self.normal_share <= 1
            or not self.networks
        ):
            raise ValueError(
                "draws, seeds and validation are at least 1; sizes and networks are not empty, and no size comes twice; "
                "normal_share lies between 0 and 1"
            )

    def _refuse_too_much(self, name: str, arm: Arm) -> None:
        """An amount above what is made would silently be less: raises ValueError."""
        supply = self.supplies[arm.synthetic] if arm.synthetic else None
        if supply is None or supply.folder or arm.mode == "share":
            return
        for size in (s for s in arm.sizes or self.sizes if s != ALL):
            for amount in arm.amounts:
                shown = round(arm.real * size) or supply.count(size)
                wanted = Mix(arm.mode, amount).pooled(shown) if arm.mode == "pool" else round(amount * size)
                if wanted > supply.count(size):
                    raise ValueError(
                        f"arm '{name}' takes {wanted} synthetic cases beside {size} labelled ones, but supply '{arm.synthetic}' makes "
                        f"{supply.count(size)}: raise its per_real (or most)"
                    )

    def first_cells(self) -> list[Cell]:
        """Every training whose amount is known beforehand, and those that choose amounts: their seed is one that no other training has, so
        that what was lucky when it was chosen doesn't count."""
        return [
            Cell(network, size, draw, seed, name, amount)
            for size in self.sizes for draw in range(self.draws) for network in self.networks
            for name, arm in self.arms.items() if not arm.sizes or size in arm.sizes
            for seed in (range(self.seeds) if not arm.choose else (CHOOSING,) if draw == 0 else ())
            for amount in (arm.amounts if arm.synthetic else (None,))
        ]  # fmt: skip

    def later_cells(self, chosen: Mapping[tuple[str, int, str], float]) -> list[Cell]:
        """The rest, once `chosen` tells the amount of (network, size, arm)."""
        return [
            Cell(network, size, draw, seed, arm, amount)
            for (network, size, arm), amount in chosen.items() for draw in range(self.draws) for seed in range(self.seeds)
        ]  # fmt: skip

    def amount_of(self, cell: Cell) -> float | None:
        """As results tell arms apart: None where an arm has one way only."""
        arm = self.arms[cell.arm]
        return None if arm.choose or (cell.arm == self.baseline) else cell.amount

    def count_later(self) -> int:
        """How many trainings `later_cells` will give."""
        choosing = sum(len(arm.sizes or self.sizes) for arm in self.arms.values() if arm.choose)
        return choosing * len(self.networks) * self.draws * self.seeds

    def cell_id(self, cell: Cell) -> str:
        """A hash of the cell and of all that describes it here, so that a plan may grow without losing what was done."""
        arm = self.arms[cell.arm]
        supply = asdict(self.supplies[arm.synthetic]) if arm.synthetic else None
        way = {"augment": arm.augment, "real": arm.real, "synthetic": arm.synthetic, "mode": arm.mode, "probability": arm.probability}
        network, training = self.network_of(cell.network, cell.arm), self.training_of(cell.arm)
        return content_hash([asdict(cell), way, supply, network, training, self.task, self.validation, self.normal, self.normal_share])

    def network_of(self, network: str, arm: str) -> Mapping[str, Any]:
        return {**self.networks[network], **self.arms[arm].network}

    def training_of(self, arm: str) -> Mapping[str, Any]:
        """An arm's `epochs` win over the plan's `max_steps`."""
        own = self.arms[arm].training
        return {**{k: v for k, v in self.training.items() if k != "max_steps" or "epochs" not in own}, **own}

    def mix(self, cell: Cell) -> Mix:
        arm = self.arms[cell.arm]
        return Mix(arm.mode, cell.amount if cell.amount is not None else 0.0, arm.probability)


def read_plan(name: str | Path, assignments: tuple[str, ...] = ()) -> Plan:
    """A shipped plan by name, or a YAML file. Raises UserError that names the key."""
    path = _plan_file(name)
    return plan_from(override(read_yaml(path), assignments), str(path))


def supplies_of(name: str | Path) -> set[str]:
    """The names of a plan's supplies, also of one whose folder is still to be named. Raises UserError."""
    section = read_yaml(_plan_file(name)).get("supplies")
    return set(map(str, section)) if isinstance(section, Mapping) else set()


def _plan_file(name: str | Path) -> Path:
    path = shipped_plan(str(name))
    if not path.is_file():
        path = Path(name)
    if not path.is_file():
        raise UserError(f"{name} is no plan: give a YAML file or one of {', '.join(shipped_plans())}.")
    return path


def plan_from(values: Mapping[str, Any], where: str) -> Plan:
    """From plain values. Raises UserError."""
    missing = [key for key in ("title", "baseline", "arms", "networks", "training") if key not in values]
    if missing:
        raise UserError(f"{where}: '{missing[0]}' is missing.")
    return from_dict(Plan, values, where)


def shipped_plan(name: str) -> Path:
    return Path(str(files("polypforge") / "configs" / "plans" / f"{name}.yaml"))


def shipped_plans() -> list[str]:
    return sorted(p.stem for p in Path(str(files("polypforge") / "configs" / "plans")).glob("*.yaml"))
