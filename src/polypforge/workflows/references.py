"""`polypforge references`: a database of frames without their polyps, for `polypforge propose`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from polypforge.core.console import console
from polypforge.core.errors import UserError
from polypforge.core.seeding import numpy_rng
from polypforge.core.types import Case, Mask
from polypforge.data.prepared import Prepared, prepare
from polypforge.data.source import SourceCase
from polypforge.data.split import components as linked
from polypforge.features import Encoder
from polypforge.features.frames import FeatureStore, frame_key
from polypforge.masks import attributes
from polypforge.masks.pseudo import inscribed_polygon
from polypforge.masks.shapes import bounding_box, loosened
from polypforge.models.locate import locate, public_name, set_offline, weights_hash
from polypforge.proposals.database import Reference, ReferenceDatabase, is_database
from polypforge.proposals.index import KINDS
from polypforge.proposals.places import MARGIN, region_polygon
from polypforge.proposals.proposal import Polygon
from polypforge.proposals.removal import lesions_of, removals, visible_lesions
from polypforge.proposals.scene import read_scene
from polypforge.recipes import Job, Recipe, load_recipe
from polypforge.workflows.device import device_of, refuse_batch_size
from polypforge.workflows.encoder import STARTER_ENCODER, open_encoder
from polypforge.workflows.opened import Opened, open_checked
from polypforge.workflows.run_folder import refuse_nesting

SHARD = 64  # references written at once: what an interruption can cost


def build_references(
    data: Path,
    out: Path,
    *,
    model: str = "starter:forge",
    encoder: str = STARTER_ENCODER,
    index: str | None = None,
    layout: str = "auto",
    skip_bad: bool = False,
    batch_size: int = 16,
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
    refuse_batch_size(batch_size)
    set_offline(offline)
    refuse_nesting(data, out)
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: name a folder for the database.")
    folder = locate(model, offline)
    recipe = load_recipe(folder)
    if not recipe.removes:
        raise UserError(f"{recipe.name} can't turn a polyp to normal: choose a model of a recipe that can, such as starter:forge.")
    opened_encoder = open_encoder(encoder, device)
    with torch.inference_mode():  # before anything costly: some encoders give no patches
        opened_encoder.patches(torch.zeros(1, 3, opened_encoder.look_px, opened_encoder.look_px, device=device_of(device)))
    opened = open_checked(data, layout, skip_bad, min_cases=1)
    if not opened.lesions("train"):
        raise UserError(f"{data} shows no polyp in a training case: references are frames that bore one.")
    database = _open_or_create(out, opened_encoder, {"model": public_name(model), "weights": weights_hash(folder), "seed": seed})
    added = _add_all(database, opened, recipe.to(device_of(device)), opened_encoder, batch_size, seed)
    database.suit_index(index)
    vectors = database.vectors() if database.index is not None and database.kind != "flat" else None
    recall = 1.0 if vectors is None else round(database.index.recall(vectors), 4)  # type: ignore[union-attr]
    return {"database": str(out), "added": added, "references": len(database), "index": database.kind, "recall@5": recall}


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


def _add_all(database: ReferenceDatabase, opened: Opened, recipe: Recipe, encoder: Encoder, batch_size: int, seed: int) -> int:
    cases, groups = opened.lesions("train"), _groups(opened)
    known = {r.key for r in database.references}
    store = FeatureStore(encoder, batch_size=batch_size)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    started, added = time.monotonic(), 0
    references: list[Reference] = []
    normal: list[Case] = []

    def write() -> None:
        nonlocal added
        found = [f for _, f in store.features((c.name, c.image) for c in normal)]
        database.add(references, [c.image for c in normal], found)
        added += len(references)
        references.clear()
        normal.clear()

    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("turning polyps to normal", total=len(cases))
        for batch in _batches(cases, groups, batch_size, known, lambda: bar.advance(task)):
            references += [reference for _, reference in batch]
            normal += turn_normal(recipe, [case for case, _ in batch], seed)
            if added == 0 and len(normal) == len(batch):  # after the first batch
                minutes = (time.monotonic() - started) / len(batch) * len(cases) / 60
                console.print(f"{len(cases)} frames will take about {minutes:.1f} min. Ctrl-C stops; the same command goes on.")
            if len(normal) >= SHARD:
                write()
        write()
    return added


def _batches(
    cases: Sequence[SourceCase], groups: Mapping[str, str], size: int, known: set[str], seen: Callable[[], None]
) -> Iterator[list[tuple[Case, Reference]]]:
    """Cases that show a lesion and are not known by their pixels, a few at a time. Boxes become masks, which can be turned to normal."""
    batch: list[tuple[Case, Reference]] = []
    for source in cases:
        case = source.load()
        seen()
        if frame_key(case.image) in known:
            continue
        if case.mask is None:
            case = replace(case, mask=lesions_of(case))
        reference = describe(case, groups.get(case.name, case.group), source.read_masks is None)
        if reference.lesions:
            batch.append((case, reference))
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _outlines(prepared: Prepared, boxes: bool) -> list[tuple[Mask, Polygon]]:
    """(mask, outline) of each visible lesion that is more than a line. boxes: known by its box only, which is no polyp's shape."""
    found = []
    for number, part in enumerate(visible_lesions(prepared)):
        if boxes:
            part = inscribed_polygon(bounding_box(part), part.shape, numpy_rng("box outline", prepared.case.name, number))
        corners = region_polygon(part)
        if len(corners) >= 3 and (part & prepared.field).any():
            found.append((part, corners))
    return found


def describe(case: Case, group: str, boxes: bool = False) -> Reference:
    """What the database remembers of a case: outlines, attributes and the lumen, all in frame pixels. boxes: see `_outlines`."""
    prepared = prepare(case)
    lesions = _outlines(prepared, boxes)
    measured = [asdict(attributes.measure(case.image, m, loosened(m, MARGIN) & prepared.field, prepared.field)) for m, _ in lesions]
    rounded = tuple({k: round(v, 4) for k, v in values.items()} for values in measured)
    outlines = tuple(corners for _, corners in lesions)
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
