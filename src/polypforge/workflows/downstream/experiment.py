"""The experiment from data and plan to results."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from polypforge.core.console import console
from polypforge.core.errors import UserError
from polypforge.core.files import read_json
from polypforge.evaluation.plan import Cell, Plan, read_plan
from polypforge.models.locate import set_offline
from polypforge.workflows.device import device_of
from polypforge.workflows.downstream.cases import Draw, draw_cases, open_tests
from polypforge.workflows.downstream.cell import Job, quiet_worker, run, settings
from polypforge.workflows.downstream.results import Results, write_results
from polypforge.workflows.downstream.supply import Made, make, refuse_foreign
from polypforge.workflows.opened import keep_report, open_checked
from polypforge.workflows.run_folder import claim, refuse_nesting, resumes, versions

NOTHING = Made((), ())


@dataclass
class Experiment:
    """A plan with the real cases that it runs on."""

    plan: Plan
    draws: list[Draw]
    tests: Mapping[str, tuple]
    out: Path
    device: str
    offline: bool
    made: dict[tuple[str, int, int], Made] = field(default_factory=dict)

    def result(self, cell: Cell) -> Path:
        return self.out / "cells" / f"{self.plan.cell_id(cell)}.json"

    def supply(self, cell: Cell) -> Made:
        """The synthetic cases of a cell, made when they are first asked for."""
        arm = self.plan.arms[cell.arm]
        if not arm.synthetic:
            return NOTHING
        key = arm.synthetic, cell.size, cell.draw
        if key not in self.made:
            folder = self.out / "data" / f"draw-{cell.draw}" / f"cases-{cell.size or 'all'}"
            name, supply = self.plan.supply_id(arm.synthetic), self.plan.supplies[arm.synthetic]
            self.made[key] = make(supply, self.draws[cell.draw], cell.size, folder, name, self.device, self.offline)
        return self.made[key]

    def job(self, cell: Cell, device: str) -> Job:
        plan, draw, made = self.plan, self.draws[cell.draw], self.supply(cell)
        arm, learned = plan.arms[cell.arm], draw.learned[cell.size]
        real = learned[: round(arm.real * len(learned))]
        return Job(
            cell, self.result(cell), plan.task, plan.networks[cell.network] or {}, plan.training, arm.augment, plan.mix(cell), real,
            made.cases, made.parents, draw.validation, self.tests, device,
        )  # fmt: skip


def downstream(
    plan: str | Path | Plan,
    train: str | Path,
    out: str | Path,
    *,
    tests: Sequence[str | Path] = (),
    assignments: Sequence[str] = (),
    layout: str = "auto",
    workers: int | None = None,
    skip_bad: bool = False,
    device: str = "auto",
    offline: bool = False,
) -> dict[str, Any]:
    """Run a plan (a name, a YAML file, or one that is built) and return its results, which also lie in `out`. The same call resumes.

    train: labelled real cases; its own test split is tested on. tests: more folders to test on. workers: trainings at a time;
    by default one for each GPU, or for each core. Raises UserError, also for every leak.
    """
    train, out = Path(train), Path(out)
    set_offline(offline)
    device = device_of(device)
    plan = plan if isinstance(plan, Plan) else read_plan(plan, tuple(assignments))
    settings(plan.training, 1, 0)
    for supply in plan.supplies.values():
        if supply.folder and not Path(supply.folder).is_dir():
            raise UserError(f"{supply.folder} is no folder: a supply made elsewhere needs one.")
    refuse_nesting(train, out)
    described = {"train": str(train.resolve()), "tests": [str(Path(t).resolve()) for t in tests]}
    cache = out / "checks" / "train.json"
    opened = open_checked(train, layout, skip_bad, cache=cache if resumes(out, "downstream", described) else None)
    draws = draw_cases(opened, plan)
    claim(out, "downstream", described | {"files": opened.state})
    keep_report(opened, cache)
    seen = {c.name: c for draw in draws for cases in (*draw.learned.values(), draw.validation) for c in cases}
    experiment = Experiment(
        plan, draws, open_tests(opened, [Path(t) for t in tests], list(seen.values()), out / "checks", skip_bad), out, device, offline
    )
    refuse_foreign(plan, experiment.tests, draws, out / "checks")
    cells = plan.first_cells()
    console.print(f"{plan.title}: {len(cells)} trainings, and {plan.count_later()} with amounts that those choose.")
    _run_cells(experiment, cells, workers)
    chosen = _choose(experiment, cells)
    later = plan.later_cells(chosen)
    _run_cells(experiment, later, workers)
    counting = {c: experiment.result(c) for c in cells + later if _counts(plan, c, chosen)}
    results = Results(plan, counting, chosen, out, versions())
    return write_results(results)


def _run_cells(experiment: Experiment, cells: Sequence[Cell], workers: int | None) -> None:
    """All that aren't done, several at a time."""
    todo = [c for c in cells if not experiment.result(c).exists()]
    if not todo:
        return
    for cell in todo:
        experiment.supply(cell)
    gpus = torch.cuda.device_count() if experiment.device.startswith("cuda") else 0
    count = max(1, min(workers or gpus or os.cpu_count() or 1, len(todo)))
    threads = max(1, (os.cpu_count() or 1) // count)
    devices = [f"cuda:{k % gpus}" if gpus else experiment.device for k in range(len(todo))]
    console.print(f"{len(todo)} trainings, {count} at a time. Ctrl-C stops; the same command resumes.")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(count, context, initializer=quiet_worker, initargs=(threads,)) as pool,
        Progress(*columns, console=console, transient=True) as bar,
    ):
        shown = bar.add_task("training", total=len(todo))
        waiting = {pool.submit(run, experiment.job(c, d)): c for c, d in zip(todo, devices, strict=True)}
        try:
            for done in as_completed(waiting):
                done.result()
                bar.update(shown, advance=1, description=waiting[done].label)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _choose(experiment: Experiment, cells: Sequence[Cell]) -> dict[tuple[str, int, int, str], float]:
    """Of every arm that chooses: the amount whose first seed was best on validation cases."""
    best: dict[tuple[str, int, int, str], tuple[float, float]] = {}
    for cell in cells:
        if experiment.plan.arms[cell.arm].choose and cell.amount is not None:
            key, value = (cell.network, cell.size, cell.draw, cell.arm), read_json(experiment.result(cell))["validation"]
            if key not in best or value > best[key][0]:
                best[key] = (value, cell.amount)
    return {key: amount for key, (_, amount) in best.items()}


def _counts(plan: Plan, cell: Cell, chosen: Mapping[tuple[str, int, int, str], float]) -> bool:
    """Amounts that validation did not choose are no results."""
    return not plan.arms[cell.arm].choose or chosen[cell.network, cell.size, cell.draw, cell.arm] == cell.amount
