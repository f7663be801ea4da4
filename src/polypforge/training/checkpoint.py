"""One object saves and restores all that a training run is: weights, average, optimiser, counters. No pickle."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from polypforge.core.errors import UserError
from polypforge.core.files import read_json, write_json
from polypforge.training.ema import EMA, learned_state


@dataclass
class Progress:
    """Counters of a run: steps done, samples seen, seconds spent, best validation loss so far."""

    step: int = 0
    samples: int = 0
    seconds: float = 0.0
    best_loss: float = float("inf")


class Checkpoints:
    """The `checkpoints/` folder of a run: the last `keep` steps, each a folder that appears whole."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep

    def steps(self) -> list[int]:
        return sorted(int(p.name.removeprefix("step-")) for p in self.folder.glob("step-*") if p.name.removeprefix("step-").isdigit())

    def save(self, module: nn.Module, ema: EMA, optimizer: torch.optim.Optimizer, progress: Progress) -> Path:
        target = self.folder / f"step-{progress.step:08d}"
        partial = self.folder / f".partial-{progress.step:08d}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file(_flat(learned_state(module)), partial / "model.safetensors")
        save_file(_flat(ema.weights), partial / "ema.safetensors")
        save_file(_optimizer_tensors(optimizer), partial / "optimizer.safetensors")
        write_json(partial / "progress.json", asdict(progress))
        shutil.rmtree(target, ignore_errors=True)
        os.replace(partial, target)
        for old in self.steps()[: -self.keep]:
            shutil.rmtree(self.folder / f"step-{old:08d}")
        return target

    def restore_last(self, module: nn.Module, ema: EMA, optimizer: torch.optim.Optimizer) -> Progress | None:
        """Load the newest checkpoint into the three objects; None when there is none. Raises UserError when it is damaged."""
        steps = self.steps()
        if not steps:
            return None
        folder = self.folder / f"step-{steps[-1]:08d}"
        try:
            stored = load_file(folder / "model.safetensors")
            if stored.keys() != learned_state(module).keys():
                raise KeyError("it holds other parameters")
            module.load_state_dict(stored, strict=False)
            averaged = load_file(folder / "ema.safetensors")
            for key in ema.weights:
                ema.weights[key].copy_(averaged[key])
            _restore_optimizer(optimizer, load_file(folder / "optimizer.safetensors"))
        except (SafetensorError, OSError, KeyError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{folder} does not fit this run or is damaged ({reason}): remove it to go on from the one before.") from error
        return Progress(**read_json(folder / "progress.json"))


def _flat(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.detach().cpu().contiguous().clone() for k, v in state.items()}


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{key}": torch.as_tensor(value).detach().cpu().contiguous().clone()
        for index, parts in state.items()
        for key, value in parts.items()
    }


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    saved = optimizer.state_dict()
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict(saved | {"state": state})
    # A fused step walks moments and weights side by side in memory: they must be laid out alike.
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            for key, value in optimizer.state.get(parameter, {}).items():
                if value.shape == parameter.shape:
                    optimizer.state[parameter][key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
