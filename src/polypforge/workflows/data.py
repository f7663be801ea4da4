"""`polypforge data ...`: check, import and split."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from polypforge.core.console import console
from polypforge.core.errors import UserError
from polypforge.core.files import read_jsonl, whole_folder, write_jsonl, write_text
from polypforge.core.images import image_files, write_png
from polypforge.core.types import Case
from polypforge.data.checks import CheckReport
from polypforge.data.field_of_view import field_of_view
from polypforge.data.folder import METADATA, is_data_set
from polypforge.data.layouts import listed_splits, open_source
from polypforge.data.overlays import overlay_text
from polypforge.data.source import Source
from polypforge.data.split import SPLITS, crossing, split_cases
from polypforge.reporting.panels import LABEL_COLOUR, outlined
from polypforge.workflows.deidentify import MODES, Deidentifier
from polypforge.workflows.export_cases import copy_real, loadable
from polypforge.workflows.opened import run_check, tell_box_classes
from polypforge.workflows.run_folder import RUN_FILE, refuse_nesting, refuse_occupied

MOST_FAULTS = 5  # told one by one


def check_data(data: Path, layout: str = "auto", overlays: Path | None = None) -> CheckReport:
    """Check a folder; with `overlays`, also draw each usable case: label outline, outside of the field darkened, text marked."""
    if overlays is not None:
        refuse_nesting(data, overlays)
        refuse_occupied(overlays)
    source = open_source(data, layout)
    _tell_unlisted(source)
    report = run_check(source)
    if overlays is not None:
        usable = set(report.usable)
        for entry in source.cases:
            if entry.name in usable:
                case = entry.load()
                write_png(overlays / f"{case.name}.png", _overlay(case.image, case.mask))
    return report


def _tell_unlisted(source: Source) -> None:
    """Of a data set's pictures alone that its list names anything is known; runs keep others beside, which were rejected."""
    if source.layout != "data set" or (source.path / RUN_FILE).exists():
        return
    listed = {c.image_path.name for c in source.cases}
    others = [p for p in image_files(source.path / "images") if p.name not in listed]
    if others:
        console.print(
            f"{len(others)} pictures in {source.path / 'images'} ({others[0].name} ...) are not in {METADATA}, so nothing sees them: "
            "add them to the folder that was imported, and import that to a new one."
        )


def _overlay(image: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    view = image.copy()
    outside = ~field_of_view(image)
    view[outside] = view[outside] // 2 + np.array([0, 0, 90], np.uint8)
    view[overlay_text(image)] = (255, 230, 0)
    return outlined(view, mask, LABEL_COLOUR, 2) if mask is not None else view


def import_data(
    data: Path, out: Path, layout: str = "auto", skip_bad: bool = False, deidentify: str | None = None, only: str | None = None
) -> dict[str, Any]:
    """Write the folder's usable cases as a data set, their files without metadata.

    only: the one class of several (REFUGE2's cup) that counts as a lesion. deidentify: "inpaint" or "mask" also takes burnt-in text and
    inset boxes out of the pixels. Raises UserError when `out` is not empty, or for bad files unless `skip_bad`.
    """
    refuse_occupied(out)
    if deidentify is not None and deidentify not in MODES:
        raise UserError(f"--deidentify {deidentify}: choose {' or '.join(MODES)}.")
    refuse_nesting(data, out)
    source = open_source(data, layout)
    if only is not None:
        source = source.of_class(only)
    tell_box_classes(source)
    good = loadable(source, skip_bad)
    left_out = len(source) + len(source.unpaired) - len(good)
    with whole_folder(out) as folder:
        cleaner = Deidentifier() if deidentify else None
        changed: list[str] = []

        def clean(case: Case) -> Case:
            cleaned = cleaner.clean(case, deidentify) if cleaner and deidentify else case
            if cleaned.hidden is not None:
                changed.append(case.name)
            return cleaned

        rows = copy_real(Source(source.path, source.layout, good), folder, clean if deidentify else None)
        write_jsonl(folder / METADATA, rows)
    return {"cases": len(rows), "out": str(out), "layout": source.layout, "left_out": left_out, "deidentified": len(changed)}


def split_data(data: Path, shares: str, seed: int, out: Path | None, layout: str = "auto") -> dict[str, Any]:
    """Split a folder; writes lists to `out`, or the `split` column of a data-set folder."""
    try:
        values = [float(v) for v in shares.split(",")]
    except ValueError:
        values = []
    if len(values) != len(SPLITS) or not all(map(isfinite, values)) or abs(sum(values) - 1) > 1e-6:
        raise UserError(f"--shares {shares}: give three numbers that sum to 1, for example 0.7,0.15,0.15.")
    source = open_source(data, layout)
    _tell_unlisted(source)
    if out is None and not is_data_set(data):
        raise UserError(f"{data} is no data-set folder: say --out for the lists, or import it first.")
    if out is not None:
        earlier = listed_splits(out, source) or {}
        beside = out.resolve() == source.path  # then unlisted cases were read as `train`, but none of the lists has assigned them
        for case in source.cases:
            case.split = earlier.get(case.name) or ("" if beside else case.split)
    report = run_check(source)
    usable = set(report.usable)
    cases = [c for c in source.cases if c.name in usable]
    split = split_cases(cases, report.pairs, dict(zip(SPLITS, values, strict=True)), seed)
    faults = [f.message for f in report.findings if f.severity == "error"]
    for text in faults[:MOST_FAULTS]:
        console.print(f"Left out: {text}")
    if len(faults) > MOST_FAULTS:
        console.print(f"And {len(faults) - MOST_FAULTS} more (polypforge data check {data}).")

    def of(name: str, before: str) -> str:
        """A case that can't be read today keeps its split: it must not come back in another one."""
        return split.of.get(name, "") if name in usable else before

    if out is not None:
        for name in SPLITS:
            write_text(out / f"{name}.txt", "".join(f"{c.name}\n" for c in source.cases if of(c.name, c.split) == name))
    else:
        rows = read_jsonl(data / METADATA)
        write_jsonl(data / METADATA, (row | {"split": of(Path(row["image_file_name"]).stem, row.get("split", ""))} for row in rows))
    return {
        "counts": split.counts(),
        "left_out": list(split.left_out),
        "links": len(report.pairs),
        "crossing": crossing(split, cases, report.pairs),
    }
