"""bf16 where there are instructions for it, not where it is emulated."""

import platform
from types import SimpleNamespace

import pytest
import torch

from polypforge.models import precision


@pytest.mark.parametrize(("own", "tiles", "fast"), [(False, False, False), (True, False, True), (False, True, True)])
def test_processors_that_emulate_it_count_as_slow(monkeypatch, own, tiles, fast):
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch, "ops", SimpleNamespace(mkldnn=SimpleNamespace(_is_mkldnn_bf16_supported=lambda: True)))
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: own)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tiles)
    assert precision.has_fast_bf16(torch.device("cpu")) == fast
    assert precision.fast_format(torch.device("cpu")) == ("bf16" if fast else "float32")


@pytest.mark.parametrize(("capability", "fast"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_old_gpus_count_as_slow(monkeypatch, capability, fast):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert precision.has_fast_bf16(torch.device("cuda:1")) == fast
