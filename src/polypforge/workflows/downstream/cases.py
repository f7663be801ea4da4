"""Which labelled cases each run of a downstream plan learns from, chooses by and is tested on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from polypforge.core.errors import UserError
from polypforge.core.seeding import content_hash, numpy_rng
from polypforge.data.source import SourceCase, shows_lesion
from polypforge.data.split import components, scenes_of
from polypforge.evaluation.plan import ALL, Plan
from polypforge.workflows.opened import Opened, keep_report, open_checked
from polypforge.workflows.overlap import refuse_overlap


@dataclass(frozen=True)
class Draw:
    """One random choice: of each size, the cases learned from (smaller sizes lie within larger ones), and those for validation. The first
    `labelled` of a size show a lesion, the others are the frames without one. apart: names of cases on neither side, as they hang together
    with validation cases. pool: how many labelled cases it was drawn from."""

    number: int
    learned: Mapping[int, tuple[SourceCase, ...]]
    labelled: Mapping[int, int]
    validation: tuple[SourceCase, ...]
    apart: frozenset[str] = frozenset()
    pool: int = 0

    def real(self, size: int, share: float) -> tuple[SourceCase, ...]:
        """A share of the labelled cases with all frames without a lesion; nothing for a share that is less than one case."""
        cases, labelled = self.learned[size], self.labelled[size]
        wanted = round(share * labelled)
        return (*cases[:wanted], *cases[labelled:]) if wanted else ()


def draw_cases(opened: Opened, plan: Plan) -> list[Draw]:
    """Whole groups of near-duplicates go to one side. Raises UserError when the data are too few."""
    usable = [c for c in opened.source.cases if c.split in ("train", "val")]
    lesions = {c.name for c in usable if shows_lesion(c)}
    groups = components(usable, opened.report.pairs)
    normal = [c for c in usable if c.name not in lesions]
    needed = max(plan.sizes) + plan.validation
    if len(lesions) < max(needed, plan.validation + 4):
        raise UserError(
            f"{opened.source.path} has {len(lesions)} labelled training cases with a lesion, but the plan needs {needed}: give more "
            "data, or ask for fewer with --set sizes=[...] --set validation=N (and `--set arms.NAME.sizes=[...]` for arms that name sizes)."
        )
    boxes_only = [name for name in sorted(lesions) if next(c for c in usable if c.name == name).read_masks is None]
    if plan.task == "segmentation" and boxes_only:
        raise UserError(f"{opened.source.path} has boxes but no mask of '{boxes_only[0]}': segmenters learn from masks.")
    draws = []
    for number in range(plan.draws):
        rng = numpy_rng("downstream draw", number)
        order = [case for k in rng.permutation(len(groups)) for case in groups[k] if case.name in lesions]
        of_group = {case.name: k for k, members in enumerate(groups) for case in members}
        validation = order[: plan.validation]
        taken = {of_group[c.name] for c in validation}
        rest = [c for c in order[plan.validation :] if of_group[c.name] not in taken]
        free = [c for c in normal if of_group[c.name] not in taken]
        wanted = len(free) if plan.normal < 0 else plan.normal
        extra = [free[i] for i in sorted(rng.permutation(len(free))[:wanted])]
        if len(rest) < max(*plan.sizes, 1):
            raise UserError(
                f"{opened.source.path}: near-duplicates of validation cases leave {len(rest)} of {max(plan.sizes)} cases: lower sizes."
            )
        shown = {n: rest if n == ALL else rest[:n] for n in plan.sizes}
        learned = {n: tuple(replace(c, split="train") for c in [*cases, *extra]) for n, cases in shown.items()}
        labelled = {n: len(cases) for n, cases in shown.items()}
        apart = {c.name for c in usable if of_group[c.name] in taken} - {c.name for c in validation}
        draws.append(Draw(number, learned, labelled, tuple(validation), frozenset(apart), len(rest)))
    return draws


def open_tests(
    opened: Opened, folders: Sequence[Path], learned: Sequence[SourceCase], checks: Path, skip_bad: bool, masks: bool
) -> dict[str, tuple[SourceCase, ...]]:
    """Name -> cases: the training folder's own test split, and that of every other folder, or all of it. Frames that show one scene
    have one group: together they are one witness.

    masks: whether every lesion needs one. Raises UserError when there is nothing to test on, or when a test frame shows what a network may
    learn from.
    """
    tests: dict[str, tuple[SourceCase, ...]] = {}
    own = opened.cases("test")
    if own:
        tests[f"{opened.source.path.name} (test)"] = _grouped(own, opened)
    for folder in folders:
        cache = checks / f"{content_hash(str(folder.resolve()))}.json"
        other = open_checked(folder, skip_bad=skip_bad, cache=cache, min_cases=1)
        keep_report(other, cache)
        cases = other.cases("test") or other.source.cases
        if not cases:
            raise UserError(f"{folder} holds no case to test on.")
        refuse_overlap(learned, cases, f"{opened.source.path} and the test cases of {folder}", checks / f"overlap-{cache.name}")
        tests[folder.name if folder.name not in tests else str(folder)] = _grouped(cases, other)
    for name, cases in tests.items():
        bare = [c.name for c in cases if c.read_masks is None and shows_lesion(c)]
        if masks and bare:
            raise UserError(f"{name} shows a lesion in '{bare[0]}' but has no mask of it: segmenters are tested on masks.")
        if not any(shows_lesion(c) for c in cases):
            raise UserError(f"{name} shows no lesion that could be found: test on cases with some.")
    if not tests:
        raise UserError(f"{opened.source.path} has no test split: name a folder of other real cases with --test.")
    return tests


def _grouped(cases: Sequence[SourceCase], opened: Opened) -> tuple[SourceCase, ...]:
    """The cases, those of one group or of near-duplicate frames under one name."""
    scenes = scenes_of(cases, opened.report.pairs)
    return tuple(replace(c, group=scenes[c.name]) for c in cases)
