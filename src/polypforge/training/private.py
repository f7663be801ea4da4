"""Training with differential privacy (DP-SGD, Abadi et al. 2016): what the model can betray of any one training image is bounded.

Opacus clips and keeps the account. Gradients are taken one image at a time, so that the bound also holds for losses that weigh pixels
over the whole batch; networks that keep statistics of their images (batch norm) are refused. Which images a step sees, and the noise,
come from the system's entropy and not from the seed: who knew them could take the noise off again. So a private run can't be repeated to
the bit.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from polypforge.core.console import console
from polypforge.core.errors import UserError
from polypforge.core.files import read_json, write_json
from polypforge.models.trainable import Batch, Trainable
from polypforge.training.config import TrainingConfig
from polypforge.training.ema import learned_state
from polypforge.training.loop import Trainer

PLAN = "privacy.json"
CARD = """# A model with differential privacy

Trained with DP-SGD through Opacus: ({epsilon:.3g}, {delta:.3g})-differential privacy, where neighbouring data sets differ in one
training image.

| steps | images | images a step (expected) | noise multiplier | clip norm |
| --- | --- | --- | --- | --- |
| {steps} | {images} | {batch} | {noise:.4g} | {clip:g} |

Weights that were loaded (a first stage, an encoder, a backbone) are not covered: they must come from public data. Several images of
one patient are covered as a group only, far less (k images: k times epsilon, and delta grows by about k exp((k - 1) epsilon)).
Validation images chose nothing: the averaged weights of the last step are the model. Only this folder is covered: logs and checkpoints
beside it are not.
"""


class PrivateTrainer(Trainer):
    """The same loop, resumed in the same way; every step sees each training image with probability batch_size / n.

    The plan of the noise is written to the run folder before the first step, and a resumed run keeps to it. Raises UserError for a model
    that takes anything from its training cases but by gradients, without max_steps, and for a plan that changed.
    """

    def __init__(self, model: Trainable, pool: Sequence[Any], held: Sequence[Any], out: Path, config: TrainingConfig, **more: Any) -> None:
        assert config.privacy is not None
        privacy = config.privacy
        refuse_not_private(model)
        if config.max_steps is None:
            raise UserError("private training needs its number of steps, from which the noise follows: give training.max_steps.")
        if config.accumulate != 1 or config.batch_size > len(pool):
            raise UserError(f"private training takes accumulate = 1 and a batch_size of at most the {len(pool)} training cases.")
        plan = {
            "images": len(pool), "batch": config.batch_size, "steps": config.max_steps, "clip": privacy.clip_norm,
            "delta": privacy.delta or 0.1 / len(pool), "asked": privacy.noise_multiplier or privacy.epsilon,
        }  # fmt: skip
        self.plan = _kept(out / PLAN, plan)
        self.rate = config.batch_size / len(pool)
        if "noise" not in self.plan:
            self.plan["noise"] = privacy.noise_multiplier or noise_for(privacy.epsilon, plan["delta"], self.rate, config.max_steps)
        super().__init__(model, pool, held, out, config, **more)
        if self.accelerator.num_processes > 1:
            raise UserError("private training runs in one process.")
        write_json(out / PLAN, self.plan)
        self._secret = np.random.default_rng()  # seeded with 128 bits of the system's entropy
        self._learned = [p for p in self.model.parameters() if p.requires_grad]
        self._private = _noisy(self.optimizer.optimizer, self.plan["noise"], privacy.clip_norm, config.batch_size)
        spent = epsilon_after(config.max_steps, self.plan["noise"], self.rate, self.plan["delta"])
        console.print(
            f"Private: epsilon {spent:.2f} at delta {self.plan['delta']:.2g} after {config.max_steps} steps; "
            f"noise {self.plan['noise']:.3g}."
        )

    @property
    def spent(self) -> float:
        """Epsilon of the steps so far."""
        return epsilon_after(self.progress.step, self.plan["noise"], self.rate, self.plan["delta"])

    def _batch(self, step: int) -> list[Batch]:
        """One example of each image that this step sees (Poisson sampling); at times none."""
        chosen = np.flatnonzero(self._secret.random(len(self.pool)) < self.rate)
        found = []
        for i in chosen:
            try:
                found.append(self.model.training_batch([self.pool[i]], 1, self._secret))
            except UserError:  # an image that shows nothing to learn from: its gradient is none, which the account allows
                continue
        return found

    def _step(self, batches: list[Batch]) -> dict[str, float]:
        """Tells epsilon alone: a loss would be of private images."""
        self._set_rates()
        generator = torch.Generator().manual_seed(int(self._secret.integers(2**62)))
        each: list[list[torch.Tensor]] = [[] for _ in self._learned]
        for batch in batches:
            with self._autocast():
                loss, _ = self.model({k: v.to(self.accelerator.device) for k, v in batch.items()}, generator)
            gradients = torch.autograd.grad(loss, self._learned, allow_unused=True)
            for stack, gradient, parameter in zip(each, gradients, self._learned, strict=True):
                stack.append(gradient.detach() if gradient is not None else torch.zeros_like(parameter))
        for stack, parameter in zip(each, self._learned, strict=True):
            # A gradient that is no number must not pass the clipping: it counts as none.
            samples = torch.stack(stack).nan_to_num(0, 0, 0) if stack else parameter.new_zeros((0, *parameter.shape))
            parameter.grad_sample = samples  # type: ignore[attr-defined]
        self._private.step()
        self._private.zero_grad(set_to_none=True)
        self.ema.update(self.model, self.progress.step)
        return {"epsilon": self.spent} if self.progress.step % 10 == 9 else {}

    def _save(self, name: str) -> None:
        """Only the end of the run: a best step would be chosen by cases that the account doesn't cover."""
        if name == "model":
            super()._save(name)

    def _describe(self, folder: Path) -> None:
        account = self.plan | {"epsilon": self.spent, "steps": self.progress.step}
        (folder / "privacy.json").write_text(json.dumps(account, indent=2) + "\n")
        (folder / "MODEL_CARD.md").write_text(CARD.format(**account))


def refuse_not_private(model: Trainable) -> None:
    """Raises UserError for a model that keeps more of its training cases than clipped gradients."""
    if type(model).fit is not Trainable.fit:
        raise UserError(f"{model.name} takes more from its training cases than gradients (clusters, examples): no private training.")
    learned = {name for name, p in model.named_parameters() if p.requires_grad}
    statistics = sorted(set(learned_state(model)) - learned)
    if statistics or not learned:
        what = f"keeps statistics of its training images ({statistics[0]} ...)" if statistics else "has nothing to learn"
        raise UserError(f"{model.name} {what}: no private training.")


def _kept(path: Path, plan: dict[str, Any]) -> dict[str, Any]:
    """The plan of an earlier part of this run, which must be the same."""
    if not path.exists():
        return plan
    stored = read_json(path)
    changed = [k for k, v in plan.items() if stored.get(k) != v]
    if changed:
        raise UserError(
            f"{path.parent} was begun with {changed[0]} = {stored.get(changed[0])}, not {plan[changed[0]]}: the account of a private run "
            "holds for its first plan only. Repeat that command, or choose another folder."
        )
    return stored


def _noisy(optimizer: torch.optim.Optimizer, noise: float, clip: float, batch: int) -> Any:
    """Opacus' optimiser, whose noise comes from a generator with 128 bits of entropy: a seed of torch's CPU generator has 32, few enough
    to try them all."""
    module = _opacus("opacus.optimizers.optimizer")
    secret = np.random.Generator(np.random.Philox())

    class SecretNoise(module.DPOptimizer):  # type: ignore[name-defined, misc]
        def add_noise(self) -> None:
            for p in self.params:
                drawn = secret.standard_normal(tuple(p.summed_grad.shape), np.float32)
                noise = torch.from_numpy(drawn).to(p.summed_grad) * (self.noise_multiplier * self.max_grad_norm)
                # In the layout of p, which fused steps take for granted.
                p.grad = torch.empty_like(p).copy_((p.summed_grad + noise).view_as(p))

    return SecretNoise(optimizer, noise_multiplier=noise, max_grad_norm=clip, expected_batch_size=batch)


def epsilon_after(steps: int, noise: float, rate: float, delta: float) -> float:
    """Epsilon of `steps` steps with sampling rate and noise multiplier (Renyi accountant of Opacus). 0 for no step."""
    if steps == 0:
        return 0.0
    accountant = _opacus("opacus.accountants").RDPAccountant()
    accountant.history = [(noise, rate, steps)]
    return float(accountant.get_epsilon(delta))


def noise_for(epsilon: float, delta: float, rate: float, steps: int) -> float:
    """The least noise multiplier that keeps `steps` steps within epsilon."""
    try:
        found = _opacus("opacus.accountants.utils").get_noise_multiplier(
            target_epsilon=epsilon, target_delta=delta, sample_rate=rate, steps=steps, accountant="rdp"
        )
    except ValueError as error:
        raise UserError(f"no noise keeps {steps} steps within epsilon {epsilon:g} ({error}): give more epsilon or fewer steps.") from error
    return float(found)


def _opacus(module: str) -> Any:
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError:
        raise UserError("private training needs Opacus: pip install 'polypforge[privacy]'.") from None
