"""Recipes by name."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from safetensors import SafetensorError

from polypforge.core.errors import UserError
from polypforge.core.files import read_json
from polypforge.recipes.base import Job, Recipe, UntrainedRecipe

__all__ = ["RECIPES", "Job", "Recipe", "UntrainedRecipe", "load_recipe", "recipe_class"]

RECIPES: dict[str, str] = {
    "forge": "polypforge.recipes.forge.recipe:Forge",
    "graft": "polypforge.recipes.graft.recipe:Graft",
    "polyp_gen": "polypforge.recipes.polyp_gen.recipe:PolypGen",
    "cond_polyp_diff": "polypforge.recipes.cond_polyp_diff.recipe:CondPolypDiff",
    "polyp_ddpm": "polypforge.recipes.polyp_ddpm.recipe:PolypDDPM",
    "diffuse_gen": "polypforge.recipes.diffuse_gen.recipe:DiffuseGen",
    "diffaug": "polypforge.recipes.diffaug.recipe:DiffAug",
    "blended_latent": "polypforge.recipes.blended_latent.recipe:BlendedLatent",
    "control_inpaint": "polypforge.recipes.control_inpaint.recipe:ControlInpaint",
    "copy_paste": "polypforge.recipes.copy_paste.recipe:CopyPaste",
    "singan_seg": "polypforge.recipes.singan_seg.recipe:SinGANSeg",
    "folder": "polypforge.recipes.folder.recipe:Folder",
}


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
