"""`polypforge references`: a database of frames without their polyps, for `polypforge propose`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from polypforge.core.console import console
from polypforge.core.errors import UserError
from polypforge.core.types import Case
from polypforge.data.prepared import prepare
from polypforge.data.source import SourceCase
from polypforge.data.split import components as linked
from polypforge.features import Encoder
from polypforge.features.frames import FeatureStore, frame_key
from polypforge.masks import attributes
from polypforge.masks.shapes import components, outline
from polypforge.models.locate import locate, set_offline, weights_hash
from polypforge.proposals.database import Reference, ReferenceDatabase, is_database
from polypforge.proposals.index import KINDS, kind_for
from polypforge.proposals.places import loosened
from polypforge.proposals.removal import LEAST_AREA_PX, MARGIN, lesions_of, removals
from polypforge.proposals.scene import read_scene
from polypforge.recipes import Job, Recipe, load_recipe
from polypforge.workflows.device import device_of
from polypforge.workflows.encoder import open_encoder
from polypforge.workflows.opened import Opened, open_checked
from polypforge.workflows.run_folder import refuse_nesting

SHARD = 64  # references written at once: what an interruption can cost


def build_references(
    data: Path,
    out: Path,
    *,
    model: str = "starter:forge",
    encoder: str = "starter:encoder",
    index: str | None = None,
    layout: str = "auto",
    skip_bad: bool = False,
    batch_size: int = 8,
    seed: int = 0,
    device: str = "auto",
    offline: bool = False,
) -> dict[str, Any]:
    """Turn the training frames of `data` that show polyps to normal and add them to the database at `out`, a new one or one that grows.

    Frames that the database holds already are passed over, so the same call again goes on where it stopped. index: flat, hnsw or ivfpq;
    by default what suits the size. Returns counts and the recall of the index. Raises UserError.
    """
    if index is not None and index not in KINDS:
        raise UserError(f"there is no index '{index}': choose one of {', '.join(KINDS)}.")
    set_offline(offline)
    refuse_nesting(data, out)
    weights = weights_hash(locate(model, offline))
    opened_encoder = open_encoder(encoder, device)
    provenance = {"model": model, "weights": weights, "seed": seed}
    database = _open_or_create(out, opened_encoder, provenance)
    opened = open_checked(data, layout, skip_bad, min_cases=1)
    cases = opened.cases("train")
    recipe = load_recipe(locate(model, offline))
    if not recipe.removes:
        raise UserError(f"{recipe.name} can't turn a polyp to normal: choose a model of a recipe that can, such as starter:forge.")
    if "background" not in recipe.needs:
        raise UserError(f"{recipe.name} draws new frames, and turns none to normal.")
    groups = _groups(opened)
    added = _add_all(database, cases, groups, recipe.to(device_of(device)), opened_encoder, batch_size, seed, index)
    if index is not None and database.manifest["index"] and database.manifest["index"]["kind"] != index:
        database.rebuild_index(index)
    return {"database": str(out), "added": added, "references": len(database), **_quality(database)}


def _groups(opened: Opened) -> dict[str, str]:
    """The group of each case; near-duplicates have one in common, so that a frame is never explained by its own twin."""
    found: dict[str, str] = {}
    names = {c.name for c in opened.source.cases}
    links = [(a, b) for a, b in opened.report.pairs if a in names and b in names]
    for members in linked(opened.source.cases, links):
        first = min(c.group or c.name for c in members)
        found |= {c.name: first for c in members}
    return found


def _open_or_create(out: Path, encoder: Encoder, provenance: dict[str, Any]) -> ReferenceDatabase:
    if not is_database(out):
        if out.exists() and any(out.iterdir()):
            raise UserError(f"{out} exists and is no reference database: choose another folder.")
        return ReferenceDatabase.create(out, encoder, provenance)
    database = ReferenceDatabase.open(out, encoder)
    stored = database.manifest["provenance"]
    for key in ("weights", "seed"):
        if stored.get(key) != provenance[key]:
            raise UserError(f"{out} was built with {key} {stored.get(key)}, not {provenance[key]}: use that, or start another database.")
    return database


def _add_all(
    database: ReferenceDatabase,
    cases: Sequence[SourceCase],
    groups: dict[str, str],
    recipe: Recipe,
    encoder: Encoder,
    batch_size: int,
    seed: int,
    kind: str | None,
) -> int:
    known = {r.key for r in database.references}
    store = FeatureStore(encoder, batch_size=batch_size)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    started, added = time.monotonic(), 0
    references: list[Reference] = []
    normal: list[Case] = []

    def write() -> None:
        nonlocal added
        found = [f for _, f in store.features((c.name, c.image) for c in normal)]
        database.add(references, [c.image for c in normal], found, kind)
        added += len(references)
        references.clear()
        normal.clear()

    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("turning polyps to normal", total=len(cases))
        for batch in _batches(cases, batch_size, known, lambda: bar.advance(task)):
            references += [describe(case, groups.get(case.name, case.group)) for case in batch]
            normal += turn_normal(recipe, batch, seed)
            if added == 0 and len(normal) == len(batch):  # after the first batch
                minutes = (time.monotonic() - started) / len(batch) * len(cases) / 60
                console.print(f"{len(cases)} frames will take about {minutes:.1f} min. Ctrl-C stops; the same command goes on.")
            if len(normal) >= SHARD:
                write()
        write()
    return added


def _batches(cases: Sequence[SourceCase], size: int, known: set[str], seen) -> Iterator[list[Case]]:
    """Cases that show a lesion and are not known by their pixels, a few at a time."""
    batch: list[Case] = []
    for source in cases:
        case = source.load()
        seen()
        if lesions_of(case).any() and frame_key(case.image) not in known and removals(prepare(case), 0):
            batch.append(case)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def describe(case: Case, group: str) -> Reference:
    """What the database remembers of a case: outlines, attributes and the lumen, all in frame pixels."""
    prepared = prepare(case)
    lesions = [p for p in components(lesions_of(case), LEAST_AREA_PX) if (p & prepared.field).any()]
    measured = [asdict(attributes.measure(case.image, p, loosened(p, MARGIN) & prepared.field, prepared.field)) for p in lesions]
    rounded = tuple({k: round(v, 4) for k, v in m.items()} for m in measured)
    outlines = tuple(tuple(outline(p, max(1.0, 0.01 * float(np.sqrt(p.sum()))))) for p in lesions)
    return Reference(case.name, group, frame_key(case.image), case.size, outlines, rounded, read_scene(prepared).lumen_at)


def turn_normal(recipe: Recipe, cases: Sequence[Case], seed: int) -> list[Case]:
    """The cases with every lesion repainted as normal tissue; frames are batched, lesions of a frame follow one another."""
    current = list(cases)
    planned = [removals(prepare(case), seed) for case in cases]
    for step in range(max(len(p) for p in planned)):
        own = [i for i, p in enumerate(planned) if len(p) > step]
        made = recipe.generate([Job(planned[i][step], current[i]) for i in own])
        for i, case in zip(own, made, strict=True):
            current[i] = case
    return current


def _quality(database: ReferenceDatabase) -> dict[str, Any]:
    if database.index is None:
        return {"index": None, "recall@5": None}
    kind = database.manifest["index"]["kind"]
    if kind_for(len(database)) != kind and kind == "flat":
        console.print(f"Notice: {len(database)} references are searched faster with --index {kind_for(len(database))}.")
    return {"index": kind, "recall@5": round(database.index.recall(database.vectors()), 4)}
