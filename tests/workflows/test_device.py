"""Only devices that are there, and that the project knows, are accepted."""

import pytest
import torch

from polypforge.core.errors import UserError
from polypforge.workflows.device import device_here, device_of, tell_format


def test_devices_are_checked(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of("auto") == device_of("cpu") == "cpu"
    for name, words in (
        ("cuda", "no GPU"),
        ("cuda:1", "no GPU"),
        ("meta", "choose auto"),
        ("mps", "choose auto"),
        ("cpu:3", "choose auto"),
    ):
        with pytest.raises(UserError, match=words):
            device_of(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_of("auto") == "cuda" and device_of("cuda:1") == "cuda:1"
    with pytest.raises(UserError, match="2 GPUs, numbered from 0"):
        device_of("cuda:2")


def test_a_device_without_bf16_is_told_once(monkeypatch, capsys):
    tell_format.cache_clear()
    monkeypatch.setattr("polypforge.workflows.device.has_fast_bf16", lambda device: False)
    tell_format("cpu")
    tell_format("cpu")
    assert capsys.readouterr().err.count("no bf16 units: it computes in float32") == 1
    tell_format.cache_clear()
    monkeypatch.setattr("polypforge.workflows.device.has_fast_bf16", lambda device: True)
    tell_format("cpu")
    assert capsys.readouterr().err == ""


def test_a_cluster_may_have_what_this_machine_has_not(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [device_here(name, "ray") for name in ("auto", "cpu", "cuda")] == ["cpu"] * 3
    with pytest.raises(UserError, match="no GPU"):
        device_here("cuda", "local")
    for name in ("gpu", "cuda:1"):
        with pytest.raises(UserError, match="with --engine ray choose auto, cpu or cuda"):
            device_here(name, "ray")
