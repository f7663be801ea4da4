"""Recipes by name."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from safetensors import SafetensorError

from polypforge.core.errors import UserError
from polypforge.core.files import read_json
from polypforge.recipes.base import Job, Recipe

__all__ = ["RECIPES", "Job", "Recipe", "load_recipe", "recipe_class"]

RECIPES: dict[str, str] = {"forge": "polypforge.recipes.forge.recipe:Forge"}


def recipe_class(name: str) -> type[Recipe]:
    if name not in RECIPES:
        raise UserError(f"there is no recipe '{name}': choose one of {', '.join(RECIPES)}.")
    module, attribute = RECIPES[name].split(":")
    found: Callable = getattr(import_module(module), attribute)
    return found  # type: ignore[return-value]


def load_recipe(folder: Path) -> Recipe:
    """The recipe that was saved in `folder`. Raises UserError when the folder is damaged or another kind of model."""
    config = read_json(folder / "config.json")
    if not isinstance(config, dict) or "recipe" not in config:
        raise UserError(f"{folder / 'config.json'} doesn't name a recipe: this is no generator that `polypforge train` saved.")
    try:
        recipe = recipe_class(config["recipe"]).load_pretrained(folder)
    except (OSError, KeyError, RuntimeError, ValueError, SafetensorError) as error:
        raise UserError(f"{folder} is incomplete or damaged ({str(error).splitlines()[0]}): restore it or train again.") from error
    return recipe.eval()  # type: ignore[return-value]
