"""`polypforge expand`: from a small labelled data set to a larger, checked one with a report."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from polypforge.core.console import console
from polypforge.core.errors import UserError
from polypforge.core.files import write_json, write_jsonl
from polypforge.core.types import Case, Request
from polypforge.data.folder import METADATA, write_case
from polypforge.generation.runner import generate
from polypforge.generation.writer import CaseStore, removed_ids, write_requests
from polypforge.models.locate import public_name, set_offline, weights_hash
from polypforge.models.memory import Room
from polypforge.proposals.wishes import quotas
from polypforge.quality.gates import Verdict
from polypforge.quality.gates.settings import read_gates
from polypforge.recipes import Recipe, recipe_class
from polypforge.workflows.cost import peak_memory_gb, seconds_per_case
from polypforge.workflows.device import device_of, refuse_batch_size
from polypforge.workflows.each import each
from polypforge.workflows.export_cases import copy_real
from polypforge.workflows.finetune import as_tuned, finetune, refuse_untunable
from polypforge.workflows.gating import Gating, gates_for
from polypforge.workflows.generator import generator_source, opened_recipe, refuse_steps, train_here
from polypforge.workflows.onlooker import Onlooker
from polypforge.workflows.opened import (
    Opened,
    files_of,
    fingerprint_of,
    keep_report,
    open_checked,
    refuse_several_classes,
    refuse_without_lesions,
)
from polypforge.workflows.plan import AnyPlanner, check_wish, make_planner
from polypforge.workflows.report_expand import write_report
from polypforge.workflows.run_folder import FILES, claim, refuse_nesting, resumes, versions
from polypforge.workflows.train import refuse_budget

SUMMARY = "summary.json"  # written last: where it is, the set is whole
MOST_TRIES = 6  # requests made per case asked for, before giving up
BYTES_A_CASE = 600_000  # with those that are rejected
ACCEPTED = 0.45  # of what is drawn, usually; before a run knows its own share


@dataclass
class ExpandResult:
    """Where the data set and its report are, and the counts that matter."""

    out: Path
    report: Path
    accepted: int
    made: int
    real: int
    reasons: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    peak_memory_gb: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"out": str(self.out), "report": str(self.report)}


def expand(
    data: str | Path,
    out: str | Path,
    num: int,
    *,
    recipe: str | None = None,
    model: str | None = None,
    steps: int | None = None,
    gates: str | Path = "starter",
    judges: Sequence[str] = (),
    thresholds: Mapping[str, float] | None = None,
    budget_seconds: float | None = None,
    want: str | None = None,
    seed: int = 0,
    layout: str = "auto",
    skip_bad: bool = False,
    synthetic_only: bool = False,
    batch_size: int = 16,
    device: str = "auto",
    offline: bool = False,
) -> ExpandResult:
    """Make `num` accepted synthetic cases from the data set at `data`, and write them with the real ones and a report to `out`.

    recipe, model: which generator; without a model, the starter weights of the recipe (default: forge), or, where none are shipped, a
    model that is trained on the data first, from the recipe's starter configuration. budget_seconds: how long to fine-tune a given
    model, or to train a new one. steps: of the sampler, in place of the recipe's own.
    gates: "starter" or a YAML file of gates; judges: models in place of those it names; thresholds: by gate.
    want: kinds of lesions to ask for, see `proposals.wishes.quotas`. The same call again resumes. Raises
    UserError for anything the caller can mend.
    """
    started = time.monotonic()
    data, out = Path(data), Path(out)
    if num < 1:
        raise UserError(f"--num is {num}: ask for at least one synthetic case.")
    refuse_batch_size(batch_size)
    set_offline(offline)
    asked = read_gates(gates, judges=tuple(judges)).with_thresholds(thresholds or {})
    source = generator_source(recipe, model, offline)
    refuse_budget(source.recipe, budget_seconds)
    gating = Gating(gates_for([source.recipe], asked), device, offline)
    check_wish(want, recipe_class(source.recipe))
    chosen_steps = {} if steps is None else {"steps": steps}
    settings = {
        "recipe": source.recipe,
        "data": str(data.resolve()),
        "num": num,
        "model": source.model,
        "weights": weights_hash(source.folder) if source.folder else "",
        "gates": gating.settings.to_json() | {"weights": gating.weights},
        "layout": layout,
        "budget_seconds": budget_seconds,
        "want": [[q.share, dict(q.cell)] for q in quotas(want, [])] if want and want.endswith(".csv") else want,
        "seed": seed,
        "skip_bad": skip_bad,
        "synthetic_only": synthetic_only,
        FILES: files_of(data, layout),
        **chosen_steps,
    }
    refuse_nesting(data, out)
    if source.folder:
        generator = opened_recipe(source.folder, steps, device_of(device))
        if budget_seconds:
            refuse_untunable(generator, source.folder, budget_seconds, seed, device)
    else:
        refuse_steps(source.recipe, steps)
    work = out / "work"
    cache = work / "check.json"
    opened = open_checked(data, layout, skip_bad, cache=cache if resumes(out, "expand", settings) else None)
    load = opened.loader()
    refuse_what_cannot_be_expanded(opened)
    refuse_without_lesions(opened)
    claim(out, "expand", settings)
    keep_report(opened, cache)
    calibration = gating.calibrate(opened, load, work / "gates")
    gating.warn_uncalibrated()
    folder, model = source.folder, source.model
    if folder is None:
        model = f"{source.recipe}, trained on the data"
        folder = train_here(source, data, work / "learned", budget_seconds, seed, layout, skip_bad, device, offline)
        budget_seconds = None
        generator = opened_recipe(folder, steps, device_of(device))
    planner = make_planner(opened, load, seed, generator, want=want)
    _state_cost(as_tuned(generator) if budget_seconds else generator, planner, load, num, opened, budget_seconds, not synthetic_only)
    if budget_seconds and any(p.requires_grad for p in generator.parameters()):
        folder = finetune(folder, opened, work / "finetune", budget_seconds, seed, device)
        generator = opened_recipe(folder, steps, device_of(device))
        model = f"{public_name(model)}, fine-tuned for {budget_seconds:g} s"

    store = CaseStore(work / f"generated-{weights_hash(folder)}")  # cases of other weights don't mix
    provenance: dict[str, Any] = {
        "recipe": generator.name, "model": public_name(model), "weights": weights_hash(folder), "judges": gating.told_weights,
        "data": fingerprint_of(opened.source), "versions": versions(), **chosen_steps,
    }  # fmt: skip
    gone = removed_ids(out)  # an audit of an earlier run found them to be copies
    finals, verdicts = _make(generator, gating, planner, load, store, provenance, num, Room(batch_size), work, gone)
    accepted = [r for r in finals if verdicts[r.id].kept and r.id not in gone][:num]
    rows = _write_accepted(out, store, accepted, verdicts, gating)
    real_rows = [] if synthetic_only else copy_real(opened.source, out)
    write_jsonl(out / METADATA, real_rows + rows)
    report = write_report(
        out,
        opened,
        load,
        store,
        finals,
        accepted,
        verdicts,
        [r.attributes for r in planner.references],
        calibration,
        settings | {"data": data.name, "model": public_name(model), "gates": gating.told()} | provenance["versions"],
    )
    reasons: dict[str, int] = {}
    for request in finals:
        if not verdicts[request.id].kept:
            reasons[verdicts[request.id].reason] = reasons.get(verdicts[request.id].reason, 0) + 1
    seconds = round(time.monotonic() - started, 1)
    result = ExpandResult(out, report, len(accepted), len(finals), len(real_rows), reasons, seconds, peak_memory_gb())
    write_json(out / SUMMARY, result.to_json())
    if len(accepted) < num:
        console.print(f"Only {len(accepted)} of {num} cases were reached after {len(finals)} tries: see {report}.")
    return result


def refuse_what_cannot_be_expanded(opened: Opened) -> None:
    """Labels that the generator could not keep complete."""
    refuse_several_classes(opened)
    boxes_only = [c.name for c in opened.source.cases if c.read_masks is None and c.boxes]
    if boxes_only:
        raise UserError(
            f"{len(boxes_only)} cases of {opened.source.path} have boxes but no masks ('{boxes_only[0]}' ...): boxes can train a recipe "
            "(polypforge train), but cases to expand need masks: draw them first (polypforge data masks)."
        )


def _state_cost(recipe: Recipe, planner: AnyPlanner, load, num: int, opened: Opened, budget: float | None, copies: bool) -> None:
    """copies: whether the real cases are copied, too."""
    each = seconds_per_case(recipe, planner, load)
    copied = sum(c.image_path.stat().st_size for c in opened.source.cases) if copies else 0
    size = num * BYTES_A_CASE + copied
    tuning = f" after {budget / 60:.0f} min of fine-tuning" if budget else ""
    minutes = max(1, round(num * each / ACCEPTED / 60))
    console.print(
        f"{len(opened.cases('train'))} frames to work from, {len(opened.lesions('train'))} of them with a lesion. {num} accepted cases "
        f"will take about {minutes} min{tuning} ({each:.1f} s a case and what gates take; {ACCEPTED:.0%} are accepted) and "
        f"{size / 1e9:.2f} GB. Ctrl-C stops; the same command resumes."
    )


def _make(
    recipe: Recipe,
    gating: Gating,
    planner: AnyPlanner,
    load,
    store: CaseStore,
    provenance: dict,
    num: int,
    room: Room,
    work: Path,
    gone: set[str],
) -> tuple[list[Request], dict[str, Verdict]]:
    """Rounds of plan, generate and gate until `num` cases are accepted, those in `gone` not counted, or MOST_TRIES * num were tried.

    Old lesions that are to be replaced elsewhere are removed, and the frames judged, before anything is drawn on them. Returns the last
    request that was made for each case, its lesion or a removal that failed, and the verdicts.
    """
    made: list[Request] = []
    finals: list[Request] = []
    log = gating.log(store.folder)  # beside the cases that were judged
    verdicts: dict[str, Verdict] = {}
    tried, most = 0, MOST_TRIES * num if recipe.capacity is None else min(recipe.capacity, MOST_TRIES * num)
    columns = (
        TextColumn("making cases"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("accepted {task.fields[kept]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("make", total=num, kept=0)

        def draw(requests: list[Request]) -> None:
            made.extend(requests)
            write_requests(work / "requests.jsonl", made)
            bar.update(task, total=len(made))
            bar.advance(task, len({r.id for r in requests} & store.done()))
            with Onlooker(gating, log) as onlooker:

                def made_batch(part: Sequence[Request], cases: Sequence[Case]) -> None:
                    bar.advance(task, len(part))
                    onlooker.show(part, cases)

                generate(recipe, requests, load, store, provenance, room, made_batch)

        while True:
            kept = sum(verdicts[r.id].kept for r in finals if r.id not in gone)
            bar.update(task, kept=kept)
            if kept >= num or tried >= most:
                return finals, verdicts
            rate = max(0.3, kept / tried) if tried else 0.8
            count = min(max(4, math.ceil((num - kept) / rate)), most - tried)
            plans = [planner.requests(i) for i in range(tried, tried + count)]
            tried += count
            removals = [r for *first, _ in plans for r in first]
            draw(removals)
            cleared = gating.judge(removals, store, log)
            last = [plan[-1] if all(cleared[r.id].kept for r in plan[:-1]) else plan[-2] for plan in plans]
            draw([r for r in last if r.id not in cleared])
            finals += last
            verdicts = gating.judge(made, store, log)


def _write_accepted(
    out: Path, store: CaseStore, accepted: list[Request], verdicts: dict[str, Verdict], gating: Gating
) -> list[dict[str, Any]]:
    def write(request: Request) -> dict[str, Any]:
        case = store.load(request.id)
        case.name = f"synthetic-{request.id}"
        case.split = "train"
        case.provenance["gates"] = verdicts[request.id].to_json()["scores"]
        case.provenance["thresholds"] = {name: round(value, 4) for name, value in gating.keeper.thresholds.items()}
        return write_case(out, case)

    return each("writing cases", write, accepted)
