"""`polypforge data pack`: a folder of cases into shards."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from polypforge.core.console import console
from polypforge.core.errors import UserError
from polypforge.core.seeding import content_hash
from polypforge.data.file_metadata import carries_metadata
from polypforge.data.layouts import open_source
from polypforge.data.shards import SUFFIXES, WRITERS, goes_as_it_is, mask_columns, refuse_unknown
from polypforge.data.source import SourceCase, state_of
from polypforge.workflows.each import each, shown
from polypforge.workflows.run_folder import claim, refuse_nesting

DEFAULT_SPLIT = "train"


def pack_data(data: Path, out: Path, to: str = "webdataset", per_shard: int = 1000, layout: str = "auto") -> dict[str, Any]:
    """Write the cases to OUT/data/SPLIT-00000-of-00012.tar (or .parquet). The same call writes the shards that are missing.

    Where no case has a split, all are "train"; where some have, those without one (left out by `data split`) stay out. Raises UserError for
    an unknown format, for real files that carry words (EXIF, comments), and when `out` holds shards of other cases.
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
    splits = _by_split(source.cases)
    chosen = [c for cases in splits.values() for c in cases]
    if source.lacking:
        raise UserError(f"{len(source.lacking)} files would be left out: {source.lacking[0]}")
    real = [c for c in chosen if "synthetic" not in c.provenance]  # synthetic ones were written whole
    each("reading real cases", _refuse_bad, real)  # before anything is written
    for entry in real:
        if goes_as_it_is(entry, to) and carries_metadata(entry.image_path.read_bytes()):
            raise UserError(f"{entry.image_path} carries metadata, which may name a patient: import it first (polypforge data import).")
    columns = mask_columns(chosen)
    if to == "webdataset":
        refuse_unknown(chosen, columns)
    state = content_hash([state_of(source.cases), [c.split for c in source.cases]])
    claim(out, "data pack", {"data": str(data.resolve()), "state": state, "to": to, "per_shard": per_shard})
    jobs = []
    for split, cases in splits.items():
        starts = range(0, len(cases), per_shard)
        names = [f"{split}-{k:05d}-of-{len(starts):05d}{SUFFIXES[to]}" for k in range(len(starts))]
        jobs += [(out / "data" / name, cases[s : s + per_shard], s) for name, s in zip(names, starts, strict=True)]
    todo = [job for job in jobs if not job[0].exists()]
    for path, cases, first in shown("packing", todo):
        WRITERS[to](path, cases, first, columns)
    return {"cases": len(chosen), "left_out": len(source.cases) - len(chosen), "shards": len(jobs), "written": len(todo), "out": str(out)}


def _refuse_bad(case: SourceCase) -> None:
    case.load()


def _by_split(cases: list[SourceCase]) -> dict[str, list[SourceCase]]:
    if not any(c.split for c in cases):
        return {DEFAULT_SPLIT: cases}
    left = sum(not c.split for c in cases)
    if left:
        console.print(f"Leaving out {left} cases without a split: `data split` leaves out what ties two splits together.")
    return {split: [c for c in cases if c.split == split] for split in sorted({c.split for c in cases} - {""})}
