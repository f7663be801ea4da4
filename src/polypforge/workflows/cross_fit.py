"""`polypforge train JUDGE --folds K`: judges by turns, so that a case made from a real image is judged by one that never saw it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

from polypforge.core.console import console
from polypforge.core.errors import UserError
from polypforge.core.files import whole_folder, write_json
from polypforge.core.seeding import content_hash
from polypforge.data.layouts import open_source
from polypforge.data.source import Source, SourceCase, shows_lesion
from polypforge.data.split import components
from polypforge.quality.cross_fitted import CrossFitted
from polypforge.quality.judges import JUDGES, load_judge
from polypforge.workflows.export_cases import plain_name
from polypforge.workflows.opened import Opened, keep_report, open_folders
from polypforge.workflows.overlap import overlap
from polypforge.workflows.run_folder import claim, resumes
from polypforge.workflows.train import read_settings, train

NAMES = tuple(JUDGES)


def cross_fit(
    name: str,
    data: Sequence[str | Path],
    out: str | Path,
    folds: int,
    *,
    config: str | Path | None = None,
    assignments: Sequence[str] = (),
    budget_seconds: float | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Train `folds` judges, each without one part of the training cases; `out/model` then holds them as one judge.

    Near-duplicates and cases of one group share a part. budget_seconds: for all together. options: as of `train`. The same call resumes.
    Raises UserError.
    """
    out = Path(out)
    if name not in NAMES:
        raise UserError(f"--folds is for judges ({', '.join(NAMES)}), not for {name}.")
    if folds < 2:
        raise UserError(f"--folds is {folds}: it takes at least 2, so that something is left to learn from.")
    if not data:
        raise UserError("--folds needs --data: the real cases that synthetic ones will be made from.")
    if options.get("start"):
        raise UserError("--folds trains each judge from nothing, so that none has seen its part: leave --start out.")
    layout, skip_bad = options.get("layout", "auto"), options.get("skip_bad", False)
    _refuse_shared_names([open_source(Path(d), layout) for d in data])
    training = read_settings(name, config, assignments, budget_seconds)[2]
    each = training.budget_seconds / folds if training.budget_seconds else None
    given = {"name": name, "data": [str(Path(d).resolve()) for d in data], "folds": folds, "set": list(assignments)}
    command = f"train {name} --folds"
    folders = open_folders(data, out, layout, skip_bad, resumes(out, command, given))
    claim(out, command, given)
    for checked, report in folders:
        keep_report(checked, report)
    opened = [o for o, _ in folders]
    parts = fold_of([o.cases("train") for o in opened], [*(p for o in opened for p in o.report.pairs), *shared_scenes(opened, out)], folds)
    apart = [sum(part == fold for part in parts.values()) for fold in range(folds)]
    console.print(f"{folds} judges, which never see {', '.join(map(str, apart))} of {len(parts)} training cases.")
    results = []
    for fold in range(folds):
        left_out = sorted(case for case, part in parts.items() if part == fold)
        result = train(
            name, data, out / f"fold-{fold}", config=config, assignments=assignments, budget_seconds=each, leave_out=left_out, **options
        )
        results.append(result)
    parts = {plain_name(case): part for case, part in parts.items()} | parts  # also as `data import` would write them
    with whole_folder(out / "model") as folder:
        CrossFitted([load_judge(out / f"fold-{k}" / "model") for k in range(folds)], parts).save_pretrained(folder)
    summary = {"name": name, "folds": folds, "model": str(out / "model"), "step": sum(r["step"] for r in results)}
    summary |= {
        "seconds": sum(r["seconds"] for r in results),
        "best_loss": max((r["best_loss"] for r in results if r["best_loss"] is not None), default=None),
    }
    write_json(out / "result.json", summary)
    return summary


def _refuse_shared_names(sources: Sequence[Source]) -> None:
    twice = [name for name, count in Counter(c.name for s in sources for c in s.cases).items() if count > 1]
    if twice:
        raise UserError(f"several --data folders have a case named '{twice[0]}': judges know cases by name, so give them different names.")


def shared_scenes(opened: Sequence[Opened], out: Path) -> list[tuple[str, str]]:
    """Pairs of cases of different folders that show the same scene: public data sets share frames."""
    found = []
    for (i, one), (j, other) in combinations(enumerate(opened), 2):
        found += overlap(one.cases("train"), other.cases("train"), out / "checks" / f"{i}-{j}.json")
    return found


def fold_of(folders: Sequence[Sequence[SourceCase]], links: Sequence[tuple[str, str]], folds: int) -> dict[str, int]:
    """Training case -> fold: what is linked or of one group stays together, groups with the most lesions first, then the largest, into the
    fold with the fewest. Deterministic.

    Groups are those of their folder: patient 1 of one hospital is not patient 1 of another. Raises UserError when fewer independent groups
    than folds show a lesion.
    """
    cases = [replace(case, group=f"{k} {case.group}" if case.group else "") for k, folder in enumerate(folders) for case in folder]
    groups = [([c.name for c in members], sum(shows_lesion(c) for c in members)) for members in components(cases, links)]
    groups.sort(key=lambda group: (-group[1], -len(group[0]), content_hash(["fold", *sorted(group[0])])))
    sizes = [(0, 0)] * folds  # lesions, cases: what holds no lesion goes by cases
    parts: dict[str, int] = {}
    for names, lesions in groups:
        fold = min(range(folds), key=lambda k: (sizes[k] if lesions else sizes[k][::-1], k))
        sizes[fold] = (sizes[fold][0] + lesions, sizes[fold][1] + len(names))
        parts |= dict.fromkeys(names, fold)
    if not min(sizes)[0]:
        shown = sum(lesions > 0 for _, lesions in groups)
        raise UserError(f"--folds {folds} is more than the {shown} independent groups of training cases that show a lesion.")
    return parts
