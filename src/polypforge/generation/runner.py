"""Turns requests into stored cases: batches across images, writes in the background, resumes after any interruption."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from polypforge.core.errors import UserError
from polypforge.core.types import NORMAL, Case, Request
from polypforge.data.prepared import prepare
from polypforge.generation.writer import CaseStore
from polypforge.models.memory import Room
from polypforge.recipes.base import Job, Recipe

LoadBackground = Callable[[str], Case]
OF_RECIPES = ("donor",)  # what recipes themselves say of a case: the real case whose lesion was put into it


def generate(
    recipe: Recipe,
    requests: Sequence[Request],
    load: LoadBackground,
    store: CaseStore,
    provenance: dict[str, Any],
    room: Room,
    made_batch: Callable[[Sequence[Request], Sequence[Case]], None] | None = None,
) -> int:
    """Make every request whose case is not in `store` yet; returns how many were made.

    A request with a parent runs after it, on its result. room: how many at once.
    `made_batch` is called with each batch and its cases, which may not be on disk yet.
    `provenance` (recipe, weights, version ...) is stored with each case. Raises UserError when a parent is missing from `requests` and
    from the store, or a background can't be loaded.
    """
    refuse_unfit(recipe, requests)
    done = {name for r in requests for name in (r.id, r.parent) if name and store.is_done(name)}  # not all of a store that many share
    parents = {r.parent for r in requests if r.parent}
    made = 0
    with ThreadPoolExecutor(2) as writers:
        for wave in waves(requests, done):
            pending: list[Future] = []
            for jobs in _batches(sorted(wave, key=lambda r: r.background), room, load, store, ahead=_on_gpu(recipe)):
                part = [job.request for job in jobs]
                cases = room.run(recipe.generate, jobs)
                for request, case in zip(part, cases, strict=True):
                    case.provenance = provenance_of(request, provenance) | {k: v for k, v in case.provenance.items() if k in OF_RECIPES}
                    pending.append(writers.submit(store.write, case, request, request.id in parents))
                made += len(part)
                if made_batch:
                    made_batch(part, cases)
                while len(pending) > 4 * room.most:  # bounded memory when the disk is slower than the network
                    pending.pop(0).result()
            for future in pending:
                future.result()
    return made


def _batches(requests: Sequence[Request], room: Room, load: LoadBackground, store: CaseStore, ahead: bool) -> Iterator[list[Job]]:
    """As many as `room` has at the time. `requests` come sorted by frame, so that each is read once, however many are asked for. ahead:
    read those of the next batch meanwhile; on a CPU the network would wait for that thread."""

    def read(start: int) -> list[Job]:
        jobs = [Job(r, _frame(r, load, store)) for r in requests[start : start + room.most]]
        for job in jobs:
            if job.case is not None and job.request.region:
                prepare(job.case)  # kept with the case
        return jobs

    start = 0
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(read, 0) if ahead else None
        while start < len(requests):
            jobs = coming.result() if coming else read(start)
            start += len(jobs)
            coming = reader.submit(read, start) if ahead else None
            yield jobs


def _on_gpu(recipe: Recipe) -> bool:
    first = next(recipe.parameters(), None)
    return first is not None and first.device.type == "cuda"


def refuse_unfit(recipe: Recipe, requests: Sequence[Request]) -> None:
    """Raises UserError for a request that the recipe can't answer."""
    for request in requests:
        if request.label == NORMAL and not recipe.removes:
            raise UserError(f"request {request.id} asks for normal tissue, which {recipe.name} can't draw: leave it out.")
        if request.region and "background" not in recipe.needs:
            raise UserError(
                f"request {request.id} asks for an edit of a region, but {recipe.name} draws whole frames: leave the region out."
            )


def _frame(request: Request, load: LoadBackground, store: CaseStore) -> Case | None:
    if request.parent:
        return store.load(request.parent)
    return load(request.background) if request.background else None


def waves(requests: Sequence[Request], done: set[str]) -> Iterator[list[Request]]:
    """Requests that are left, in groups that can run at once: parents always in an earlier group (or done)."""
    left = [r for r in requests if r.id not in done]
    ready = set(done)
    while left:
        wave = [r for r in left if not r.parent or r.parent in ready]
        if not wave:
            raise UserError(f"request {left[0].id} waits for its parent {left[0].parent}, which is not among the requests.")
        yield wave
        ready |= {r.id for r in wave}
        left = [r for r in left if r.id not in ready]


def provenance_of(request: Request, common: dict[str, Any]) -> dict[str, Any]:
    return {"synthetic": True, "id": request.id, "request": request.to_json(), **common}
