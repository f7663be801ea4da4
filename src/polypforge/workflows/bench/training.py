"""A training step: bf16, channels last, a fused optimiser and frames decoded once, against a loop as the published programs have it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from polypforge.core.config import from_dict
from polypforge.core.types import Case
from polypforge.data.source import Source
from polypforge.models.trainable import Trainable
from polypforge.recipes.forge.config import ForgeConfig
from polypforge.recipes.forge.recipe import Forge
from polypforge.training.config import TrainingConfig
from polypforge.training.loop import Trainer
from polypforge.workflows.bench.contest import Contest, Side
from polypforge.workflows.bench.setting import Setting
from polypforge.workflows.train import read_settings

STEPS = 3
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
        Trainer(ours, pool, [], setting.scratch / f"run-{next(rounds)}", config, device=setting.device.type).run()

    sides = [
        Side(f"{STEPS} steps of {BATCH}: bf16, channels last, fused AdamW, frames decoded once", step_ours, STEPS * BATCH),
        Side(
            f"{STEPS} steps of {BATCH}: float32, files read for each example",
            lambda: plain_training(theirs, setting.source, setting.scratch / "plain.pt", config),
            STEPS * BATCH,
        ),
    ]
    return Contest("training", "a training sample, forge at full size", sides, "the same loss; both write their weights at the end")


def plain_training(model: Trainable, source: Source, out: Path, config: TrainingConfig) -> None:
    """Each example is read from its files again; float32; the optimiser and the average as in the programs' loops."""
    optimizer = torch.optim.AdamW(model.parameters(), config.learning_rate, fused=False, foreach=False)
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(config.ema_decay))
    rng, generator, device = np.random.default_rng(0), torch.Generator().manual_seed(0), next(model.parameters()).device
    for _ in range(config.max_steps or 0):
        batch = model.training_batch(model.prepare(_drawn(source, config.batch_size, rng)), config.batch_size, rng)
        loss, _ = model.loss({k: v.to(device) for k, v in batch.items()}, generator)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update_parameters(model)
    state = {"model": model.state_dict(), "ema": average.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(state, out)


def _drawn(source: Source, count: int, rng: np.random.Generator) -> Sequence[Case]:
    return [source.cases[i].load() for i in rng.integers(0, len(source.cases), count)]
