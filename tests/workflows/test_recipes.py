"""`expand --recipe NAME` for recipes that have no shipped weights: trained on the data first, in seconds here."""

import json

import pytest
import torch

from polypforge.core.errors import UserError
from polypforge.data.folder import write_data_set
from polypforge.data.layouts import open_source
from polypforge.phantom.render import render
from polypforge.recipes import RECIPES, load_recipe
from polypforge.training.loop import Trainer
from polypforge.workflows.expand import expand
from polypforge.workflows.export_cases import plain_name
from polypforge.workflows.generate import generate_cases
from polypforge.workflows.generator import generator_source
from polypforge.workflows.train import train
from tests.command_line import polypforge

TRAINED = [n for n in RECIPES if n not in ("forge", "folder", "copy_paste", "graft")]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "phantom"
    write_data_set(folder, [render(8100 + i, 200, polyps=1) for i in range(14)])
    return folder


@pytest.mark.parametrize(("name", "least"), [("copy_paste", 3), ("graft", 1)])
def test_recipes_without_training_expand(name, least, data, tmp_path):
    result = expand(data, tmp_path / "out", 4, recipe=name, device="cpu")
    assert result.accepted >= least and result.report.is_file()
    rows = [json.loads(line) for line in (tmp_path / "out" / "metadata.jsonl").read_text().splitlines()]
    made = [p for p in (json.loads(r["provenance"] or "{}") for r in rows) if "request" in p]
    assert len(made) == result.accepted and all(p["recipe"] == name for p in made)
    assert all(p["donor"] != p["request"]["background"] and p["donor"] for p in made)  # whose lesion it is
    shared = result.report.read_text() + (tmp_path / "out" / "metadata.jsonl").read_text()
    assert str(tmp_path) not in shared and str(data.parent) not in shared  # paths name people and places
    folders = [p.relative_to(tmp_path / "out") for p in (tmp_path / "out").rglob("*") if p.is_dir()]
    assert not [p for p in folders if any(plain_name(part) != part for part in p.parts)]  # Hugging Face takes `train` for a split
    again = expand(data, tmp_path / "out", 4, recipe=name, device="cpu")
    assert again.accepted == result.accepted and again.made == result.made


def test_expand_follows_a_wish_and_refuses_senseless_ones(data, tmp_path):
    expand(data, tmp_path / "out", 3, recipe="copy_paste", want="balance size", device="cpu")
    asked = [json.loads(line)["attributes"]["size"] for line in (tmp_path / "out" / "work" / "requests.jsonl").read_text().splitlines()]
    assert {"small" if s < 0.15 else "medium" if s < 0.3 else "large" for s in asked[:3]} == {"small", "medium", "large"}
    with pytest.raises(UserError, match="is not understood"):
        expand(data, tmp_path / "other", 3, want="nicer ones")
    with pytest.raises(UserError, match="draws whole frames"):
        expand(data, tmp_path / "other", 3, recipe="polyp_ddpm", want="match")
    assert not (tmp_path / "other").exists()


def test_a_training_that_was_stopped_is_no_result_and_goes_on(data, tmp_path, monkeypatch):
    small = [
        "model.steps=2",
        "training.batch_size=2",
        "training.validate_every=0",
        "training.preview_every=0",
        "training.budget_seconds=null",
    ]
    step = Trainer._step

    def stopped(self, batches):
        self.stop_asked = self.progress.step == 1
        return step(self, batches)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Trainer, "_step", stopped)
        train("polyp_ddpm", [data], tmp_path / "run", assignments=[*small, "training.max_steps=3"], device="cpu")
    assert (tmp_path / "run" / "checkpoints").is_dir() and not (tmp_path / "run" / "result.json").exists()
    assert train("polyp_ddpm", [data], tmp_path / "run", assignments=[*small, "training.max_steps=3"], device="cpu")["step"] == 3


def test_pairs_of_an_outside_generator_pass_the_same_gate(data, tmp_path):
    pairs = tmp_path / "pairs"
    write_data_set(pairs, [render(8300 + i, 200, polyps=1) for i in range(6)])
    result = expand(data, tmp_path / "out", 5, recipe="folder", model=str(pairs), device="cpu")
    assert result.made <= 6 and result.accepted + sum(result.reasons.values()) == result.made
    for model, said in ((None, "--model DIR"), (str(tmp_path / "typo"), "typo: no such folder")):
        with pytest.raises(UserError, match=said):
            expand(data, tmp_path / "other", 5, recipe="folder", model=model)
    assert not (tmp_path / "other").exists()


FEW_STEPS = {
    "cond_polyp_diff": ["model.mask_steps=3", "model.image_steps=3", "model.min_thickness_px=1"],
    "polyp_ddpm": ["model.steps=4"],
    "diffuse_gen": ["model.steps=6", "model.jump_length=2", "model.resamples=1", "model.styling.start=3"],
    "singan_seg": ["model.images=4", "model.size_px=64"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_every_recipe_trains_and_expands_from_the_command_line(name, data, tmp_path, capsys):
    run, out = tmp_path / "run", tmp_path / "out"
    small = ["training.batch_size=2", "training.validation_examples=4", "training.max_steps=2", *FEW_STEPS.get(name, ["model.steps=3"])]
    sets = [word for assignment in small for word in ("--set", assignment)]
    for command in (
        ["train", name, "--data", str(data), "--out", str(run), *sets],
        ["expand", str(data), "--model", str(run), "--recipe", name, "--out", str(out), "--num", "1", "--json"],
    ):
        capsys.readouterr()
        assert polypforge(*command, "--device", "cpu") == 0
    assert json.loads(capsys.readouterr().out)["made"] >= 1 and (out / "report.html").is_file()
    assert list((run / "previews").glob("*.png")) or name == "blended_latent"


def test_a_recipe_without_weights_is_trained_first(data, tmp_path):
    result = expand(data, tmp_path / "out", 1, recipe="singan_seg", budget_seconds=3, device="cpu")
    assert result.made >= 1 and (tmp_path / "out" / "work" / "learned" / "model" / "config.json").is_file()


def test_a_training_run_of_a_recipe_resumes_and_feeds_generate(data, tmp_path):
    run, small = tmp_path / "run", ["training.batch_size=2", "training.preview_every=0", "training.validation_examples=4"]
    first = train(
        "polyp_ddpm",
        [data],
        run,
        assignments=[*small, "training.max_steps=2", "training.budget_seconds=null", "model.steps=4"],
        device="cpu",
    )
    more = train(
        "polyp_ddpm",
        [data],
        run,
        assignments=[*small, "training.max_steps=3", "training.budget_seconds=null", "model.steps=4"],
        device="cpu",
    )
    assert (first["step"], more["step"]) == (2, 3)
    made = generate_cases(data, tmp_path / "made", model=str(run), num=2, device="cpu")
    assert made["cases"] == 2
    fewer = {"model": str(run), "num": 2, "device": "cpu", "steps": 2}
    assert generate_cases(data, tmp_path / "fewer", **fewer)["cases"] == 2
    assert {c.provenance["steps"] for c in open_source(tmp_path / "fewer")} == {2}
    with pytest.raises(UserError, match="steps = 2"):
        generate_cases(data, tmp_path / "fewer", **fewer | {"steps": 3})


def test_training_sets_out_from_given_weights(data, tiny_forge, tmp_path):
    tiny_forge.save_pretrained(tmp_path / "first")
    shape = json.loads((tmp_path / "first" / "config.json").read_text())["config"]
    config = tmp_path / "tiny.yaml"
    training = {"max_steps": 1, "batch_size": 2, "validation_examples": 2, "preview_every": 0, "learning_rate": 1e-9, "ema_decay": 0.5}
    config.write_text(json.dumps({"model": shape | {"learns": ["base"]}, "training": training}))  # JSON is YAML, too
    given = {"config": config, "device": "cpu", "start": str(tmp_path / "first")}
    train("forge", [data], tmp_path / "run", **given)
    made = load_recipe(tmp_path / "run" / "model").state_dict()
    assert all(torch.allclose(made[k], v, atol=1e-5) for k, v in tiny_forge.state_dict().items())
    with torch.no_grad():
        tiny_forge.base.embedding.layers[0].bias += 1
    tiny_forge.save_pretrained(tmp_path / "second")
    with pytest.raises(UserError, match="start"):  # other weights to set out from make another run
        train("forge", [data], tmp_path / "run", **given | {"start": str(tmp_path / "second")})
    with pytest.raises(UserError, match="another shape"):
        train("forge", [data], tmp_path / "other", **given | {"start": "starter:forge"})
    with pytest.raises(UserError, match="no weights of forge"):
        train("forge", [data], tmp_path / "other", **given | {"start": "starter:window_segmenter"})
    with pytest.raises(UserError, match="private training can't set out"):
        train("forge", [data], tmp_path / "other", assignments=["training.privacy={}"], **given)
    assert not (tmp_path / "other").exists()


def test_which_generator_is_meant(data, tmp_path):
    assert generator_source(None, None).model == "starter:forge"
    assert generator_source("forge", None).folder is not None
    assert generator_source("polyp_gen", None).folder is None
    with pytest.raises(UserError, match="holds weights of forge, not of diffaug"):
        generator_source("diffaug", "starter:forge")
    with pytest.raises(UserError, match="no recipe 'gan'"):
        generator_source("gan", None)
    with pytest.raises(UserError, match="is no generator"):
        generator_source(None, "starter:window_segmenter")


def test_a_recipe_that_cannot_remove_is_asked_for_no_removal(data, tmp_path):
    train("copy_paste", [data], tmp_path / "run", device="cpu")
    requests = tmp_path / "requests.jsonl"
    name = json.loads((data / "metadata.jsonl").read_text().splitlines()[0])["image_file_name"].split("/")[-1].removesuffix(".png")
    requests.write_text(json.dumps({"background": name, "label": "normal", "region": [[40, 40], [90, 40], [90, 90]], "seed": 1}) + "\n")
    with pytest.raises(UserError, match="asks for normal tissue, which copy_paste can't draw"):
        generate_cases(data, tmp_path / "made", model=str(tmp_path / "run"), requests_file=requests, device="cpu")
