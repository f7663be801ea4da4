"""Which generator a command works with: given weights, shipped ones, or a model that is trained on the data first."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from polypforge.core.config import from_dict, read_yaml
from polypforge.core.errors import UserError
from polypforge.core.files import read_json_object
from polypforge.models.locate import STARTER, locate, starter_names
from polypforge.models.precision import fast_layout
from polypforge.recipes import Recipe, load_recipe, recipe_class
from polypforge.workflows.device import tell_format
from polypforge.workflows.train import train
from polypforge.workflows.trainables import shipped_config

DEFAULT = "forge"


@dataclass(frozen=True)
class GeneratorSource:
    """recipe: its name ("" where the weights say it). model: as the user named it, "" for none. folder: where the weights are; None: they
    must be trained. assignments: settings for that training."""

    recipe: str
    model: str
    folder: Path | None
    assignments: tuple[str, ...] = ()


def generator_source(recipe: str | None, model: str | None, offline: bool = False) -> GeneratorSource:
    """Raises UserError for an unknown recipe, and for weights of another one."""
    if recipe is not None:
        recipe_class(recipe)
    if recipe == "folder":
        if model is None:
            raise UserError("--recipe folder needs to know where the pairs are: name them with --model DIR.")
        if not Path(model).is_dir():
            raise UserError(f"{model}: no such folder; --recipe folder takes the pairs that lie in it.")
        if not (Path(model) / "config.json").is_file():
            return GeneratorSource(recipe, model, None, (f"model.path={json.dumps(str(Path(model).resolve()))}",))
    if model is None:
        name = recipe or DEFAULT
        if name not in starter_names():
            return GeneratorSource(name, "", None)
        model = STARTER + name
    folder = locate(model, offline)
    found = read_json_object(folder / "config.json").get("recipe", "") if (folder / "config.json").is_file() else ""
    if not found:
        raise UserError(f"{model} is no generator that `polypforge train` saved: train a recipe from it first (model.backbone.weights).")
    if recipe is not None and found != recipe:
        raise UserError(f"{model} holds weights of {found}, not of {recipe}: leave --recipe out, or choose other weights.")
    return GeneratorSource(found, model, folder)


def refuse_steps(recipe: str, steps: int | None) -> None:
    """Before a recipe is trained: raises UserError when the model of its starter configuration couldn't draw in so many steps."""
    if steps is not None:
        cls, path = recipe_class(recipe), shipped_config(recipe)
        cls.with_steps(from_dict(cls.config_class, read_yaml(path).get("model") or {}, str(path)), steps)


def opened_recipe(folder: Path, steps: int | None, device: str, draws: bool = True) -> Recipe:
    """The recipe of a folder, ready to draw in `steps` steps, or as many as it takes by itself. draws: whether it will, in this process."""
    recipe = load_recipe(folder)
    recipe.to(device, memory_format=fast_layout(recipe, torch.device(device)))
    if draws and next(recipe.parameters(), None) is not None:
        tell_format(device)
    if steps is not None:
        recipe.set_steps(steps)
    return recipe


def train_here(
    source: GeneratorSource,
    data: Path,
    out: Path,
    budget_seconds: float | None,
    seed: int,
    layout: str,
    skip_bad: bool,
    device: str,
    offline: bool,
) -> Path:
    """Train the recipe on the data in `out`, for the budget or as long as its starter configuration says; returns the weights' folder."""
    sets = [] if source.recipe == "folder" else [data]
    train(
        source.recipe,
        sets,
        out,
        assignments=(*source.assignments, f"training.seed={seed}"),
        budget_seconds=budget_seconds,
        device=device,
        layout=layout,
        skip_bad=skip_bad,
        offline=offline,
    )
    return out / "model"
