"""`polypforge generate`: requests to cases."""

from __future__ import annotations

import math
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from polypforge.core.console import console
from polypforge.core.errors import UserError
from polypforge.core.files import read_json, read_jsonl
from polypforge.core.seeding import content_hash
from polypforge.core.types import Request
from polypforge.generation.runner import LoadBackground, generate, refuse_unfit
from polypforge.generation.shards import shards_of
from polypforge.generation.writer import JUDGED, VERDICTS, CaseStore, read_requests, write_requests
from polypforge.models.locate import locate, public_name, set_offline, weights_hash
from polypforge.models.memory import Room
from polypforge.recipes import Job, Recipe
from polypforge.recipes.windows import View
from polypforge.workflows.cluster import on_cluster, places, refuse_engine, wait_until_seen
from polypforge.workflows.cost import peak_memory_gb
from polypforge.workflows.device import device_here, device_of, refuse_batch_size
from polypforge.workflows.each import shown
from polypforge.workflows.generator import opened_recipe
from polypforge.workflows.opened import Opened, files_of, fingerprint_of, keep_report, open_checked, refuse_several_classes
from polypforge.workflows.plan import make_planner
from polypforge.workflows.run_folder import FILES, claim, refuse_nesting, resumes, versions

SHARD_BATCHES = 2  # batches in a shard at most: short, so that workers end together


def generate_cases(
    data: Path,
    out: Path,
    *,
    model: str = "starter:forge",
    steps: int | None = None,
    requests_file: Path | None = None,
    num: int | None = None,
    shard: str = "1/1",
    batch_size: int = 16,
    engine: str = "local",
    workers: int | None = None,
    layout: str = "auto",
    skip_bad: bool = False,
    seed: int = 0,
    device: str = "auto",
    offline: bool = False,
) -> dict[str, Any]:
    """Make the requests of a file, or `num` planned ones, into `out`; returns how many were made and how many are there.

    steps: of the sampler, in place of the recipe's own.
    engine: "local", or "ray" for `workers` processes on a cluster (default: one for each GPU, or for each core). The cases are the same.
    """
    refuse_engine(engine, workers)
    if (requests_file is None) == (num is None):
        raise UserError("say what to make: either --requests FILE.jsonl or --num N.")
    if num is not None and num < 1:
        raise UserError(f"--num is {num}: ask for at least one case.")
    refuse_batch_size(batch_size)
    here = device_here(device, engine)
    set_offline(offline)
    part, parts = parse_shard(shard)
    folder = locate(model, offline)
    requests = read_requests(requests_file) if requests_file else []
    if requests_file and not requests:
        raise UserError(f"{requests_file} holds no request.")
    chosen_steps = {} if steps is None else {"steps": steps}
    settings = {
        "data": str(data.resolve()), "model": model, "weights": weights_hash(folder), "seed": seed, "num": num, "shard": shard,
        "requests": str(requests_file.resolve()) if requests_file else None, "asked": content_hash([r.id for r in requests]),
        "layout": layout, "skip_bad": skip_bad,
        FILES: files_of(data, layout), **chosen_steps,
    }  # fmt: skip
    refuse_nesting(data, out)
    recipe = opened_recipe(folder, steps, here if engine == "local" else "cpu", draws=engine == "local")
    cache = out / "check.json"
    going_on = resumes(out, "generate", settings)
    opened = open_checked(data, layout, skip_bad, cache=cache if going_on else None, min_cases=1)
    refuse_several_classes(opened)
    load = opened.loader()
    asked_for = out / "requests.jsonl"
    if going_on and asked_for.is_file():  # a plan takes long to find
        requests = read_requests(asked_for)
    else:
        if requests:
            _refuse_undrawable(requests, recipe, opened, load, str(requests_file))
        else:
            planner = make_planner(opened, load, seed, recipe)
            requests = [r for i in shown("planning", range(num or 0)) for r in planner.requests(i)]
        requests = take_shard(requests, part, parts)
    refuse_unfit(recipe, requests)
    claim(out, "generate", settings)
    keep_report(opened, cache)
    write_requests(asked_for, requests)
    store = CaseStore(out)
    provenance = {
        "recipe": recipe.name,
        "model": public_name(model),
        "weights": settings["weights"],
        "data": fingerprint_of(opened.source),
        "versions": versions(),
        **chosen_steps,
    }
    held: dict[str, float] = {}
    columns = (TextColumn("generating"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("generate", total=len(requests), completed=len(store.done() & {r.id for r in requests}))
        if engine == "local":
            made = generate(recipe, requests, load, store, provenance, Room(batch_size), lambda part, _: bar.advance(task, len(part)))
        else:
            done = store.done()
            left = [r for r in requests if r.id not in done]
            # As many shards as workers at least, or some would have nothing to do.
            share = math.ceil(len(left) / (workers or max(1, places(device)))) if left else 1
            shards = shards_of(left, min(SHARD_BATCHES * batch_size, share))
            maker = (folder.resolve(), settings, opened, out.resolve(), provenance, batch_size)
            made, least = 0, batch_size
            for answer in on_cluster(CaseMaker, maker, shards, workers, device):
                bar.advance(task, answer.made)
                made += answer.made
                held |= {f"a worker, {k}": max(v, held.get(f"a worker, {k}", 0.0)) for k, v in answer.memory_gb.items()}
                if answer.at_once < least:
                    least = answer.at_once
                    console.print(f"Out of memory with {batch_size} images at once on a worker: it goes on with {least}.")
            wait_until_seen(lambda: len({r.id for r in requests} - store.done()), "cases", out)
    cases = _listed(store, requests)
    return {"made": made, "cases": cases, "out": str(out), "peak_memory_gb": peak_memory_gb() | held}


def _refuse_undrawable(requests: Sequence[Request], recipe: Recipe, opened: Opened, load: LoadBackground, file: str) -> None:
    """Raises UserError, naming the request's place in `file`, for what the recipe would stumble over in the middle of the work."""
    splits = {c.name: c.split for c in opened.source.cases}
    ids = {r.id for r in requests}
    where = {r.id: f"{file}, request {n} ({r.id})" for n, r in enumerate(requests, 1)}
    for request in requests:
        asked = f"{where[request.id]}: its background '{request.background}'"
        if request.background and request.background not in splits:
            raise UserError(f"{asked} is not in {opened.source.path}.")
        if splits.get(request.background) == "test":
            raise UserError(f"{asked} is held out: what learns from it can't be tested on that frame. Leave the request out.")
        if request.parent and request.parent not in ids:
            raise UserError(f"{where[request.id]}: its parent {request.parent} is not among the requests.")
    if "background" not in recipe.needs:
        return
    for request in shown("looking at regions", sorted(requests, key=lambda r: r.background)):  # each frame is read once
        try:
            View.of(Job(request, load(request.background) if request.background else None), 1.0, 1.0)
        except UserError as error:
            raise UserError(f"{where[request.id]}: {error}") from None


def _listed(store: CaseStore, requests: Sequence[Request]) -> int:
    """Write the list of cases. Where a gate has judged some, those that it kept, and the others wait for it."""
    if not (store.folder / VERDICTS).exists():
        return store.finish(requests)
    rows = {row["id"]: row for row in read_jsonl(store.folder / VERDICTS)}
    waiting = len({r.id for r in requests} - rows.keys())
    if waiting:
        console.print(f"{waiting} cases are not judged yet and not listed: run `polypforge gate {store.folder}` again.")
    kept = [r for r in requests if r.id in rows and rows[r.id]["kept"]]
    return store.finish_judged(kept, read_json(store.folder / JUDGED), rows.values())


class Made(NamedTuple):
    """How many cases a worker made of a shard, how many at once, and the most memory that it has held."""

    made: int
    at_once: int
    memory_gb: dict[str, float]


class CaseMaker:
    """A worker of a cluster: it keeps a recipe loaded and writes the cases of one shard after another into the common folder."""

    def __init__(
        self, folder: Path, settings: dict[str, Any], opened: Opened, out: Path, provenance: dict[str, Any], batch_size: int, device: str
    ) -> None:
        where = f"the worker on {platform.node()}"
        if not resumes(out, "generate", settings):
            raise UserError(f"{where} doesn't see {out}: put the output on storage that all machines share.")
        if not folder.is_dir() or weights_hash(folder) != settings["weights"]:
            raise UserError(f"{where} finds other weights or none in {folder}: put them there, or on storage that all machines share.")
        self.recipe = opened_recipe(folder, settings.get("steps"), device_of(device))
        self.load, self.store = opened.loader(), CaseStore(out, shared=True)
        self.provenance, self.room = provenance, Room(batch_size)

    def run(self, shard: list[Request]) -> Made:
        """Those that an earlier worker finished before it died are left as they are."""
        made = generate(self.recipe, shard, self.load, self.store, self.provenance, self.room)
        return Made(made, self.room.most, peak_memory_gb())


def parse_shard(text: str) -> tuple[int, int]:
    """(k, n) of "k/n" with 1 <= k <= n."""
    first, _, second = text.partition("/")
    if not (first.isdigit() and second.isdigit() and 1 <= int(first) <= int(second)):
        raise UserError(f"--shard {text}: write it as K/N with 1 <= K <= N, for example 2/8.")
    return int(first), int(second)


def take_shard(requests: list[Request], part: int, parts: int) -> list[Request]:
    """Every `parts`-th request that is nobody's parent, with the parents it needs."""
    by_id = {r.id: r for r in requests}
    parents = {r.parent for r in requests}
    mine = [r for r in requests if r.id not in parents][part - 1 :: parts]
    needed: dict[str, Request] = {}
    for request in mine:
        chain = [request]
        while chain[-1].parent in by_id:
            chain.append(by_id[chain[-1].parent])
        needed |= {r.id: r for r in reversed(chain)}
    return list(needed.values())
