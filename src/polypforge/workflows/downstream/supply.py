"""Synthetic cases for one draw of labelled cases: made from those alone, or made elsewhere and checked for what they know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from polypforge.core.console import console
from polypforge.core.errors import UserError
from polypforge.core.files import write_jsonl
from polypforge.core.seeding import content_hash
from polypforge.data.folder import METADATA, is_data_set
from polypforge.data.source import Source, SourceCase, donor_of, parent_of
from polypforge.evaluation.plan import Plan, Supply
from polypforge.models.locate import STARTER, locate, starter_names, weights_hash
from polypforge.quality.gates.settings import read_gates
from polypforge.workflows.downstream.cases import Draw
from polypforge.workflows.expand import SUMMARY, expand
from polypforge.workflows.export_cases import copy_real, plain_name
from polypforge.workflows.opened import open_made
from polypforge.workflows.overlap import refuse_overlap


@dataclass(frozen=True)
class Made:
    """cases: synthetic ones. parents: name of the real case that each was made from, donors: of the one whose lesion was put into it; ""
    where there is none, or nobody knows."""

    cases: tuple[SourceCase, ...]
    parents: tuple[str, ...]
    donors: tuple[str, ...]


def make(supply: Supply, draw: Draw, size: int, folder: Path, name: str, device: str, offline: bool) -> Made:
    """The cases that `supply` gives beside the `size` labelled ones; what is there already is not made again. Raises UserError when it
    would leak."""
    if supply.folder:
        return bounded(made_elsewhere(Path(supply.folder)), draw, size, f"supply '{name}'")
    real, learned = folder / "real", draw.learned[size]
    if not is_data_set(real):
        write_jsonl(real / METADATA, copy_real(Source(real, "data set", list(learned)), real))
    if not (folder / name / SUMMARY).is_file():
        count = supply.count(draw.labelled[size])
        console.print(f"Making {count} synthetic cases ({name}) from {draw.labelled[size]} labelled ones in {folder / name}.")
        expand(
            real, folder / name, count, recipe=supply.recipe, model=supply.model or None, steps=supply.steps, gates=supply.gates,
            judges=(supply.judge,) if supply.judge else (), budget_seconds=supply.budget_seconds, seed=draw.number, synthetic_only=True,
            device=device, offline=offline,
        )  # fmt: skip
    return bounded(made_elsewhere(folder / name), draw, size, f"supply '{name}'")


def made_elsewhere(folder: Path) -> Made:
    """The synthetic cases of a folder; all of them where none says that it is. Raises UserError for an empty folder."""
    cases = open_made(folder).cases
    return Made(tuple(cases), tuple(parent_of(c) for c in cases), tuple(donor_of(c) for c in cases))


def bounded(made: Made, draw: Draw, size: int, what: str) -> Made:
    """`made` less what shows validation cases, if every other real case that it shows is among those learned from. Else a comparison would
    credit the synthetic cases with what are other people's labels: up to 12 points. Raises UserError with the names."""
    known = _names([c.name for c in draw.learned[size]])
    aside = _names([*(c.name for c in draw.validation), *draw.apart])
    foreign = sorted({p for p in (*made.parents, *made.donors) if p and p not in known | aside})
    if foreign:
        shown = ", ".join(f"'{n}'" for n in foreign[:5])
        more = f" and {len(foreign) - 5} more" if len(foreign) > 5 else ""
        raise UserError(
            f"{what} was made from real cases that the network doesn't learn from ({shown}{more}), so a gain could come from their labels "
            "alone: make it from the same cases, or let the network learn from all of them."
        )
    kept = [k for k, used in enumerate(zip(made.parents, made.donors, strict=True)) if not aside.intersection(used)]
    if not kept:
        raise UserError(f"{what} was made from validation cases alone: nothing is left to learn from.")
    cases, parents, donors = (tuple(part[k] for k in kept) for part in (made.cases, made.parents, made.donors))
    return Made(cases, parents, donors)


def _names(names: Sequence[str]) -> set[str]:
    """Also as `copy_real` would write them."""
    return {n for name in names for n in (name, plain_name(name))}


def identity(supply: Supply) -> str:
    """A hash of all that decides what it makes: its settings, and the content of the weights and gates that they name."""
    if supply.folder:
        return content_hash([str(Path(supply.folder).resolve())], 8)
    gates = read_gates(supply.gates)
    model = supply.model or (STARTER + supply.recipe if supply.recipe in starter_names() else "")
    weights = [weights_hash(locate(name)) for name in (model, supply.judge, *gates.judges, *gates.detectors) if name]
    return content_hash([asdict(supply), weights, gates.to_json()], 8)


def refuse_foreign(plan: Plan, tests: Mapping[str, Sequence[SourceCase]], draws: Sequence[Draw], checks: Path, data: str) -> None:
    """Supplies made elsewhere must neither show a test case nor, as far as they say, any real case that is not learned from. data: the
    training data's fingerprint."""
    for name, supply in plan.supplies.items():
        if not supply.folder:
            continue
        made = made_elsewhere(Path(supply.folder))
        for draw in draws:
            for size in draw.learned:
                left = len(made.cases) - len(bounded(made, draw, size, f"supply '{name}'").cases)
            if left:
                console.print(f"draw {draw.number}: leaving out {left} cases of '{name}' made from validation cases or their like.")
        tested = [case for cases in tests.values() for case in cases]
        refuse_overlap(made.cases, tested, f"supply '{name}' ({supply.folder}) and the test cases", checks / f"overlap-{name}.json")
        if not any(made.parents):
            console.print(
                f"{supply.folder} doesn't say which real cases it was made from: whether its maker knew more labels can't be checked."
            )
        elif {c.provenance.get("data") for c in made.cases} != {data}:
            console.print(
                f"{supply.folder} names the real cases that it was made from, but not that they are those of this very folder: that it "
                "knows no other labels was checked by name alone."
            )
