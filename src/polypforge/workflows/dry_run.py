"""What training would take, told without touching data or weights: everything is built on PyTorch's meta device."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from polypforge.core.config import from_dict
from polypforge.core.errors import UserError
from polypforge.models.precision import fast_inference
from polypforge.models.trainable import Trainable
from polypforge.recipes import UntrainedRecipe
from polypforge.training.config import TrainingConfig
from polypforge.workflows.device import device_of

ASSUMED_GPU_TFLOPS = 200.0  # a fifth of what an H200 does in bf16 on paper: said in the result, not measured
LARGE_PARAMETERS = 2e8  # trained parameters from which on a machine without GPU is refused
LARGE_HOURS = 72.0  # and expected hours, of a run that no budget ends


@dataclass(frozen=True)
class Plan:
    """parameters: by part of the model. trained: how many of them learn. memory_gb: weights, gradients, optimiser, average, activations.
    step_tflop: of one step. hours: on this machine and on the assumed GPU, for max_steps; None when the run ends by time."""

    parameters: dict[str, int]
    trained: int
    memory_gb: dict[str, float]
    step_tflop: float
    hours_here: float | None
    hours_gpu: float | None

    def to_json(self) -> dict[str, Any]:
        return {
            "parameters": self.parameters,
            "parameters_total": sum(self.parameters.values()),
            "parameters_trained": self.trained,
            "memory_gb": self.memory_gb,
            "step_tflop": round(self.step_tflop, 6),
            "hours_here": self.hours_here,
            "hours_on_assumed_gpu": self.hours_gpu,
            "assumed_gpu_tflops": ASSUMED_GPU_TFLOPS,
        }


def plan(cls: Any, model: dict[str, Any], training: TrainingConfig, where: str, device: str = "auto") -> Plan:
    """The plan of a training run of `cls`; hours_here: on `device`."""
    with torch.device("meta"):
        module: Trainable = cls(from_dict(cls.config_class, model, where))
    parts = {name: sum(p.numel() for p in child.parameters()) for name, child in _parts(module)}
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    everything = sum(p.numel() for p in module.parameters())
    activations, flops = _measure(module, training.batch_size) if trained else (0, 0.0)
    activations *= 0.5 if training.precision == "bf16" else 1.0
    memory = {
        "weights": everything * 4 / 1e9,
        "gradients": trained * 4 / 1e9,
        "optimiser": trained * 8 / 1e9,
        "average": trained * 4 / 1e9,
        "activations": activations / 1e9,
    }
    memory = {k: round(v, 3) for k, v in (memory | {"total": sum(memory.values())}).items()}
    step = flops * training.accumulate / 1e12
    steps = training.max_steps
    here = round(steps * step / tflops_here(torch.device(device_of(device))) / 3600, 2) if steps and step else None
    gpu = round(steps * step / ASSUMED_GPU_TFLOPS / 3600, 2) if steps and step else None
    return Plan({k: v for k, v in parts.items() if v}, trained, memory, step, here, gpu)


def speed(step_tflop: float, steps: int, seconds: float, device: torch.device) -> dict[str, float]:
    """TFLOP/s of so many steps, reading and waiting included, and its share of what `device` reaches in a convolution. Empty for none."""
    if not steps or not seconds or not step_tflop:
        return {}
    rate = step_tflop * steps / seconds
    return {"tflops": round(rate, 4), "utilisation": round(rate / tflops_here(device), 3)}


def refuse_too_large(cls: Any, model: dict[str, Any], training: TrainingConfig, device: str, where: str) -> None:
    """Raises UserError for a model of a paper's size on a machine without GPU, saying what it needs."""
    if device != "cpu" or issubclass(cls, UntrainedRecipe):
        return
    with torch.device("meta"):
        module = cls(from_dict(cls.config_class, model, where))
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    if not trained or (trained < LARGE_PARAMETERS and training.budget_seconds is not None):
        return
    needs = plan(cls, model, training, where, device)
    if trained < LARGE_PARAMETERS and (needs.hours_here or 0) < LARGE_HOURS:
        return
    hours = f", which would take it about {max(1, round(needs.hours_gpu))} h (here: {needs.hours_here:.0f} h)" if needs.hours_gpu else ""
    raise UserError(
        f"{Path(where.split(':')[0]).name} of {cls.name} trains {trained / 1e6:.0f} M parameters and needs a GPU with about "
        f"{needs.memory_gb['total']:.0f} GB{hours}, not a CPU. The starter configuration trains here (leave --config out)."
    )


def _parts(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """The model's parts, one level deeper where a part is a backbone of several networks."""
    found: list[tuple[str, nn.Module]] = []
    for name, child in module.named_children():
        inner = list(child.named_children())
        if name == "backbone":
            found += [(f"backbone.{n}", c) for n, c in inner]
        else:
            found.append((name, child))
    return found


def _measure(module: Trainable, count: int) -> tuple[float, float]:
    """(bytes kept for the backward pass, FLOP of both passes) of a batch of `count`, by running them without numbers."""
    integers = ("ids", "key", "cluster")
    batch = {
        name: torch.empty(shape, dtype=torch.long if name in integers else torch.float32, device="meta")
        for name, shape in module.batch_shapes(count).items()
    }
    kept: dict[int, Tensor] = {}  # the tensors themselves, so that no id is given twice
    weights = {id(p) for p in module.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        if id(tensor) not in weights:
            kept[id(tensor)] = tensor
        return tensor

    counter = _FlopCounter()
    with saved_tensors_hooks(pack, lambda t: t), counter:
        loss, _ = module.loss(batch, torch.Generator())
        held = sum(t.numel() * t.element_size() for t in kept.values())
        loss.backward()
    return float(held), float(counter.total)


class _FlopCounter(TorchDispatchMode):
    """Sums PyTorch's own FLOP formulas; unlike its `FlopCounterMode`, it also works where a loss takes gradients itself."""

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


def tflops_here(device: torch.device) -> float:
    """What `device` does in a 3x3 convolution, in the precision that training uses; some tenths of a second. On GPUs it is a large one, or
    the time would be that of launching it."""
    width, side = (512, 64) if device.type == "cuda" else (128, 32)
    layer = nn.Conv2d(width, width, 3, padding=1).to(device).to(memory_format=torch.channels_last)
    image = torch.randn(8, width, side, side, device=device).contiguous(memory_format=torch.channels_last)
    with torch.no_grad(), fast_inference(device):
        wait = partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None
        count, seconds = 4, 0.0
        while seconds < 0.1:  # a GPU is done with a few before they are all launched
            layer(image)
            wait()
            count, start = 2 * count, time.perf_counter()
            for _ in range(count):
                layer(image)
            wait()
            seconds = time.perf_counter() - start
    return count * len(image) * 2 * width**2 * 9 * side**2 / seconds / 1e12
