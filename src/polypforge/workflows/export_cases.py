"""Real cases into a data-set folder: image files byte for byte where they carry nothing but pixels, masks as PNG."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from polypforge.core.console import console
from polypforge.core.errors import UserError
from polypforge.core.types import Case
from polypforge.data.file_metadata import carries_metadata
from polypforge.data.folder import write_case
from polypforge.data.source import Source, SourceCase
from polypforge.workflows.each import shown

KEPT_SUFFIXES = (".jpg", ".jpeg", ".png")  # formats that browsers and `datasets` read; others become PNG


def loadable(source: Source, skip_bad: bool) -> list[SourceCase]:
    """The cases that can be loaded. The others, and files without partner, are named and left out, or refused unless `skip_bad`."""
    good, bad = [], list(source.lacking)
    for entry in shown("reading cases", source.cases):
        try:
            entry.load()
            good.append(entry)
        except UserError as error:
            bad.append(str(error))
    if bad and not skip_bad:
        more = f" And {len(bad) - 2} more." if len(bad) > 2 else ""
        raise UserError(f"{len(bad)} files can't be used: {' '.join(bad[:2])}{more} Or leave them out with --skip-bad.")
    for text in bad:
        console.print(f"Left out: {text}")
    if not good:
        raise UserError(f"{source.path} holds no case that can be used.")
    return good


def copy_real(source: Source, out: Path, clean: Callable[[Case], Case] | None = None) -> list[dict[str, Any]]:
    """Write every case of `source` below `out` and return the metadata rows. clean: takes text out of a case first."""
    rows = []
    columns = (TextColumn("copying real cases"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("copy", total=len(source))
        for entry in source.cases:
            case = entry.load()
            before = case.image
            case = clean(case) if clean else case
            case.name = plain_name(case.name)
            suffix = entry.image_path.suffix.lower()
            content = entry.image_path.read_bytes() if suffix in KEPT_SUFFIXES and case.image is before else b""
            as_it_is = bool(content) and not carries_metadata(content)
            rows.append(write_case(out, case, content, suffix) if as_it_is else write_case(out, case))
            bar.advance(task)
    return rows


_SPLIT_WORD = re.compile(
    r"(?:^|(?<=[-._ 0-9]))(train|training|validation|valid|val|dev|testing|test|eval|evaluation)(?=$|[-._ 0-9])", re.IGNORECASE
)


def plain_name(name: str) -> str:
    """A name from which Hugging Face `datasets` reads no split: `test_1` would put a case into "test", and drop its labels."""
    return _SPLIT_WORD.sub(r"\1x", name)
