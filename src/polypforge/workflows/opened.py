"""A data set that is open, checked and split: what every command that learns or generates starts from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from polypforge.core.console import console
from polypforge.core.errors import UserError
from polypforge.core.files import content_of, read_json, write_json
from polypforge.core.seeding import content_hash, numpy_rng
from polypforge.core.types import Case
from polypforge.data.checks import CheckReport, check
from polypforge.data.folder import is_data_set, read_data_set
from polypforge.data.layouts import open_source
from polypforge.data.source import ANY_CLASS, Source, SourceCase, state_of
from polypforge.data.split import components, scenes_of, split_cases
from polypforge.workflows.run_folder import RUN_FILE, refuse_nesting

MIN_CASES = 4
NEAR_HELD_OUT = "near-duplicate of a held-out case"  # a reason to leave a training case out
CACHED_FRAMES = 64
LEAST_NORMAL, NORMAL_PER_LESION = 200, 3  # of frames without lesion, all of which are held in memory when a model learns


@dataclass
class Opened:
    """source: the cases that can be used, each with a split. report: what the check found. skipped: names left out, by reason.
    state: see `file_state`."""

    source: Source
    report: CheckReport
    skipped: dict[str, list[str]]
    state: str

    def cases(self, split: str) -> list[SourceCase]:
        return [c for c in self.source.cases if c.split == split]

    def lesions(self, split: str) -> list[SourceCase]:
        """Those that show a lesion."""
        return [c for c in self.cases(split) if c.lesion]

    def scenes(self) -> dict[str, str]:
        """Name of each case -> what it shows: cases of one group, and near-duplicates, show the same."""
        return scenes_of(self.source.cases, self.report.pairs)

    def to_learn(self, split: str, seed: int) -> list[SourceCase]:
        """What a model should learn from: all that shows a lesion, and of the other frames no more than it would look at, from as many
        scenes as possible. All of them where nothing shows a lesion."""
        lesions = self.lesions(split)
        most = max(LEAST_NORMAL, NORMAL_PER_LESION * len(lesions))
        normal = [c for c in self.cases(split) if not c.lesion]
        if not lesions or len(normal) <= most:
            return self.cases(split)
        shuffled = [normal[k] for k in numpy_rng(seed, "frames without lesion", split).permutation(len(normal))]
        turn = {c.name: k for members in components(shuffled, self.report.pairs) for k, c in enumerate(members)}  # one of each scene first
        kept = {c.name for c in sorted(shuffled, key=lambda case: turn[case.name])[:most]}
        if split == "train":
            console.print(f"Learning from {most} of {len(normal)} frames without lesion, beside {len(lesions)} with one.")
        return [c for c in self.cases(split) if c.lesion or c.name in kept]

    def loader(self):
        """A function name -> Case that keeps the last frames in memory."""
        by_name = {c.name: c for c in self.source.cases}

        @lru_cache(maxsize=CACHED_FRAMES)
        def load(name: str) -> Case:
            if name not in by_name:
                raise UserError(f"{self.source.path} has no case '{name}', which a request asks for as its background.")
            return by_name[name].load()

        return load


def made_cases(source: Source) -> list[SourceCase]:
    """The cases that say they are synthetic; all of them in a folder that no command here wrote. Raises UserError where there are none."""
    flagged = [c for c in source.cases if c.provenance.get("synthetic")]
    if not flagged and (source.path / RUN_FILE).is_file():
        raise UserError(f"{source.path} holds no synthetic case: none was accepted, or all were removed. Make some first.")
    if not source.cases:
        raise UserError(f"{source.path} holds no case.")
    return flagged or source.cases


def open_made(folder: Path, layout: str = "auto") -> Source:
    """A folder of synthetic cases; `layout` is that of folders which no command here wrote. Raises UserError as `made_cases` does."""
    source = read_data_set(folder) if is_data_set(folder) else open_source(folder, layout)
    return replace(source, path=folder, cases=made_cases(source))


def refuse_several_classes(opened: Opened) -> None:
    """A generator draws one kind of lesion; the others would be lost from the labels."""
    classes = opened.source.class_names
    if len(classes) > 1:
        raise UserError(
            f"{opened.source.path} has several classes ({', '.join(classes)}): take one at a time, as a data set of its own "
            f"(polypforge data import {opened.source.path.name} --class {classes[0]} --out ...)."
        )


def tell_box_classes(source: Source) -> None:
    """Boxes of an instrument must not become polyps unseen."""
    kinds = sorted({kind for case in source.cases for kind in case.box_classes} - {ANY_CLASS})
    if len(kinds) > 1:
        console.print(
            f"{source.path} has boxes of {len(kinds)} classes ({', '.join(kinds)}), which all count as lesions: `polypforge data import "
            "--class NAME` takes one."
        )


def file_state(source: Source) -> str:
    """A hash of all cases, their splits and files' content: whether a folder is the one seen before, also when it was copied since."""
    return content_hash([source.layout, state_of(source.cases), [c.split for c in source.cases], sorted(p.name for p in source.unpaired)])


def files_of(data: Path, layout: str = "auto") -> str:
    """`file_state` of a folder that is not opened yet."""
    return file_state(open_source(data, layout))


def run_check(source: Source, cache: Path | None = None) -> CheckReport:
    """Check with a progress bar; a report in `cache` for the same files is used instead of checking again.

    A new report is written to `cache` only when no file is bad: a refused folder leaves nothing behind.
    """
    tell_box_classes(source)
    state = file_state(source)
    if cache and cache.exists():
        stored = read_json(cache)
        if stored.get("state") == state and "lesions" in stored["report"]:
            return CheckReport.from_json(stored["report"])
    columns = (TextColumn("checking {task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        tasks = {name: bar.add_task(name, total=None) for name in ("cases", "pairs")}
        report = check(source, lambda stage, total: bar.update(tasks[stage], total=total, advance=1))
    if cache and not any(f.severity == "error" for f in report.findings):
        write_json(cache, {"state": state, "report": report.to_json()})
    return report


def keep_report(opened: Opened, cache: Path) -> None:
    """Store the report of an opened folder, so that a resumed run need not check again."""
    write_json(cache, {"state": opened.state, "report": opened.report.to_json()})


def open_checked(
    data: Path,
    layout: str = "auto",
    skip_bad: bool = False,
    val_share: float = 0.1,
    cache: Path | None = None,
    min_cases: int = MIN_CASES,
) -> Opened:
    """Open, check and split `data`. Bad files stop it with UserError unless `skip_bad`, which leaves them out and says so.

    Cases that come with a split keep it, but where no val is given, a share of the training groups becomes val. A training case
    that is a near-duplicate of a held-out case is left out.
    """
    source = open_source(data, layout)
    state = file_state(source)
    report = run_check(source, cache)
    skipped: dict[str, list[str]] = {}
    errors = [f for f in report.findings if f.severity == "error"]
    if errors and not skip_bad:
        shown = " ".join(f.message for f in errors[:3])
        more = f" And {len(errors) - 3} more (polypforge data check {data})." if len(errors) > 3 else ""
        raise UserError(
            f"{len(errors)} of {len(source) + len(source.unpaired)} files can't be used: {shown}{more} Or leave them out with --skip-bad."
        )
    if errors:
        skipped["bad file"] = sorted({n for f in errors for n in f.cases})
        console.print(f"Leaving out {len(skipped['bad file'])} bad files (--skip-bad).")
    usable, lesions = set(report.usable), set(report.lesions)
    cases = [replace(c, lesion=c.name in lesions) for c in source.cases if c.name in usable]
    if len(cases) < min_cases:
        raise UserError(f"{data} has {len(cases)} usable case(s): at least {min_cases} labelled cases are needed.")
    synthetic = [c.name for c in cases if c.provenance.get("synthetic")]
    if synthetic:
        skipped["synthetic case"] = synthetic
        console.print(f"Leaving out {len(synthetic)} synthetic cases: only real ones are learned from and repainted.")
        cases = [c for c in cases if not c.provenance.get("synthetic")]
    leaking = _leaking(cases, report.pairs)
    if leaking:
        skipped[NEAR_HELD_OUT] = sorted(leaking)
        console.print(f"Leaving out {len(leaking)} training case(s) that are near-duplicates of held-out ones.")
        cases = [c for c in cases if c.name not in leaking]
    if len(cases) < min_cases:
        raise UserError(f"{data} has {len(cases)} case(s) left to learn from: at least {min_cases} labelled real cases are needed.")
    shown = sum(bool(c.lesion) for c in cases)
    if 0 < shown < min_cases:
        raise UserError(f"{data} shows a lesion in {shown} of its {len(cases)} cases: at least {min_cases} with one are needed.")
    if not any(c.split == "val" for c in cases):
        for case in cases:
            case.split = "" if case.split == "train" else case.split
    names = {c.name for c in cases}
    links = [(a, b) for a, b in report.pairs if a in names and b in names]
    split = split_cases(cases, links, {"train": 1 - val_share, "val": val_share})
    for case in cases:
        case.split = split.of.get(case.name, "")
    return Opened(Source(source.path, source.layout, [c for c in cases if c.split], []), report, skipped, state)


def _leaking(cases: Sequence[SourceCase], pairs: Sequence[tuple[str, str]]) -> set[str]:
    """Cases that hang together with one of a split that matters more (test, then val, then train), directly or through others."""
    rank = {"": 0, "train": 0, "val": 1, "test": 2}
    found = set()
    for members in components(cases, pairs):
        top = max(rank[c.split] for c in members)
        found |= {c.name for c in members if rank[c.split] < top}
    return found


def open_folders(data: Sequence[str | Path], out: Path, layout: str, skip_bad: bool, going_on: bool) -> list[tuple[Opened, Path]]:
    """The folders that a run in `out` learns from, each with the file for its report, which is read where the run goes on.

    Writes nothing: see `keep_report`. Raises UserError as `open_checked` does, and for a run inside its data.
    """
    for folder in data:
        refuse_nesting(Path(folder), out)
    files = [out / "checks" / f"{content_hash(str(folder))}.json" for folder in data]
    caches = files if going_on else [None] * len(files)
    return [(open_checked(Path(d), layout, skip_bad, cache=c), f) for d, c, f in zip(data, caches, files, strict=True)]


def refuse_without_lesions(opened: Opened) -> None:
    """What is to be drawn is drawn like the lesions of the training cases."""
    if not opened.lesions("train"):
        kind = "shows a lesion" if opened.cases("train") else "is left, as all are held out (test.txt, or a split column)"
        raise UserError(f"{opened.source.path}: no training case {kind}, so there is nothing to draw lesions like: add labelled frames.")


def fingerprint_of(source: Source) -> str:
    """A hash over the image files' content, for provenance."""
    return content_hash(sorted(content_of(c.image_path) for c in source.cases))
