"""The experiment from data and plan to results."""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from polypforge.core.config import from_dict
from polypforge.core.console import console
from polypforge.core.errors import UserError
from polypforge.core.files import content_of, read_json
from polypforge.core.seeding import content_hash
from polypforge.data.source import SourceCase, state_of
from polypforge.evaluation.plan import CHOOSING, Cell, Plan, read_plan
from polypforge.evaluation.tasks import task_of
from polypforge.models.locate import is_local, locate, set_offline, weights_hash
from polypforge.quality.gates.settings import read_gates
from polypforge.recipes import recipe_class
from polypforge.workflows.device import device_of
from polypforge.workflows.downstream.cases import Draw, draw_cases, open_tests
from polypforge.workflows.downstream.cell import Job, quiet_worker, run, settings
from polypforge.workflows.downstream.results import Results, write_results
from polypforge.workflows.downstream.supply import Made, identity, make, refuse_foreign
from polypforge.workflows.expand import refuse_what_cannot_be_expanded
from polypforge.workflows.opened import files_of, fingerprint_of, keep_report, open_checked
from polypforge.workflows.run_folder import FILES, claim, refuse_nesting, resumes

NOTHING = Made((), (), ())


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
    states: dict[int, tuple[tuple[SourceCase, ...], str]] = field(default_factory=dict)

    def result(self, cell: Cell) -> Path:
        """Known by the plan's words for the cell and by the content of all cases that take part."""
        draw = self.draws[cell.draw]
        parts = (draw.learned[cell.size], draw.validation, self.supply(cell).cases, *self.tests.values())
        known = [self.plan.cell_id(cell), [self._state(part) for part in parts], *self._weights(cell)]
        return self.out / "cells" / f"{content_hash(known)}.json"

    def _weights(self, cell: Cell) -> list[str]:
        """The content of files that the network sets out from."""
        weights = str(self.plan.network_of(cell.network, cell.arm).get("weights") or "")
        if is_local(weights):
            return [weights_hash(locate(weights))]
        return [content_of(Path(weights))] if Path(weights).is_file() else []

    def _state(self, cases: tuple[SourceCase, ...]) -> str:
        if id(cases) not in self.states:
            self.states[id(cases)] = (cases, state_of(cases))
        return self.states[id(cases)][1]

    def supply(self, cell: Cell) -> Made:
        """The synthetic cases of a cell, made when they are first asked for."""
        arm = self.plan.arms[cell.arm]
        if not arm.synthetic:
            return NOTHING
        key = arm.synthetic, cell.size, cell.draw
        if key not in self.made:
            draw, supply = self.draws[cell.draw], self.plan.supplies[arm.synthetic]
            folder = self.out / "data" / f"draw-{cell.draw}" / f"cases-{cell.size or 'all'}-{self._state(draw.learned[cell.size])[:8]}"
            self.made[key] = make(supply, draw, cell.size, folder, f"{arm.synthetic}-{identity(supply)}", self.device, self.offline)
        return self.made[key]

    def job(self, cell: Cell, device: str) -> Job:
        plan, draw, made = self.plan, self.draws[cell.draw], self.supply(cell)
        arm, labelled = plan.arms[cell.arm], draw.labelled[cell.size]
        return Job(
            cell, self.result(cell), plan.task, plan.network_of(cell.network, cell.arm), plan.training_of(cell.arm), arm.augment,
            plan.mix(cell), draw.real(cell.size, arm.real), made.cases, made.parents, draw.validation, self.tests, device, labelled,
            round(arm.real * labelled), plan.normal_share,
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
    _refuse_unfit(plan)
    for supply in plan.supplies.values():
        recipe_class(supply.recipe)
        if supply.folder and not Path(supply.folder).is_dir():
            raise UserError(f"{supply.folder} is no folder: a supply made elsewhere needs one.")
        if not supply.folder:
            read_gates(supply.gates)
    for folder in (train, *map(Path, tests), *(Path(s.folder) for s in plan.supplies.values() if s.folder)):
        refuse_nesting(folder, out)
    if workers is not None and workers < 1:
        raise UserError(f"--workers is {workers}: ask for at least one.")
    fresh = not out.exists() or not any(out.iterdir())
    described = {"train": str(train.resolve()), "tests": [str(Path(t).resolve()) for t in tests], FILES: files_of(train, layout)}
    cache = out / "checks" / "train.json"
    opened = open_checked(train, layout, skip_bad, cache=cache if resumes(out, "downstream", described) else None)
    if any(not supply.folder for supply in plan.supplies.values()):
        refuse_what_cannot_be_expanded(opened)
    draws = draw_cases(opened, plan)
    claim(out, "downstream", described)
    keep_report(opened, cache)
    seen = {c.name: c for draw in draws for cases in (*draw.learned.values(), draw.validation) for c in cases}
    try:
        masks = plan.task == "segmentation"
        found = open_tests(opened, [Path(t) for t in tests], list(seen.values()), out / "checks", skip_bad, masks)
        refuse_foreign(plan, found, draws, out / "checks", fingerprint_of(opened.source))
    except UserError:
        if fresh:  # mended data must find the folder free
            shutil.rmtree(out)
        raise
    experiment = Experiment(plan, draws, found, out, device, offline)
    cells = plan.first_cells()
    console.print(f"{plan.title}: {len(cells)} trainings, and {plan.count_later()} with amounts that those choose.")
    _run_cells(experiment, cells, workers)
    chosen = _choose(experiment, cells)
    later = plan.later_cells(chosen)
    _run_cells(experiment, later, workers)
    counting = {c: experiment.result(c) for c in cells + later if c.seed != CHOOSING}
    shared = {n: float(np.mean([d.labelled[n] / d.pool for d in draws])) for n in plan.sizes}
    results = Results(plan, counting, chosen, out, shared)
    return write_results(results)


def _refuse_unfit(plan: Plan) -> None:
    """Settings and networks that can't be: every network is built and looks at one frame, before anything is made for it."""
    task, seen = task_of(plan.task), set()
    for arm in plan.arms:
        settings(plan.training_of(arm), 1, 0)
        for name in plan.networks:
            config = from_dict(task.Network.config_class, plan.network_of(name, arm), f"networks: {name}")
            if config in seen:
                continue
            seen.add(config)
            network = task.Network(config)
            try:
                network.predict([np.zeros((64, 64, 3), np.uint8)])
            except (RuntimeError, ValueError) as error:
                reason = str(error).splitlines()[0]
                raise UserError(f"networks: {name} can't look at a frame ({reason}): another architecture, depth or size_px.") from error


def _run_cells(experiment: Experiment, cells: Sequence[Cell], workers: int | None) -> None:
    """All that aren't done, several at a time."""
    todo = [c for c in cells if not experiment.result(c).exists()]
    if not todo:
        return
    gpus = torch.cuda.device_count() if experiment.device == "cuda" else int(experiment.device.startswith("cuda"))
    count = max(1, min(workers or gpus or joblib.cpu_count(), len(todo)))
    threads = max(1, joblib.cpu_count() // count)
    devices = [f"cuda:{k}" for k in range(gpus)] if experiment.device == "cuda" and gpus else [experiment.device]
    console.print(f"{len(todo)} trainings, {count} at a time. Ctrl-C stops; the same command resumes.")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(count, context, initializer=quiet_worker, initargs=(threads, experiment.offline)) as pool,
        Progress(*columns, console=console, transient=True) as bar,
    ):
        shown = bar.add_task("training", total=len(todo))
        coming = iter(todo)
        running: dict[Future, Job] = {}

        def start(cells: Iterable[Cell], device: str) -> None:
            running.update({pool.submit(run, job): job for job in (experiment.job(c, device) for c in cells)})

        for k in range(count):  # no more: what is submitted can't be called back
            start(islice(coming, 1), devices[k % len(devices)])
        try:
            while running:
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
                    ended = running.pop(future)
                    bar.update(shown, advance=1, description=ended.cell.label)
                    start(islice(coming, 1), ended.device)
        except BrokenProcessPool:
            raise UserError(f"a training was killed, perhaps for want of memory: try --workers {max(1, count // 2)}.") from None


def _choose(experiment: Experiment, cells: Sequence[Cell]) -> dict[tuple[str, int, str], float]:
    """Of every arm that chooses: the amount that was best on validation cases."""
    best: dict[tuple[str, int, str], tuple[float, float]] = {}
    for cell in cells:
        if experiment.plan.arms[cell.arm].choose and cell.amount is not None:
            key, value = (cell.network, cell.size, cell.arm), read_json(experiment.result(cell))["validation"]
            if key not in best or value > best[key][0]:
                best[key] = (value, cell.amount)
    return {key: amount for key, (_, amount) in best.items()}
