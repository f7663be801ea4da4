"""A training step: bf16, a fused optimiser and frames decoded once, against a loop in float32 that reads files for each example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from polypforge.core.config import from_dict
from polypforge.data.prepared import Prepared
from polypforge.data.source import Source
from polypforge.models.precision import fast_format
from polypforge.models.trainable import Trainable
from polypforge.recipes.forge.config import ForgeConfig
from polypforge.recipes.forge.recipe import Forge
from polypforge.training.config import TrainingConfig
from polypforge.training.loop import Trainer
from polypforge.workflows.bench.contest import Contest, Side
from polypforge.workflows.bench.setting import Setting
from polypforge.workflows.train import read_settings

STEPS = 8
BATCH = 16


def training(setting: Setting) -> Contest:
    path, values, config, _ = read_settings("forge", None, [], None)
    model = from_dict(ForgeConfig, values["model"], str(path))
    config = replace(
        config, max_steps=STEPS, budget_seconds=None, batch_size=BATCH, accumulate=1, validate_every=0, preview_every=0, checkpoint_every=0
    )
    torch.manual_seed(0)
    ours, theirs = Forge(model).to(setting.device), Forge(model).to(setting.device)
    pool, rounds = ours.prepare(setting.frames), iter(range(1_000_000))

    def step_ours() -> None:
        trainer = Trainer(ours, pool, [], setting.scratch / f"run-{next(rounds)}", config, device=str(setting.device))
        trainer.run()
        if trainer.stop_asked:  # fewer steps than are counted
            raise KeyboardInterrupt

    sides = [
        Side(f"{STEPS} steps of {BATCH}: {fast_format(setting.device)}, fused AdamW, frames decoded once", step_ours, STEPS * BATCH),
        Side(
            f"{STEPS} steps of {BATCH}: float32, files read for each example",
            lambda: plain_training(theirs, pool, setting.source, setting.scratch / "plain.pt", config),
            STEPS * BATCH,
        ),
    ]
    return Contest("training", "a training sample, forge at full size", sides, "the same loss; both write their weights at the end")


def plain_training(model: Trainable, pool: Sequence[Prepared], source: Source, out: Path, config: TrainingConfig) -> None:
    """Each example's pixels are read from its files again; PyTorch's defaults for all else. pool: the source's cases, prepared."""
    optimizer = torch.optim.AdamW(model.parameters(), config.learning_rate)
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(config.ema_decay))
    rng, generator, device = np.random.default_rng(0), torch.Generator().manual_seed(0), next(model.parameters()).device
    for _ in range(config.max_steps or 0):
        drawn = rng.integers(0, len(source.cases), config.batch_size)
        read = [replace(pool[i], case=source.cases[i].load()) for i in drawn]
        batch = model.training_batch(read, config.batch_size, rng)
        loss, _ = model.loss({k: v.to(device) for k, v in batch.items()}, generator)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update_parameters(model)
    state = {"model": model.state_dict(), "ema": average.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(state, out)
