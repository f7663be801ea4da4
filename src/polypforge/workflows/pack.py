"""`polypforge data pack`: a folder of cases into shards."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from polypforge.core.errors import UserError
from polypforge.data.layouts import open_source
from polypforge.data.shards import SUFFIXES, WRITERS, refuse_mixed
from polypforge.data.source import state_of
from polypforge.workflows.each import shown
from polypforge.workflows.export_cases import carries_metadata
from polypforge.workflows.run_folder import claim, refuse_nesting

DEFAULT_SPLIT = "train"


def pack_data(data: Path, out: Path, to: str = "webdataset", per_shard: int = 1000, layout: str = "auto") -> dict[str, Any]:
    """Write the cases to OUT/data/SPLIT-00000-of-00012.tar (or .parquet). The same call writes the shards that are missing.

    Cases without a split go to "train". Raises UserError for an unknown format, for files that carry words (EXIF, comments), and when
    `out` holds shards of other cases.
    """
    if to not in WRITERS:
        raise UserError(f"--to {to}: choose {' or '.join(WRITERS)}.")
    if to == "parquet" and importlib.util.find_spec("pyarrow") is None:
        raise UserError("Parquet needs pyarrow: pip install 'polypforge[parquet]', or pack with --to webdataset.")
    if per_shard < 1:
        raise UserError(f"--per-shard is {per_shard}: a shard holds at least one case.")
    refuse_nesting(data, out)
    source = open_source(data, layout)
    if not source.cases:
        raise UserError(f"{data} holds no case.")
    if to == "webdataset":
        refuse_mixed(source.cases)
    else:  # its images go out byte for byte
        for entry in source.cases:
            if carries_metadata(entry.image_path.read_bytes()) and "synthetic" not in entry.provenance:
                raise UserError(f"{entry.image_path} carries metadata, which may name a patient: import it first (polypforge data import).")
    settings = {"data": str(data.resolve()), "state": state_of(source.cases), "to": to, "per_shard": per_shard}
    claim(out, "data pack", settings)
    jobs = []
    for split in sorted({c.split or DEFAULT_SPLIT for c in source.cases}):
        cases = [c for c in source.cases if (c.split or DEFAULT_SPLIT) == split]
        starts = range(0, len(cases), per_shard)
        names = [f"{split}-{k:05d}-of-{len(starts):05d}{SUFFIXES[to]}" for k in range(len(starts))]
        jobs += [(out / "data" / name, cases[s : s + per_shard], s) for name, s in zip(names, starts, strict=True)]
    todo = [job for job in jobs if not job[0].exists()]
    for path, cases, first in shown("packing", todo):
        WRITERS[to](path, cases, first)
    return {"cases": len(source.cases), "shards": len(jobs), "written": len(todo), "out": str(out)}
