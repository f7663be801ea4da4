"""What a command says of the device, checked: its name, and how much it takes at once."""

from __future__ import annotations

import re
from functools import cache

import torch

from polypforge.core.console import console
from polypforge.core.errors import UserError
from polypforge.models.precision import has_fast_bf16


def refuse_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise UserError(f"--batch-size is {batch_size}: it must be at least 1.")


def device_of(name: str) -> str:
    """The device that `name` means; "auto" is the GPU when there is one. Raises UserError for a device that isn't there."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise UserError(f"--device {name}: choose auto, cpu, cuda or cuda:N.")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"--device {name}: this machine has no GPU that PyTorch can use; leave the option out.")
    count = torch.cuda.device_count()
    if name.startswith("cuda:") and int(name.removeprefix("cuda:")) >= count:
        raise UserError(f"--device {name}: this machine has {count} GPUs, numbered from 0.")
    return name


def device_here(name: str, engine: str) -> str:
    """The device of this process, which may lack what an engine's workers have. Raises UserError for a device that can't be meant."""
    if engine == "local":
        return device_of(name)
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"--device {name}: with --engine {engine} choose auto, cpu or cuda.")
    return device_of("cpu" if name == "cpu" else "auto")


@cache
def tell_format(device: str) -> None:
    """Once: that the device is slower than it might be, where it has no bf16."""
    kind = torch.device(device)
    if not has_fast_bf16(kind):
        console.print(
            f"This {'CPU' if kind.type == 'cpu' else 'GPU'} has no bf16 units: it computes in float32, two to three times as long."
        )
