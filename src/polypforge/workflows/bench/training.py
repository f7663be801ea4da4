"""A training step: bf16, a fused optimiser and frames decoded once, against a loop in float32 that reads files for each example."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from functools import partial
from io import StringIO
from math import ceil
from pathlib import Path

import numpy as np
import torch

from polypforge.core.config import from_dict
from polypforge.core.images import write_png
from polypforge.data.prepared import Prepared
from polypforge.data.source import Source
from polypforge.models.precision import fast_format
from polypforge.models.trainable import Trainable
from polypforge.recipes.forge.config import ForgeConfig
from polypforge.recipes.forge.recipe import Forge
from polypforge.recipes.polyp_ddpm.recipe import PolypDDPM, PolypDDPMConfig
from polypforge.training.config import TrainingConfig
from polypforge.training.loop import Trainer
from polypforge.workflows.bench.contest import Contest, Side
from polypforge.workflows.bench.sampling import Unmasked
from polypforge.workflows.bench.setting import Setting
from polypforge.workflows.train import read_settings

STEPS = 8
BATCH = 16
THEIR_LEAST = 100  # pictures, below which the library's loop refuses to start


def training(setting: Setting) -> Contest:
    path, values, config, _ = read_settings("forge", None, [], None)
    model = from_dict(ForgeConfig, values["model"], str(path))
    config = _short(config)
    torch.manual_seed(0)
    ours, theirs = Forge(model).to(setting.device), Forge(model).to(setting.device)
    pool = ours.prepare(setting.frames)
    sides = [
        Side(_ours(setting), partial(_train, ours, pool, setting, config), STEPS * BATCH),
        Side(
            f"{STEPS} steps of {BATCH}: float32, files read for each example",
            lambda: plain_training(theirs, pool, setting.source, setting.scratch / "plain.pt", config),
            STEPS * BATCH,
        ),
    ]
    return Contest("training", "a training sample, forge at full size", sides, "the same loss; both write their weights at the end")


def training_ddpm(setting: Setting) -> Contest:
    """Polyp-DDPM's network in the training loop of the library that its program is made of."""
    from denoising_diffusion_pytorch import GaussianDiffusion
    from denoising_diffusion_pytorch import Trainer as TheirTrainer

    path, values, config, _ = read_settings("polyp_ddpm", None, [], None)
    model = from_dict(PolypDDPMConfig, values["model"], str(path))
    config = _short(config)
    torch.manual_seed(0)
    ours, same = PolypDDPM(model).to(setting.device), PolypDDPM(model)
    pool = ours.prepare(setting.frames)
    theirs = GaussianDiffusion(Unmasked(same), image_size=model.size_px, objective="pred_noise", beta_schedule="cosine")
    folder = setting.scratch / "pictures"
    for k in range(ceil(THEIR_LEAST / len(setting.frames))):
        for frame in setting.frames:
            write_png(folder / f"{k}-{frame.name}.png", frame.image)

    def step_theirs() -> None:
        with redirect_stderr(StringIO()), redirect_stdout(StringIO()):  # its bars and its last word
            trainer = TheirTrainer(
                theirs, str(folder), train_batch_size=BATCH, train_num_steps=STEPS, save_and_sample_every=10**6, calculate_fid=False,
                results_folder=str(setting.scratch / "theirs"),
            )  # fmt: skip
            trainer.train()
            trainer.save("last")

    sides = [
        Side(_ours(setting), partial(_train, ours, pool, setting, config), STEPS * BATCH),
        Side(f"{STEPS} steps of {BATCH}: Trainer of denoising-diffusion-pytorch, float32, its own readers", step_theirs, STEPS * BATCH),
    ]
    what = f"a training sample, polyp_ddpm of starter size at {model.size_px} px"
    return Contest("training_ddpm", what, sides, "start and last weights of both included, so few steps say little of a long run")


def _train(model: Trainable, pool: Sequence[Prepared], setting: Setting, config: TrainingConfig) -> None:
    with tempfile.TemporaryDirectory(dir=setting.scratch) as folder:
        trainer = Trainer(model, pool, [], Path(folder) / "run", config, device=str(setting.device))
        trainer.run()
    if not trainer.is_through:  # fewer steps than are counted
        raise KeyboardInterrupt


def _short(config: TrainingConfig) -> TrainingConfig:
    return replace(
        config, max_steps=STEPS, budget_seconds=None, batch_size=BATCH, accumulate=1, validate_every=0, preview_every=0, checkpoint_every=0
    )


def _ours(setting: Setting) -> str:
    return f"{STEPS} steps of {BATCH}: {fast_format(setting.device)}, fused AdamW, frames decoded once"


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
