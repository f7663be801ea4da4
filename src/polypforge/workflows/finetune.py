"""Fine-tuning of a saved recipe on the user's own cases, within a time budget."""

from __future__ import annotations

from pathlib import Path

import torch

from polypforge.core.console import console
from polypforge.recipes import load_recipe
from polypforge.training.config import TrainingConfig
from polypforge.training.loop import Trainer
from polypforge.workflows.deidentify import without_text
from polypforge.workflows.opened import Opened


def finetune(folder: Path, opened: Opened, out: Path, budget_seconds: float, seed: int, device: str) -> Path:
    """Train the recipe in `folder` on the training split for `budget_seconds`; returns the folder of the new weights.

    The validation cases choose nothing but the `best` copy; the last weights are used. A finished run is not run again.
    """
    console.print(f"Fine-tuning for {budget_seconds / 60:.1f} min in {out}.")
    torch.manual_seed(seed)
    recipe = load_recipe(folder)
    pool, held = (recipe.prepare(without_text([c.load() for c in opened.cases(s)], out / "text")) for s in ("train", "val"))
    config = TrainingConfig(
        seed=seed, batch_size=16, budget_seconds=budget_seconds, learning_rate=1e-4, warmup_steps=50, ema_decay=0.99,
        validate_every=100, preview_every=0, checkpoint_every=50,
    )  # fmt: skip
    trainer = Trainer(recipe, pool, held, out, config, device=device)
    trainer.run()
    if trainer.stop_asked:
        raise KeyboardInterrupt
    return out / "model"
