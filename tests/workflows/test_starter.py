"""What `polypforge starter` trains, with the trainings themselves left out."""

from dataclasses import replace

import pytest

from polypforge.models.locate import starter_names
from polypforge.workflows import starter
from polypforge.workflows.train import read_settings


@pytest.fixture
def trained(monkeypatch, tmp_path):
    """Calls of `train`; `settings` changes what configurations say, and names what Ctrl-C stops."""
    calls, settings = {}, {}

    def train(kind, data, out, assignments=(), budget_seconds=None, start=None, device="auto"):
        calls[out.name] = {"data": len(data), "budget": budget_seconds, "steps": [a for a in assignments if "max_steps" in a]}
        if kind == settings.get("stopped"):
            raise KeyboardInterrupt

    def distill(data, out, model, budget_seconds, device):
        calls[out.name] = {"data": list(data), "model": model, "budget": budget_seconds}

    def read(*rest):
        *others, training, phantom = read_settings(*rest)
        return *others, replace(training, **settings.get("training", {})), phantom

    monkeypatch.setattr(starter, "train", train)
    monkeypatch.setattr(starter, "read_settings", read)
    monkeypatch.setattr(starter, "distill", distill)
    monkeypatch.setattr(starter, "pack_starter", lambda *_: {"packed": True})
    for name in starter.SETS:
        (tmp_path / name).mkdir()
    return calls, settings, tmp_path


def test_every_shipped_network_is_trained_and_one_sees_no_patient(trained):
    calls, _, data = trained
    assert starter.build_starter(data, data / "out", budget_share=0.5) == {"packed": True}
    assert sorted(calls) == sorted([*starter_names(), "forge-leap"])
    assert {name for name, call in calls.items() if not call["data"]} == {"lesion_segmenter"}
    assert calls["forge-leap"]["model"] == str(data / "out" / "forge") and calls["forge-leap"]["budget"] == 750
    assert calls["lesion_segmenter"]["steps"] == ["training.max_steps=1500"] and calls["forge"]["budget"] == 1525


def test_steps_may_end_a_training_in_place_of_time(trained):
    calls, settings, data = trained
    settings["training"] = {"budget_seconds": None, "max_steps": 40}
    assert starter.build_starter(data, data / "out")["packed"]
    assert calls.pop("forge-leap")["budget"] == starter.DISTILL_SECONDS
    assert all(call["budget"] is None and call["steps"] == ["training.max_steps=40"] for call in calls.values())


def test_an_interrupted_training_interrupts_all(trained):
    calls, settings, data = trained
    settings["stopped"] = "window_segmenter"
    with pytest.raises(KeyboardInterrupt):
        starter.build_starter(data, data / "out")
    assert "window_segmenter" in calls and "forge" not in calls
