"""`polypforge distill`: teaches weights of `forge` to draw in one to four steps what they draw in many."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from polypforge.core.errors import UserError
from polypforge.models.locate import locate, set_offline
from polypforge.recipes import load_recipe
from polypforge.recipes.forge.leap import MOST_LEAPT
from polypforge.recipes.forge.recipe import Forge
from polypforge.workflows.run_folder import refuse_nesting
from polypforge.workflows.train import train

RANK = 7
TURNED = 0.25  # of the windows; the others lie as those that are drawn into
BUDGET_SECONDS = 1500.0  # gave 1,142 steps on one core of an AMD EPYC with AVX-512 bf16, beside other work
TRAINING = (
    "training.batch_size=16", "training.learning_rate=1e-3", "training.ema_decay=0.99", "training.warmup_steps=30", "phantom.frames=0",
)  # fmt: skip


def distill(
    data: Sequence[Path],
    out: Path,
    *,
    model: str = "starter:forge",
    budget_seconds: float = BUDGET_SECONDS,
    layout: str = "auto",
    skip_bad: bool = False,
    seed: int = 0,
    device: str = "auto",
    offline: bool = False,
) -> dict[str, Any]:
    """Train a leap (`recipes.forge.leap`) for `model` on training frames of `data`, for `budget_seconds`; `out` is a run folder as
    `train`'s, whose weights draw in few steps unless told otherwise.

    The weights themselves do not change, nor what they draw in more steps. A leap that they have learns on. The same call resumes an
    interrupted run, and goes on with a longer budget. Raises UserError for weights of another recipe, and what `train` raises.
    """
    set_offline(offline)
    folder = locate(model, offline)
    recipe = load_recipe(folder)
    if not isinstance(recipe, Forge):
        raise UserError(f"{model} holds weights of {recipe.name}: only those of forge can be distilled.")
    refuse_nesting(folder, out)
    try:
        config = replace(recipe.config, learns=("leap",), leap_rank=recipe.config.leap_rank or RANK, turned=TURNED, base_steps=MOST_LEAPT)
    except ValueError as error:
        raise UserError(f"{model} can't be distilled: {error}.") from error
    if config.guidance != 1:
        raise UserError(f"{model} draws with guidance {config.guidance:g}, of which few steps know nothing: set it to 1 in config.json.")
    result = train(
        Forge.name, data, out, assignments=(f"model={json.dumps(asdict(config))}", f"training.seed={seed}", *TRAINING),
        budget_seconds=budget_seconds, device=device, layout=layout, skip_bad=skip_bad, offline=offline, start=model,
    )  # fmt: skip
    trained = load_recipe(Path(result["model"]))  # what else is done with it is done as with the weights that it was made of
    trained.config = replace(trained.config, learns=recipe.config.learns, turned=recipe.config.turned)
    trained.save_config(Path(result["model"]))
    return result
