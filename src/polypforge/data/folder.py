"""The data-set folder: `images/`, `masks/`, `metadata.jsonl`. Hugging Face `datasets` loads it as it is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from polypforge.core.errors import UserError
from polypforge.core.files import inside, read_jsonl, sha256_of, write_bytes, write_jsonl
from polypforge.core.images import png_bytes, read_mask
from polypforge.core.types import Case, Mask
from polypforge.data.source import ANY_CLASS, Source, SourceCase, known_label

METADATA = "metadata.jsonl"
REMOVED = "removed.jsonl"  # rows that an audit took out of METADATA
CLASS_KEY = re.compile(r"mask_([A-Za-z0-9][A-Za-z0-9_-]*)_file_name")


def is_data_set(folder: Path) -> bool:
    return (folder / METADATA).is_file()


def read_data_set(folder: Path) -> Source:
    """Open a data-set folder. Pixels are read when a case is loaded. Raises UserError for a bad manifest."""
    cases = []
    for number, row in enumerate(read_jsonl(folder / METADATA), 1):
        where = f"{folder / METADATA}, line {number}"
        if "image_file_name" not in row:
            raise UserError(f"{where} lacks 'image_file_name': write the file with `polypforge data import`.")
        try:
            cases.append(_read_row(folder, row))
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise UserError(f"{where} has a value of the wrong type ({error}): see docs/data.md for what a row holds.") from error
    return Source(folder, "data set", cases)


def _read_row(folder: Path, row: dict[str, Any]) -> SourceCase:
    classes = {m[1]: row[m[0]] for m in map(CLASS_KEY.fullmatch, row) if m and row[m[0]]}
    masks = classes or {ANY_CLASS: row.get("mask_file_name")}  # the union is made again from the classes
    paths = {name: inside(folder, file) for name, file in masks.items() if file}
    return SourceCase(
        name=Path(row["image_file_name"]).stem,
        image_path=inside(folder, row["image_file_name"]),
        read_masks=partial(_read_classes, paths) if paths else None,
        mask_paths=tuple(paths.values()),
        class_names=tuple(classes),
        boxes=tuple((int(x0), int(y0), int(x1), int(y1)) for x0, y0, x1, y1 in row.get("boxes") or ()),
        label=known_label(str(row.get("label") or "")),
        group=str(row.get("group") or ""),
        split=str(row.get("split") or ""),
        provenance=dict(json.loads(row.get("provenance") or "{}")),
    )


def _read_classes(paths: dict[str, Path]) -> dict[str, Mask]:
    return {name: read_mask(path) for name, path in paths.items()}


def write_case(folder: Path, case: Case, image_bytes: bytes | None = None, suffix: str = ".png") -> dict[str, Any]:
    """Write one case's files and return its metadata row. `image_bytes` keeps a source file's own encoding; else the file of a synthetic
    case says that it is one, and how it was made."""
    image_name = f"images/{case.name}{suffix}"
    provenance = json.dumps(case.provenance, ensure_ascii=False, sort_keys=True)
    mark = {"polypforge": provenance, "synthetic": "true"} if case.provenance.get("synthetic") else {}
    write_bytes(folder / image_name, image_bytes if image_bytes is not None else png_bytes(case.image, mark))
    mask_name = None
    if case.mask is not None:
        mask_name = f"masks/{case.name}.png"
        write_bytes(folder / mask_name, png_bytes(case.mask))
    row: dict[str, Any] = {"image_file_name": image_name, "mask_file_name": mask_name}
    for name, mask in case.classes.items():
        row[f"mask_{name}_file_name"] = f"masks/{case.name}__{name}.png"
        write_bytes(folder / row[f"mask_{name}_file_name"], png_bytes(mask))
    return row | {
        "boxes": [list(b) for b in case.boxes],
        "label": case.label,
        "group": case.group,
        "split": case.split,
        "width": case.size[1],
        "height": case.size[0],
        "sha256": sha256_of(folder / image_name),
        "provenance": provenance,
    }


def write_data_set(folder: Path, cases: Iterable[Case]) -> int:
    """Write a new data-set folder, metadata last. Returns the number of cases. Raises UserError when one is already there."""
    if is_data_set(folder):
        raise UserError(f"{folder} already holds a data set: choose another output folder.")
    rows = [write_case(folder, case) for case in cases]
    write_jsonl(folder / METADATA, rows)
    return len(rows)
