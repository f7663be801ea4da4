"""`polypforge propose`: places and shapes for lesions in frames, by retrieval from a reference database."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from polypforge.core.console import console
from polypforge.core.errors import UserError
from polypforge.core.files import read_json, whole_file
from polypforge.core.images import write_png
from polypforge.core.seeding import content_hash, seed_from
from polypforge.core.types import Case, Image
from polypforge.data.prepared import prepare
from polypforge.data.source import SourceCase
from polypforge.features.frames import FeatureStore, FrameFeatures
from polypforge.models.locate import set_offline
from polypforge.proposals.database import MANIFEST, ReferenceDatabase, is_database
from polypforge.proposals.proposal import Proposal
from polypforge.proposals.proposer import Explanation, Proposer, ProposerConfig
from polypforge.proposals.removal import lesions_of
from polypforge.proposals.retrieval import RetrievalConfig
from polypforge.reporting.retrieval_figure import Candidate, Drawn, retrieval_figure
from polypforge.workflows.encoder import STARTER_ENCODER, open_encoder
from polypforge.workflows.opened import files_of, open_checked
from polypforge.workflows.references import build_references
from polypforge.workflows.run_folder import refuse_nesting, refuse_other_file


def propose_places(
    frames: Path,
    references: Path,
    out: Path,
    *,
    count: int = 5,
    references_per_frame: int = 5,
    encoder: str | None = None,
    model: str = "starter:forge",
    in_lumen: bool = False,
    explain: Path | None = None,
    cache: Path | None = None,
    layout: str = "auto",
    skip_bad: bool = False,
    batch_size: int = 16,
    seed: int = 0,
    device: str = "auto",
    offline: bool = False,
) -> dict[str, Any]:
    """Write up to `count` proposals for each frame to `out` (JSONL, best first), which `polypforge generate --requests` takes.

    references: a database of `build_references`, or a data set, from which one is built at `out` with the suffix .references-HASH.
    encoder: by default the database's own. explain: a folder for pictures of how each frame's proposals came about. cache: a folder that
    keeps features of frames; without one they are kept beside `out` until it is written. Held-out frames (test and val) get no proposals.
    Raises UserError.
    """
    set_offline(offline)
    if explain is not None:
        refuse_nesting(frames, explain)
    if cache is not None:
        refuse_nesting(frames, cache)
    if not references.is_dir():
        raise UserError(f"{references}: no such folder; references are a database of `polypforge references`, or a data set.")
    config = ProposerConfig(count=_at_least_one("--num", count), in_lumen=in_lumen)
    config = replace(config, retrieval=RetrievalConfig(references=_at_least_one("--references-per-frame", references_per_frame)))
    refuse_other_file(out, frames)
    kept = cache or out.with_name(f".{out.name}.features")  # an interrupted run goes on from there
    check = kept / f"check-{content_hash(str(frames.resolve()))}.json"
    unlabelled = layout == "normal"  # nothing will be validated on frames without labels
    shares = {"val_share": 0.0} if unlabelled else {}
    source = open_checked(frames, layout, skip_bad, cache=check, min_cases=1, **shares).cases("train")
    if not is_database(references):
        folder = out.with_suffix(f".references-{files_of(references)[:8]}")  # other references, another database
        build_references(
            references,
            folder,
            model=model,
            encoder=encoder or STARTER_ENCODER,
            skip_bad=skip_bad,
            seed=seed,
            device=device,
            offline=offline,
        )
        references = folder
    opened = open_encoder(encoder or read_json(references / MANIFEST)["encoder"], device)
    database = ReferenceDatabase.open(references, opened)
    if not len(database):
        raise UserError(f"{references} is empty: add frames that show polyps with `polypforge references DATA --out {references}`.")
    proposer, store = Proposer(database, config), FeatureStore(opened, kept, batch_size)
    started, counts, sources = time.monotonic(), [], {"retrieval": 0, "prior": 0}
    columns = (TextColumn("proposing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar, whole_file(out) as temporary, temporary.open("w") as file:
        task = bar.add_task("frames", total=len(source))
        for number, (case, features) in enumerate(_with_features(source, store)):
            proposals, why = proposer.explain(prepare(case), features, lesions_of(case))
            for rank, proposal in enumerate(proposals):
                sources[proposal.source] += 1
                file.write(json.dumps(proposal.to_json(case.name, rank, seed_from(seed, "proposal", case.name, rank))) + "\n")
            counts.append(len(proposals))
            if explain is not None:
                picture = _figure(case, features, proposals, why, database)
                write_png(explain / f"{number:04d}-{Path(case.name).name}.png", picture)
            bar.advance(task)
            if number == batch_size - 1 < len(source) - 1:
                minutes = (time.monotonic() - started) / batch_size * len(source) / 60
                console.print(f"{len(source)} frames will take about {minutes:.1f} min. Ctrl-C stops; the same command goes on.")
    if cache is None:
        shutil.rmtree(kept, ignore_errors=True)
    if not any(counts):
        console.print("No frame has room for a lesion: are they dark, or not endoscopic?")
    return {
        "frames": len(counts), "proposals": int(np.sum(counts)), "frames without any": int(np.sum(np.array(counts) == 0)), **sources,
        "seconds": round(time.monotonic() - started, 2), "out": str(out),
    }  # fmt: skip


def _with_features(cases: Sequence[SourceCase], store: FeatureStore) -> Iterator[tuple[Case, FrameFeatures]]:
    """Cases with their features; a batch of frames in memory at a time."""
    held: list[Case] = []

    def frames() -> Iterator[tuple[str, Image]]:
        for listed in cases:
            held.append(listed.load())
            yield held[-1].name, held[-1].image

    for _, features in store.features(frames()):
        yield held.pop(0), features


def _figure(case: Case, features: FrameFeatures, proposals: list[Proposal], why: Explanation, database: ReferenceDatabase) -> Image:
    candidates = []
    for match in why.matches:
        reference = database.references[match.row]
        their_cell = max(reference.size) / max(database.patches(match.row).shape[:2])
        candidates.append(
            Candidate(
                reference.name, database.picture(match.row), reference.size, reference.lesions, match.near, match.cells, match.theirs,
                features.cell_px, their_cell, match.cluster,
            )
        )  # fmt: skip
    drawn = [Drawn(p.lesion, p.rectangle, f"best: {p.source}, score {p.score:.2f}") for p in proposals]
    return retrieval_figure(case.image, why.allowed, candidates, drawn)


def _at_least_one(option: str, value: int) -> int:
    if value < 1:
        raise UserError(f"{option} is {value}: it must be at least 1.")
    return value
