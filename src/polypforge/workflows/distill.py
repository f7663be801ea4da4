"""`polypforge distill`: few steps for given weights of `forge`, fitted to what they draw in many."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from polypforge.core.config import from_dict
from polypforge.core.console import console
from polypforge.core.errors import UserError
from polypforge.core.files import read_json_object, whole_folder, write_json
from polypforge.diffusion.solver import Fitted
from polypforge.models.locate import locate, set_offline, weights_hash
from polypforge.proposals.plan import PlanConfig
from polypforge.recipes import Job, load_recipe
from polypforge.recipes.forge.distill import distilled, passes
from polypforge.recipes.forge.recipe import Forge
from polypforge.workflows.device import device_of
from polypforge.workflows.opened import Opened, files_of, open_checked, refuse_without_lesions
from polypforge.workflows.plan import make_planner
from polypforge.workflows.run_folder import FILES, claim, refuse_nesting, resumes

STEPS = (2, 3, 4)
MOST_REQUESTS = 256
MOST_STEPS = 8  # the numbers to fit grow with the square of the steps, and what they gain shrinks


def distill(
    data: Path,
    out: Path,
    *,
    model: str = "starter:forge",
    steps: Sequence[int] = STEPS,
    num: int = 32,
    layout: str = "auto",
    skip_bad: bool = False,
    seed: int = 0,
    device: str = "auto",
    offline: bool = False,
) -> dict[str, Any]:
    """Fit a solver for each number of `steps` to `num` requests on training frames of `data`; `out`/model holds the weights with them.

    The weights do not change, nor what they draw in other numbers of steps. A solver is kept as soon as it is found: the same call again
    goes on behind it, and may ask for more. Raises UserError for weights of another recipe and for impossible numbers.
    """
    asked = sorted(set(steps))
    if not asked or not 2 <= asked[0] <= asked[-1] <= MOST_STEPS:
        raise UserError(f"--steps: give 2 to {MOST_STEPS}; with more the plain sampler does as well; one is learned (docs/forge.md).")
    if not 1 <= num <= MOST_REQUESTS:
        raise UserError(f"--num {num}: give 1 to {MOST_REQUESTS}; a few dozen say all that so few numbers can learn.")
    set_offline(offline)
    folder = locate(model, offline)
    recipe = load_recipe(folder)
    if not isinstance(recipe, Forge):
        raise UserError(f"{model} holds weights of {recipe.name}: only those of forge can be distilled.")
    refuse_nesting(data, out)
    refuse_nesting(folder, out)
    settings = {
        "data": str(data.resolve()), "model": model, "weights": weights_hash(folder), "num": num, "seed": seed, "layout": layout,
        "skip_bad": skip_bad, FILES: files_of(data, layout),
    }  # fmt: skip
    resumes(out, "distill", settings)
    opened = open_checked(data, layout, skip_bad, min_cases=1)
    refuse_without_lesions(opened)
    claim(out, "distill", settings)
    missing = [count for count in asked if not _kept(out, count).exists()]
    started = time.monotonic()
    if missing:
        _fit(recipe.float().to(device_of(device)), opened, out, missing, num, seed)
    found = [from_dict(Fitted, read_json_object(path), str(path)) for path in sorted(out.glob("solver-*.json"))]
    solvers = {s.steps: s for s in (*recipe.config.few_steps, *(f.solver for f in found))}
    recipe.config = replace(recipe.config, few_steps=tuple(solvers[count] for count in sorted(solvers)))
    with whole_folder(out / "model") as target:
        shutil.copytree(folder, target, dirs_exist_ok=True)  # the weights as they are, in their format
        recipe.save_config(target)
    distances = [{"steps": f.solver.steps, "distance": round(f.distance, 4), "plain": round(f.plain_distance, 4)} for f in found]
    return {"model": str(out / "model"), "fitted": distances, "seconds": round(time.monotonic() - started, 1)}


def _kept(out: Path, steps: int) -> Path:
    return out / f"solver-{steps}.json"


def _fit(recipe: Forge, opened: Opened, out: Path, steps: Sequence[int], num: int, seed: int) -> None:
    load = opened.loader()
    planner = make_planner(opened, load, seed, recipe, PlanConfig(replace=0.5, add=0.5, move=0.0))  # what moves waits for another drawing
    requests = [r for i in range(num) for r in planner.requests(i)]
    jobs = [Job(r, load(r.background)) for r in requests]
    total, started, done = passes(steps), time.monotonic(), 0
    columns = (TextColumn("distilling"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("distill", total=total)

        def tell() -> None:
            nonlocal done
            done += 1
            bar.advance(task)
            if done == 2:  # the first pass warms up
                minutes = (time.monotonic() - started) / done * total / 60
                console.print(f"{minutes:.1f} min at most. Ctrl-C stops; the same command goes on.")

        for fitted in distilled(recipe.config, recipe.base, jobs, steps, tell):
            write_json(_kept(out, fitted.solver.steps), asdict(fitted))
