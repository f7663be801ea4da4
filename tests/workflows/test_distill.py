"""`distill`: few steps that come nearer to many, for given weights, without touching them."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import polypforge.recipes.forge.distill as stage
import polypforge.workflows.distill as workflow
from polypforge.core.errors import UserError
from polypforge.core.files import sha256_of
from polypforge.data.folder import write_data_set
from polypforge.recipes import Job, load_recipe
from polypforge.recipes.copy_paste.recipe import CopyPaste, CopyPasteConfig
from polypforge.recipes.forge.recipe import Forge
from polypforge.workflows.distill import distill
from polypforge.workflows.finetune import finetune
from polypforge.workflows.generate import generate_cases
from polypforge.workflows.opened import open_checked
from polypforge.workflows.plan import make_planner
from tests.command_line import polypforge
from tests.conftest import TINY


@pytest.fixture
def given(tiny_forge, polyps, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "MANY", 12)
    monkeypatch.setattr("polypforge.diffusion.solver.ROUNDS", 4)
    write_data_set(tmp_path / "data", polyps[:4])
    tiny_forge.save_pretrained(tmp_path / "model")
    return tmp_path


def test_few_steps_come_nearer_to_many_and_the_weights_stay(given):
    found = distill(given / "data", given / "out", model=str(given / "model"), steps=(3, 2), num=4, device="cpu")
    assert [f["steps"] for f in found["fitted"]] == [2, 3]
    assert all(f["distance"] <= f["plain"] for f in found["fitted"]) and any(f["distance"] < f["plain"] for f in found["fitted"])
    before, after = load_recipe(given / "model"), load_recipe(given / "out" / "model")
    files = {f.relative_to(given / "model") for f in (given / "model").rglob("*.safetensors")}
    assert files and all(sha256_of(given / "model" / f) == sha256_of(given / "out" / "model" / f) for f in files)
    assert [s.steps for s in after.config.few_steps] == [2, 3]
    opened = open_checked(given / "data", min_cases=1)
    requests = make_planner(opened, opened.loader(), 5, before).requests(0)
    jobs = [Job(r, opened.loader()(r.background)) for r in requests]
    images = {}
    for name, recipe in (("before", before), ("after", after)):
        for steps in (2, 3, 5):
            recipe.set_steps(steps)
            images[name, steps] = recipe.generate(jobs)[0].image
    assert any((images["before", steps] != images["after", steps]).any() for steps in (2, 3))
    assert np.abs(images["before", 5].astype(int) - images["after", 5]).max() <= 1


def test_it_goes_on_behind_what_it_found_and_may_be_asked_for_more(given, monkeypatch):
    options = {"model": str(given / "model"), "num": 2, "device": "cpu"}

    def stopped(config, base, jobs, steps, tell):
        yield from stage.distilled(config, base, jobs, steps[:1], tell)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(workflow, "distilled", stopped)
        with pytest.raises(KeyboardInterrupt):
            distill(given / "data", given / "out", steps=(2, 3), **options)
    first = sha256_of(given / "out" / "solver-2.json")
    assert not (given / "out" / "model").exists()
    fitted = []

    def listed(config, base, jobs, steps, tell):
        fitted.extend(steps)
        yield from stage.distilled(config, base, jobs, steps, tell)

    monkeypatch.setattr(workflow, "distilled", listed)
    distill(given / "data", given / "out", steps=(2, 3), **options)
    assert fitted == [3] and sha256_of(given / "out" / "solver-2.json") == first
    with pytest.raises(UserError, match="holds a run with num = 2, not 3"):
        distill(given / "data", given / "out", **options | {"num": 3})


def test_what_was_distilled_draws_and_is_kept_when_more_is_asked_for(given):
    distill(given / "data", given / "out", model=str(given / "model"), steps=(2,), num=2, device="cpu")
    made = generate_cases(given / "data", given / "cases", model=str(given / "out"), num=2, steps=2, device="cpu")
    assert made["made"] >= 2
    for out, model in (("out", "model"), ("more", "out")):  # into the same folder, and from its weights into another
        distill(given / "data", given / out, model=str(given / model), steps=(3,), num=2, device="cpu")
        assert [s.steps for s in load_recipe(given / out / "model").config.few_steps] == [2, 3]


def test_weights_that_are_trained_on_draw_in_plain_steps_again(given):
    distill(given / "data", given / "out", model=str(given / "model"), steps=(2,), num=2, device="cpu")
    opened = open_checked(given / "data", min_cases=1)
    tuned = finetune(given / "out" / "model", opened, given / "tuned", 1.0, 0, "cpu")
    assert load_recipe(tuned).config.few_steps == ()
    stored = [json.loads(f.read_text()) for f in tuned.rglob("config.json")]
    assert len(stored) > 3 and not any("_name_or_path" in s for s in stored)  # of the machine that trained


@pytest.mark.parametrize(
    ("steps", "num", "message"),
    [((1,), 4, "2 to 8"), ((9,), 4, "2 to 8"), ((), 4, "2 to 8"), ((2,), 0, "--num 0"), ((2,), 999, "--num 999")],
)
def test_impossible_numbers_leave_nothing(given, steps, num, message):
    with pytest.raises(UserError, match=message):
        distill(given / "data", given / "out", model=str(given / "model"), steps=steps, num=num)
    assert not (given / "out").exists()


def test_other_weights_and_edited_results_are_named(given):
    CopyPaste(CopyPasteConfig()).save_pretrained(given / "paste")
    with pytest.raises(UserError, match="weights of copy_paste: only those of forge"):
        distill(given / "data", given / "out", model=str(given / "paste"))
    for inside in ("data", "model"):
        with pytest.raises(UserError, match="inside each other"):
            distill(given / "data", given / inside / "out", model=str(given / "model"))
    distill(given / "data", given / "out", model=str(given / "model"), steps=(2,), num=2, device="cpu")
    kept = given / "out" / "solver-2.json"
    values = json.loads(kept.read_text())
    values["solver"]["sigmas"][0] = 0.0
    kept.write_text(json.dumps(values))
    shutil.rmtree(given / "out" / "model")
    with pytest.raises(UserError, match="solver-2.json: solver: the sigmas of a solver fall"):
        distill(given / "data", given / "out", model=str(given / "model"), steps=(2,), num=2, device="cpu")


def test_the_command(given, capsys):
    words = ("distill", given / "data", "--out", given / "out", "--model", given / "model", "--steps", "2", "--num", "2")
    assert polypforge(*words) in (0, None)
    shown = capsys.readouterr()
    assert "2 steps: " in shown.out and str(given / "out" / "model") in shown.out and "min at most" in shown.err
    assert polypforge(*words, "--json") in (0, None)
    assert json.loads(capsys.readouterr().out)["fitted"][0]["steps"] == 2


def test_weights_that_learned_a_leap_last_are_trained_on_as_stages(given):
    leaping = Forge(replace(TINY, base_px=32, detail_px=128, leap_rank=2, learns=("leap",)))
    leaping.save_pretrained(given / "leaping")
    opened = open_checked(given / "data", min_cases=1)
    tuned = load_recipe(finetune(given / "leaping", opened, given / "tuned", 1.0, 0, "cpu"))
    assert tuned.leap is None and tuned.config.learns == ("base", "detail")
    before, after = leaping.base.state_dict(), tuned.base.state_dict()
    assert any(not torch.equal(before[k], after[k]) for k in before)
