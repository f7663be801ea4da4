"""Which number format and which memory layout run fast and safely on a device."""

from __future__ import annotations

import platform
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn


def has_fast_bf16(device: torch.device) -> bool:
    """True on GPUs with bf16 units and on CPUs with bf16 instructions (AVX-512 BF16, AMX)."""
    if device.type == "cuda":
        return torch.version.hip is not None or torch.cuda.get_device_capability(device)[0] >= 8  # older ones emulate it
    if device.type != "cpu" or not torch.backends.mkldnn.is_available() or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return not x86 or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()  # oneDNN emulates it with AVX-512 alone


def fast_format(device: torch.device) -> str:
    """The name of what `fast_inference` computes in."""
    return "bf16" if has_fast_bf16(device) else "float32"


def fast_inference(device: torch.device) -> AbstractContextManager:
    """Autocast to bf16 where that is faster; float32 elsewhere."""
    return torch.autocast(device.type, torch.bfloat16) if has_fast_bf16(device) else nullcontext()


def fast_layout(net: nn.Module, device: torch.device) -> torch.memory_format:
    """channels_last; on CPUs not for networks with group normalisation, which PyTorch (2.15) does up to 30 times slower in that layout."""
    grouped = device.type == "cpu" and any(isinstance(m, nn.GroupNorm) for m in net.modules())
    return torch.contiguous_format if grouped else torch.channels_last
