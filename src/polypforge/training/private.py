"""Training with differential privacy (DP-SGD, Abadi et al. 2016): what the model can betray of any one training image is bounded.

Opacus clips, adds the noise and keeps the account. Gradients are taken one image at a time, so that the bound holds for any network and
any loss, also for losses that weigh pixels over the whole batch. Which images a step sees, and the noise, come from the system's entropy
and not from the seed: who knew them could take the noise off again. So a private run can't be repeated to the bit.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from polypforge.core.console import console
from polypforge.core.errors import UserError
from polypforge.core.seeding import seed_from
from polypforge.models.trainable import Batch, Trainable
from polypforge.training.config import PrivacyConfig, TrainingConfig, learning_rate_at
from polypforge.training.loop import Trainer

CARD = """# A model with differential privacy

Trained with DP-SGD through Opacus: ({epsilon:.3g}, {delta:.3g})-differential privacy, where neighbouring data sets differ in one
training image.

| steps | images | images a step (expected) | noise multiplier | clip norm |
| --- | --- | --- | --- | --- |
| {steps} | {images} | {batch} | {noise:.4g} | {clip:g} |

Parts that were loaded frozen (a first stage, an encoder) are not covered: they must come from public data. Several images of one patient
are covered as a group, at a multiple of epsilon. Validation images chose nothing: the averaged weights of the last step are the model.
"""


class PrivateTrainer(Trainer):
    """The same loop, resumed in the same way; every step sees each training image with probability batch_size / n.

    Raises UserError for a model that takes anything from its training cases but by gradients, and without max_steps.
    """

    def __init__(self, model: Trainable, pool: Sequence[Any], held: Sequence[Any], out: Path, config: TrainingConfig, **more: Any) -> None:
        optimizers = _opacus("opacus.optimizers")
        assert config.privacy is not None
        self.privacy: PrivacyConfig = config.privacy
        if type(model).fit is not Trainable.fit:
            raise UserError(f"{model.name} takes more from its training cases than gradients (clusters, examples): no private training.")
        if config.max_steps is None:
            raise UserError("private training needs its number of steps, from which the noise follows: give training.max_steps.")
        if config.accumulate != 1 or config.batch_size > len(pool):
            raise UserError(f"private training takes accumulate = 1 and a batch_size of at most the {len(pool)} training cases.")
        self.rate = config.batch_size / len(pool)
        self.delta = self.privacy.delta or 0.1 / len(pool)
        self.noise = self.privacy.noise_multiplier or noise_for(self.privacy.epsilon, self.delta, self.rate, config.max_steps)
        super().__init__(model, pool, held, out, config, **more)
        if self.accelerator.num_processes > 1:
            raise UserError("private training runs in one process.")
        self._secret = np.random.default_rng(int.from_bytes(os.urandom(16), "little"))
        self._learned = [p for p in self.model.parameters() if p.requires_grad]
        self._private = optimizers.DPOptimizer(
            self.optimizer.optimizer,
            noise_multiplier=self.noise,
            max_grad_norm=self.privacy.clip_norm,
            expected_batch_size=config.batch_size,
            generator=torch.Generator(device=self.accelerator.device).manual_seed(int.from_bytes(os.urandom(7), "little")),
        )
        spent = epsilon_after(config.max_steps, self.noise, self.rate, self.delta)
        console.print(f"Private: epsilon {spent:.2f} at delta {self.delta:.2g} after {config.max_steps} steps; noise {self.noise:.3g}.")

    @property
    def spent(self) -> float:
        """Epsilon of the steps so far."""
        return epsilon_after(self.progress.step, self.noise, self.rate, self.delta)

    def _batch(self, step: int) -> list[Batch]:
        """One example of each image that this step sees (Poisson sampling); at times none."""
        chosen = np.flatnonzero(self._secret.random(len(self.pool)) < self.rate)
        return [self.model.training_batch([self.pool[i]], 1, self._secret) for i in chosen]

    def _step(self, batches: list[Batch]) -> dict[str, float]:
        config, progress = self.config, self.progress
        for group in self._private.param_groups:
            group["lr"] = learning_rate_at(config, progress.step, self._share_done())
        generator = torch.Generator().manual_seed(seed_from(int(self._secret.integers(2**62)), "noise"))
        each: list[list[torch.Tensor]] = [[] for _ in self._learned]
        shown: dict[str, float] = {}
        for batch in batches:
            with self._autocast():
                loss, parts = self.model({k: v.to(self.accelerator.device) for k, v in batch.items()}, generator)
            if not torch.isfinite(loss):
                raise UserError(f"the loss is {float(loss.detach())} at step {progress.step}: {self._advice()}")
            gradients = torch.autograd.grad(loss, self._learned, allow_unused=True)
            for stack, gradient, parameter in zip(each, gradients, self._learned, strict=True):
                stack.append(gradient.detach() if gradient is not None else torch.zeros_like(parameter))
            shown = {name: float(value) for name, value in parts.items()}
        for stack, parameter in zip(each, self._learned, strict=True):
            parameter.grad_sample = torch.stack(stack) if stack else parameter.new_zeros((0, *parameter.shape))  # type: ignore[attr-defined]
        self._private.step()
        self._private.zero_grad(set_to_none=True)
        self.ema.update(self.model, progress.step)
        return shown | {"epsilon": self.spent} if progress.step % 10 == 0 else shown

    def _save(self, name: str) -> None:
        """Only the end of the run: a best step would be chosen by cases that the account doesn't cover."""
        if name != "model":
            return
        super()._save(name)
        account = {
            "epsilon": self.spent, "delta": self.delta, "noise": self.noise, "clip": self.privacy.clip_norm,
            "steps": self.progress.step, "images": len(self.pool), "batch": self.config.batch_size,
        }  # fmt: skip
        (self.out / name / "privacy.json").write_text(json.dumps(account, indent=2) + "\n")
        (self.out / name / "MODEL_CARD.md").write_text(CARD.format(**account))


def epsilon_after(steps: int, noise: float, rate: float, delta: float) -> float:
    """Epsilon of `steps` steps with sampling rate and noise multiplier (Renyi accountant of Opacus). 0 for no step."""
    if steps == 0:
        return 0.0
    accountant = _opacus("opacus.accountants").RDPAccountant()
    accountant.history = [(noise, rate, steps)]
    return float(accountant.get_epsilon(delta))


def noise_for(epsilon: float, delta: float, rate: float, steps: int) -> float:
    """The least noise multiplier that keeps `steps` steps within epsilon."""
    found = _opacus("opacus.accountants.utils").get_noise_multiplier(
        target_epsilon=epsilon, target_delta=delta, sample_rate=rate, steps=steps, accountant="rdp"
    )
    return float(found)


def _opacus(module: str) -> Any:
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError:
        raise UserError("private training needs Opacus: pip install 'polypforge[privacy]'.") from None
