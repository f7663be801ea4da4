"""`distill`: weights learn to draw in few steps, and stay as they are in many."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from polypforge.core.errors import UserError
from polypforge.core.files import sha256_of
from polypforge.data.folder import write_data_set
from polypforge.phantom.render import render
from polypforge.recipes import Job, load_recipe
from polypforge.recipes.copy_paste.recipe import CopyPaste, CopyPasteConfig
from polypforge.recipes.forge.leap import MOST_LEAPT
from polypforge.recipes.forge.recipe import Forge
from polypforge.workflows.distill import RANK, distill
from polypforge.workflows.finetune import finetune
from polypforge.workflows.opened import open_checked
from polypforge.workflows.plan import make_planner
from tests.command_line import polypforge
from tests.conftest import TINY, wake

SECOND = {"budget_seconds": 1.0, "device": "cpu"}


@pytest.fixture
def given(polyps, tmp_path):
    write_data_set(tmp_path / "data", polyps[:4])
    torch.manual_seed(0)
    recipe = Forge(replace(TINY, base_px=32, detail_px=128, base_steps=9, glints=0.3, turned=0.6))
    wake(recipe)
    recipe.save_pretrained(tmp_path / "model")
    return tmp_path


def test_few_steps_are_learned_and_many_stay(given):
    result = distill([given / "data"], given / "out", model=str(given / "model"), **SECOND)
    assert result["step"] > 0 and result["model"] == str(given / "out" / "model")
    before, after = load_recipe(given / "model"), load_recipe(given / "out" / "model")
    assert after.config == replace(before.config, leap_rank=RANK, base_steps=MOST_LEAPT)  # all else is the model's own
    own = after.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in before.state_dict().items())
    assert any(factor.abs().max() > 0 for factor in after.leap.up.values())
    opened = open_checked(given / "data", min_cases=1)
    jobs = [Job(r, opened.loader()(r.background)) for r in make_planner(opened, opened.loader(), 5, before).requests(0)]
    images = {}
    for name, recipe in (("before", before), ("after", after)):
        for steps in (1, MOST_LEAPT, 9):
            recipe.set_steps(steps)
            images[name, steps] = recipe.generate(jobs)[0].image.astype(int)
    assert all((images["before", steps] != images["after", steps]).any() for steps in (1, MOST_LEAPT))
    assert np.abs(images["before", 9] - images["after", 9]).max() <= 1


def test_the_same_call_is_through_at_once_and_a_longer_one_learns_on(given):
    options = {"model": str(given / "model"), "device": "cpu"}
    first = distill([given / "data"], given / "out", budget_seconds=1.0, **options)["step"]
    digest = sha256_of(given / "out" / "model" / "leap.safetensors")
    assert distill([given / "data"], given / "out", budget_seconds=1.0, **options)["step"] == first
    assert sha256_of(given / "out" / "model" / "leap.safetensors") == digest
    assert distill([given / "data"], given / "out", budget_seconds=2.0, **options)["step"] > first
    with pytest.raises(UserError, match="holds a run with"):
        distill([given / "data"], given / "out", budget_seconds=2.0, seed=1, **options)


def test_a_leap_learns_on_from_where_it_is(given):
    distill([given / "data"], given / "out", model=str(given / "model"), **SECOND)
    again = distill([given / "data"], given / "more", model=str(given / "out"), budget_seconds=0.001, device="cpu")
    old, new = load_recipe(given / "out" / "model").leap.state_dict(), load_recipe(given / "more" / "model").leap.state_dict()
    near = sum(float((old[k] - new[k]).norm()) for k in old) / sum(float(v.norm()) for v in old.values())
    assert again["step"] == 1 and near < 0.1


def test_weights_that_are_trained_on_draw_in_plain_steps_again(given):
    distill([given / "data"], given / "out", model=str(given / "model"), **SECOND)
    tuned = load_recipe(finetune(given / "out" / "model", open_checked(given / "data", min_cases=1), given / "tuned", 1.0, 0, "cpu"))
    assert tuned.leap is None and tuned.config.learns == ("base", "detail")
    assert tuned.config.base_steps == type(tuned.config).base_steps > MOST_LEAPT
    before, after = load_recipe(given / "model").base.state_dict(), tuned.base.state_dict()
    assert any(not torch.equal(before[k], after[k]) for k in before)
    stored = [json.loads(f.read_text()) for f in (given / "tuned").rglob("config.json")]
    assert len(stored) > 3 and not any("_name_or_path" in s for s in stored)  # of the machine that trained


def test_what_cannot_be_distilled_is_named_and_leaves_nothing(given, tiny_forge):
    CopyPaste(CopyPasteConfig()).save_pretrained(given / "paste")
    tiny_forge.save_pretrained(given / "small")
    tiny_forge.config = replace(tiny_forge.config, base_px=32, detail_px=128, guidance=2.0)
    tiny_forge.save_pretrained(given / "guided")
    refused = {
        "paste": "weights of copy_paste: only those of forge",
        "small": "small can't be distilled: base_px must be",
        "guided": "guided draws with guidance 2, of which few steps know nothing",
    }
    for model, said in refused.items():
        with pytest.raises(UserError, match=said):
            distill([given / "data"], given / "out", model=str(given / model), **SECOND)
    write_data_set(given / "normal", [render(i, 128, polyps=0) for i in range(4)])
    with pytest.raises(UserError, match="normal: no training case shows a lesion for forge to learn from"):
        distill([given / "normal"], given / "out", model=str(given / "model"), **SECOND)
    with pytest.raises(UserError, match="inside each other"):
        distill([given / "data"], given / "model" / "out", model=str(given / "model"), **SECOND)
    with pytest.raises(UserError, match="budget_seconds"):
        distill([given / "data"], given / "out", model=str(given / "model"), budget_seconds=0.0, device="cpu")
    assert not (given / "out").exists()


def test_the_command(given, capsys):
    words = ("distill", given / "data", "--out", given / "out", "--model", given / "model", "--budget", "1s")
    assert polypforge(*words) in (0, None)
    shown = capsys.readouterr()
    assert "validation" in shown.out and str(given / "out" / "model") in shown.out and "min of training" in shown.err
    assert polypforge(*words, "--json") in (0, None)
    assert json.loads(capsys.readouterr().out)["step"] > 0
