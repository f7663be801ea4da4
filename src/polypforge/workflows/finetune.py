"""Fine-tuning of a saved recipe on the user's own cases, within a time budget."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch

from polypforge.core.console import console
from polypforge.core.errors import UserError
from polypforge.recipes import Recipe, load_recipe
from polypforge.recipes.forge.recipe import Forge
from polypforge.training.config import TrainingConfig
from polypforge.training.loop import Trainer
from polypforge.workflows.deidentify import without_text
from polypforge.workflows.device import device_of
from polypforge.workflows.dry_run import refuse_too_large
from polypforge.workflows.opened import Opened
from polypforge.workflows.train import read_settings


def finetune(folder: Path, opened: Opened, out: Path, budget_seconds: float, seed: int, device: str) -> Path:
    """Train the recipe in `folder` on the training split for `budget_seconds`; returns the folder of the new weights.

    Precision and optimiser are those of the recipe's starter configuration, the batch and the learning rate at most those given here.
    Raises UserError where no case can train it; see `refuse_untunable`. The validation cases choose nothing but
    the `best` copy; the last weights are used. A finished run is not run again.
    """
    console.print(f"Fine-tuning for {budget_seconds / 60:.1f} min in {out}.")
    torch.manual_seed(seed)
    recipe = load_recipe(folder)
    tuned = as_tuned(recipe)
    if tuned is not recipe:
        recipe = tuned
        console.print("Few steps of these weights belong to them as they are: what is tuned draws in plain ones (`polypforge distill`).")
    pool, held = (recipe.prepare(without_text([c.load() for c in opened.to_learn(s, seed)], out / "text")) for s in ("train", "val"))
    if not len(pool):
        raise UserError(f"no case of the data can fine-tune {recipe.name}: it needs masks that show a lesion, and sharp frames.")
    trainer = Trainer(recipe, pool, held, out, _settings(recipe.name, budget_seconds, seed), device=device)
    trainer.run()
    if not trainer.is_through:
        raise KeyboardInterrupt
    return out / "model"


def as_tuned(recipe: Recipe) -> Recipe:
    """What is trained on, and draws then: of forge the stages without their leap."""
    return recipe.without_leap() if isinstance(recipe, Forge) else recipe


def refuse_untunable(recipe: Recipe, where: Path, budget_seconds: float, seed: int, device: str) -> None:
    """Raises UserError for a model, from the folder `where`, too large to be trained on the device; before anything costly is done."""
    config = _settings(recipe.name, budget_seconds, seed)
    refuse_too_large(type(recipe), asdict(as_tuned(recipe).config), config, device_of(device), str(where))


def _settings(recipe: str, budget_seconds: float, seed: int) -> TrainingConfig:
    own = read_settings(recipe, None, (), None)[2]
    return TrainingConfig(
        seed=seed, batch_size=min(16, own.batch_size), budget_seconds=budget_seconds, learning_rate=min(1e-4, own.learning_rate),
        betas=own.betas, weight_decay=own.weight_decay, clip_norm=own.clip_norm, precision=own.precision, warmup_steps=50, ema_decay=0.99,
        validate_every=100, preview_every=0, checkpoint_every=50,
    )  # fmt: skip
