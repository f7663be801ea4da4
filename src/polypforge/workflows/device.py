"""Names of devices, checked."""

from __future__ import annotations

import torch

from polypforge.core.errors import UserError


def device_of(name: str) -> str:
    """The device that `name` means; "auto" is the GPU when there is one. Raises UserError for a device that isn't there."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError("--device cuda: this machine has no GPU that PyTorch can use; leave the option out.")
    try:
        torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name}: choose auto, cpu or cuda.") from None
    return name
