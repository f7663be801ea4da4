"""Cases in few large files, for storage far away and for many readers: WebDataset (tar) or Parquet. Hugging Face `datasets` loads both.

PNG files go in as they are (synthetic ones keep the text that says so); in Parquet so do JPEG files. Others, and in WebDataset, where all
samples have the same files, JPEG files too, become PNG.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from polypforge.core.errors import UserError
from polypforge.core.files import whole_file
from polypforge.core.images import png_bytes
from polypforge.core.types import NORMAL, Case
from polypforge.data.source import ANY_CLASS, SourceCase

KNOWN = ("name", "boxes", "label", "group", "split", "width", "height", "provenance")  # beside the pixels; boxes and provenance as JSON
ROWS_AT_ONCE = 50
AS_THEY_ARE = {"webdataset": (".png",), "parquet": (".png", ".jpg", ".jpeg")}


def mask_columns(cases: Sequence[SourceCase]) -> list[str]:
    """Names of the masks of a whole set: mask, then mask_CLASS for each class. Empty when no case has a mask."""
    classes = {name for c in cases for name in c.class_names}
    return ["mask"] * any(c.read_masks is not None for c in cases) + [f"mask_{name}" for name in sorted(classes)]


def goes_as_it_is(entry: SourceCase, to: str) -> bool:
    """Whether the image's file is packed byte for byte."""
    return entry.image_path.suffix.lower() in AS_THEY_ARE[to]


def _image_bytes(entry: SourceCase, case: Case, to: str) -> bytes:
    return entry.image_path.read_bytes() if goes_as_it_is(entry, to) else png_bytes(case.image)


def refuse_unknown(cases: Sequence[SourceCase], columns: Sequence[str]) -> None:
    """Raises UserError for a case of which not every mask is known, before anything is written: WebDataset can't leave one open."""
    for entry in cases:
        if unknown := _unknown(entry, columns):
            raise UserError(
                f"'{entry.name}' has no {unknown}, which other cases have, and WebDataset can't leave it open: "
                "pack with --to parquet, or give it one (polypforge data masks)."
            )


def _unknown(entry: SourceCase, columns: Sequence[str]) -> str:
    """The first column that has nothing to hold for this case; "" when each has."""
    if not columns or entry.label == NORMAL:
        return ""
    if entry.read_masks is None:
        return columns[0] if entry.label or entry.boxes else ""
    return columns[1] if len(columns) > 1 and not entry.class_names else ""


def write_webdataset(path: Path, cases: Sequence[SourceCase], first: int, columns: Sequence[str]) -> None:
    """One tar: KEY.image.png, KEY.json and a KEY.COLUMN.png for each mask. KEY is the case's number, from `first` on.

    All samples need the same files: see `refuse_unknown`.
    """
    with whole_file(path) as temporary, tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as archive:
        for number, entry in enumerate(cases, first):
            case = entry.load()
            files = {"image.png": _image_bytes(entry, case, "webdataset")}
            files |= {f"{name}.png": content for name, content in _masks(entry, case, columns).items() if content is not None}
            files["json"] = json.dumps(_known(case), ensure_ascii=False).encode()
            for suffix, content in files.items():
                member = tarfile.TarInfo(f"{number:09d}.{suffix}")  # neither a time nor an owner: the same cases give the same bytes
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def write_parquet(path: Path, cases: Sequence[SourceCase], first: int, columns: Sequence[str]) -> None:
    """One table: a row a case, images and masks as encoded bytes that `datasets` decodes; a mask that isn't known is null."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = dict.fromkeys(KNOWN, "string") | {"width": "int32", "height": "int32"}
    pictures = ["image", *columns]
    features = {name: {"_type": "Image"} for name in pictures} | {n: {"dtype": k, "_type": "Value"} for n, k in kinds.items()}
    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    fields = [pa.field(n, picture) for n in pictures] + [pa.field(n, getattr(pa, k)()) for n, k in kinds.items()]
    schema = pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": features}})})
    with whole_file(path) as temporary, pq.ParquetWriter(temporary, schema, compression="none") as table:  # pictures are compressed
        for k in range(0, len(cases), ROWS_AT_ONCE):
            table.write_table(pa.Table.from_pylist([_row(entry, columns) for entry in cases[k : k + ROWS_AT_ONCE]], schema))


WRITERS: dict[str, Callable[[Path, Sequence[SourceCase], int, Sequence[str]], None]] = {
    "webdataset": write_webdataset,
    "parquet": write_parquet,
}
SUFFIXES = {"webdataset": ".tar", "parquet": ".parquet"}


def _masks(entry: SourceCase, case: Case, columns: Sequence[str]) -> dict[str, bytes | None]:
    """PNG of each column; None where it isn't known. A normal frame's masks are empty, and so is that of a class which isn't there."""
    by_class = entry.read_masks() if entry.read_masks is not None and len(columns) > 1 else {}
    nothing = np.zeros(case.size, bool)
    known = case.mask is not None or case.label == NORMAL
    classified = known and (case.label == NORMAL or ANY_CLASS not in by_class)
    found: dict[str, bytes | None] = {}
    for name in columns:
        if name == "mask":
            found[name] = png_bytes(case.mask if case.mask is not None else nothing) if known else None
        else:
            found[name] = png_bytes(by_class.get(name.removeprefix("mask_"), nothing)) if classified else None
    return found


def _row(entry: SourceCase, columns: Sequence[str]) -> dict[str, Any]:
    case = entry.load()
    masks = _masks(entry, case, columns)
    pixels = {name: {"bytes": content, "path": f"{case.name}-{name}.png"} if content else None for name, content in masks.items()}
    return {"image": {"bytes": _image_bytes(entry, case, "parquet"), "path": entry.image_path.name}} | pixels | _known(case)


def _known(case: Case) -> dict[str, Any]:
    height, width = case.size
    return {
        "name": case.name,
        "boxes": json.dumps([list(b) for b in case.boxes]),
        "label": case.label,
        "group": case.group,
        "split": case.split,
        "width": width,
        "height": height,
        "provenance": json.dumps(case.provenance, ensure_ascii=False, sort_keys=True),
    }
