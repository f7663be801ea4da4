"""Cases in few large files, for storage far away and for many readers: WebDataset (tar) or Parquet. Hugging Face `datasets` loads both.

A shard holds its cases' files as they are: images keep their encoding in Parquet; in WebDataset, where all samples must have the same
files, they are PNG.
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
from polypforge.data.source import SourceCase

KNOWN = ("name", "boxes", "label", "group", "split", "width", "height", "provenance")  # beside the pixels; boxes and provenance as JSON


def write_webdataset(path: Path, cases: Sequence[SourceCase], first: int) -> None:
    """One tar: KEY.image.png, KEY.mask.png, KEY.mask_CLASS.png and KEY.json a case. KEY is the case's number, from `first` on."""
    with whole_file(path) as temporary, tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as archive:
        for number, entry in enumerate(cases, first):
            case = entry.load()
            pixels = {name: png_bytes(mask) for name, mask in _masks(case).items()}
            files = {"image.png": png_bytes(case.image)} | {f"{name}.png": content for name, content in pixels.items()}
            files["json"] = json.dumps(_known(case), ensure_ascii=False).encode()
            for suffix, content in files.items():
                member = tarfile.TarInfo(f"{number:09d}.{suffix}")  # neither a time nor an owner: the same cases give the same bytes
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def write_parquet(path: Path, cases: Sequence[SourceCase], first: int) -> None:
    """One table: a row a case, images and masks as encoded bytes that `datasets` decodes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [_row(entry) for entry in cases]
    pictures = sorted({name for row in rows for name in row if name not in KNOWN}, key=lambda n: (n != "image", n))
    kinds = dict.fromkeys(KNOWN, "string") | {"width": "int32", "height": "int32"}
    features = {name: {"_type": "Image"} for name in pictures} | {n: {"dtype": k, "_type": "Value"} for n, k in kinds.items()}
    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    fields = [pa.field(n, picture) for n in pictures] + [pa.field(n, getattr(pa, k)()) for n, k in kinds.items()]
    schema = pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": features}})})
    table = pa.Table.from_pylist([{f.name: row.get(f.name) for f in fields} for row in rows], schema)
    with whole_file(path) as temporary:
        pq.write_table(table, temporary, row_group_size=100, compression="none")  # pictures are compressed already


WRITERS: dict[str, Callable[[Path, Sequence[SourceCase], int], None]] = {"webdataset": write_webdataset, "parquet": write_parquet}
SUFFIXES = {"webdataset": ".tar", "parquet": ".parquet"}


def refuse_mixed(cases: Sequence[SourceCase]) -> None:
    """WebDataset wants the same files of every sample. Raises UserError where some cases have masks and others boxes alone."""
    without = [c.name for c in cases if c.read_masks is None and c.label != NORMAL]
    if without and len(without) < len(cases):
        raise UserError(
            f"{len(without)} of {len(cases)} cases have no mask (for example '{without[0]}'), which WebDataset can't say: "
            "pack them with --to parquet, or give them masks (polypforge data masks)."
        )


def _masks(case: Case) -> dict[str, Any]:
    """mask and mask_CLASS; a normal frame's mask is empty."""
    mask = case.mask if case.mask is not None or case.label != NORMAL else np.zeros(case.size, bool)
    found = {} if mask is None else {"mask": mask}
    return found | {f"mask_{name}": part for name, part in case.classes.items()}


def _row(entry: SourceCase) -> dict[str, Any]:
    case = entry.load()
    pixels = {name: {"bytes": png_bytes(mask), "path": f"{case.name}-{name}.png"} for name, mask in _masks(case).items()}
    image = {"bytes": entry.image_path.read_bytes(), "path": entry.image_path.name}
    return {"image": image} | pixels | _known(case)


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
