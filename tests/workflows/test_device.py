"""Only devices that are there, and that the project knows, are accepted."""

import pytest
import torch

from polypforge.core.errors import UserError
from polypforge.workflows.device import device_of


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
