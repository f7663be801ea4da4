"""`polypforge bench`: fair turns, honest ratios, and alternatives that do the same work."""

import json
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from polypforge.core.errors import UserError
from polypforge.core.types import Request
from polypforge.data.folder import read_data_set, write_data_set
from polypforge.models.locate import locate
from polypforge.phantom.render import render
from polypforge.recipes import Job, load_recipe
from polypforge.recipes.forge.recipe import Forge
from polypforge.training.config import TrainingConfig
from polypforge.workflows.bench import CONTESTS, bench
from polypforge.workflows.bench.contest import Contest, Side, Timed
from polypforge.workflows.bench.sampling import plain_forge
from polypforge.workflows.bench.training import plain_training
from tests.conftest import TINY, wake


def test_a_ratio_is_of_seconds_an_item_and_sides_take_turns(monkeypatch):
    clock, order = [0.0], []
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def working(name, seconds):
        def run():
            order.append(name)
            clock[0] += seconds

        return run

    timed = Timed(Contest("c", "a thing", [Side("ours", working("ours", 2.0), 8, tflop=1.0), Side("theirs", working("theirs", 1.0), 1)]))
    for k in range(4):
        timed.round(counts=k > 0)
    ours, theirs = timed.rows()
    assert order == ["ours", "theirs"] * 4 and theirs["rounds"] == 3
    assert ours["seconds"] == 0.25 and "ratio" not in ours and ours["tflops"] == 4.0
    assert theirs["ratio"] == pytest.approx(4.0) and theirs["interval"] == pytest.approx([4.0, 4.0])


@pytest.mark.slow
def test_the_plain_loop_draws_what_the_recipe_draws():
    """Other steps of the same equation from the same noise: with many steps both come to the same picture."""
    recipe = load_recipe(locate("starter:forge"))
    fine = Forge(replace(recipe.config, base_steps=60), recipe.base, recipe.detail).eval()
    case = render(1, 256, polyps=1)
    ask = [Job(Request("a", "polyp", ((80, 80), (170, 80), (170, 170), (80, 170)), seed), case) for seed in (1, 2)]
    ours, other = (c.image.astype(int) for c in fine.generate(ask))
    (plain,) = plain_forge(fine, ask[:1], steps=100)
    assert np.abs(ours - plain.image).mean() < 0.35 * np.abs(other - plain.image).mean()


def test_the_plain_training_loop_learns(polyps, tmp_path):
    write_data_set(tmp_path / "data", polyps[:4])
    torch.manual_seed(0)
    model = Forge(TINY)
    wake(model)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    plain_training(
        model, model.prepare(polyps[:4]), read_data_set(tmp_path / "data"), tmp_path / "plain.pt", TrainingConfig(max_steps=2, batch_size=4)
    )
    assert any(not torch.equal(v, before[k]) for k, v in model.state_dict().items()) and (tmp_path / "plain.pt").stat().st_size > 1000


@pytest.mark.slow
def test_every_contest_runs_and_an_interrupted_bench_goes_on(tmp_path, monkeypatch):
    pytest.importorskip("denoising_diffusion_pytorch")
    small = {
        "sampling": {"PLAIN_STEPS": 2, "DDPM_STEPS": 20, "INPAINT_STEPS": 2}, "training": {"STEPS": 1, "BATCH": 16}, "proposals": {"REFERENCES": 12, "FRAMES": 2},
        "measures": {"COUNT": 4}, "gating": {"CASES": 2},
        "growth": {"BATCHES": (1, 2), "SIDES_PX": (96, 128), "COUNTS": (2, 4), "PICTURES": (20, 40), "REPEATS": 1},
    }  # fmt: skip
    for module, values in small.items():
        for name, value in values.items():
            monkeypatch.setattr(f"polypforge.workflows.bench.{module}.{name}", value)
    first = bench(tmp_path / "b", ["loading"], rounds=2, side_px=96, batch_size=2, device="cpu")
    assert [r["contest"] for r in first["rows"]] == ["loading", "loading"]
    kept = (tmp_path / "b" / "contests" / "loading.json").read_bytes()
    result = bench(tmp_path / "b", rounds=2, side_px=96, batch_size=2, device="cpu")
    assert {r["contest"] for r in result["rows"]} == set(CONTESTS) and len(result["growth"]) == 4
    assert (tmp_path / "b" / "contests" / "loading.json").read_bytes() == kept
    for row in result["rows"]:
        assert row["seconds"] > 0 and ("ratio" not in row or row["interval"][0] <= row["ratio"] <= row["interval"][1])
    text = (tmp_path / "b" / "bench.md").read_text()
    assert all(row["side"] in text for row in result["rows"]) and (tmp_path / "b" / "growth.png").stat().st_size > 10_000
    assert json.loads((tmp_path / "b" / "bench.json").read_text())["rows"] == result["rows"]


def test_a_library_that_is_missing_is_named_or_its_contest_left_out(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "denoising_diffusion_pytorch", None)
    with pytest.raises(UserError, match="needs 'denoising_diffusion_pytorch'"):
        bench(tmp_path / "a", ["sampling_ddpm"], rounds=2, side_px=96, device="cpu")
    for name in set(CONTESTS) - {"sampling_ddpm", "training_ddpm"}:
        monkeypatch.delitem(CONTESTS, name)
    monkeypatch.setattr("polypforge.workflows.bench.run.growth", lambda setting: iter(()))
    assert bench(tmp_path / "b", rounds=2, side_px=96, device="cpu")["rows"] == []


@pytest.mark.parametrize(
    ("names", "more", "words"),
    [(["flying"], {}, "no contest 'flying'"), ([], {"rounds": 1}, "at least 2 rounds"), ([], {"side_px": 8}, "64 to 2048")],
)
def test_bad_options_get_one_sentence(tmp_path, names, more, words):
    with pytest.raises(UserError, match=words):
        bench(tmp_path / "b", names, **more)
    assert not (tmp_path / "b").exists()


def test_another_setting_needs_another_folder(tmp_path, monkeypatch):
    monkeypatch.setitem(CONTESTS, "loading", lambda setting: Contest("loading", "x", [Side("a", list, 1), Side("b", list, 1)]))
    bench(tmp_path / "b", ["loading"], rounds=2, side_px=96, device="cpu")
    with pytest.raises(UserError, match="rounds = 2"):
        bench(tmp_path / "b", ["loading"], rounds=3, side_px=96, device="cpu")
