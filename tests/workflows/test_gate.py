"""`gate` and `train --folds` from end to end, with tiny untrained models."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest

from polypforge.core.errors import UserError
from polypforge.core.files import write_jsonl
from polypforge.core.images import read_grey, write_png
from polypforge.core.types import POLYP, Request
from polypforge.data.folder import write_data_set
from polypforge.generation.writer import write_requests
from polypforge.phantom.render import render
from polypforge.quality.gates import Gatekeeper
from polypforge.workflows import gating
from polypforge.workflows.cross_fit import cross_fit, fold_of, shared_scenes
from polypforge.workflows.gate import gate_folder
from polypforge.workflows.generate import generate_cases
from polypforge.workflows.opened import open_checked


@pytest.fixture
def made(tiny_forge, tiny_segmenter, phantom_folder, tmp_path):
    tiny_forge.save_pretrained(tmp_path / "forge")
    tiny_segmenter.save_pretrained(tmp_path / "judge")
    generate_cases(phantom_folder, tmp_path / "made", model=str(tmp_path / "forge"), num=6)
    return tmp_path / "made", {"judges": [str(tmp_path / "judge")]}


def rows(folder, name):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_every_case_has_a_verdict_and_only_kept_ones_stay_listed(made):
    folder, judge = made
    result = gate_folder(folder, **judge)
    verdicts = rows(folder, "gate.jsonl")
    assert result["judged"] == 6 and result["kept"] == len(rows(folder, "metadata.jsonl"))
    assert all((v["reason"] == "") == v["kept"] and set(v["scores"]) >= {"label_agreement", "seam_colour"} for v in verdicts)
    assert result["real"]["lesions"] > 0 and set(result["thresholds"]) >= {"seam_gradient", "sharpness", "label_agreement"}


def test_what_is_generated_later_waits_for_the_gate(made, phantom_folder, tmp_path):
    folder, judge = made
    gate_folder(folder, **judge)
    listed = rows(folder, "metadata.jsonl")
    last = rows(folder, "requests.jsonl")[-1]["id"]
    (folder / "rows" / f"{last}.json").unlink()  # as if it had been interrupted before
    write_jsonl(folder / "gate.jsonl", [row for row in rows(folder, "gate.jsonl") if row["id"] != last])
    assert generate_cases(phantom_folder, folder, model=str(tmp_path / "forge"), num=6)["made"] == 1
    assert rows(folder, "metadata.jsonl") == [row for row in listed if last not in row["image_file_name"]]
    gate_folder(folder, **judge)
    assert rows(folder, "metadata.jsonl") == listed


def test_the_real_data_are_read_as_generate_read_them(tiny_forge, tiny_segmenter, phantoms, tmp_path):
    for case in phantoms[:4]:
        write_png(tmp_path / "frames" / f"{case.name}.png", case.image)
    tiny_forge.save_pretrained(tmp_path / "forge")
    tiny_segmenter.save_pretrained(tmp_path / "judge")
    request = Request("", POLYP, ((20, 20), (70, 20), (70, 70), (20, 70)), seed=1)
    write_requests(tmp_path / "asked.jsonl", [replace(request, background=phantoms[0].name)])
    asked = {"requests_file": tmp_path / "asked.jsonl", "layout": "normal"}
    generate_cases(tmp_path / "frames", tmp_path / "made", model=str(tmp_path / "forge"), **asked)
    assert gate_folder(tmp_path / "made", judges=[str(tmp_path / "judge")])["judged"] == 1


def test_other_thresholds_need_no_new_look(made, monkeypatch):
    folder, judge = made
    first = gate_folder(folder, **judge)
    see = Gatekeeper.see  # those that pass now are compared with the training data for the first time; judges have nothing to do
    monkeypatch.setattr(
        Gatekeeper, "see", lambda self, subjects, needs: see(self, subjects, needs) if needs == {"training"} else pytest.fail(str(needs))
    )
    everything = dict.fromkeys(
        ("lesion_drawn", "label_agreement", "missed_lesion", "in_view", "sharpness", "visible", "asked_agreement"), 0.0
    )
    everything |= dict.fromkeys(("own_outline", "removed"), 1.0)
    everything |= dict.fromkeys(
        ("extra_lesion", "seam_gradient", "seam_colour", "noise", "repetition", "clipping", "saturation"), 1000000000.0
    )
    everything |= {"sharpness": -1e9, "lesion_drawn": 1e-9}
    lax = gate_folder(folder, **judge, thresholds=everything)
    assert lax["kept"] >= first["kept"] and lax["kept"] == 6 - lax["failed"].get("repeats", 0)
    assert gate_folder(folder, **judge)["kept"] == first["kept"]


def test_without_real_lesions_gates_that_need_them_are_not_applied(made, phantom_folder, capsys):
    folder, judge = made
    (folder / "run.json").write_text(json.dumps({"command": "generate", "settings": {"data": "/nowhere"}}))
    result = gate_folder(folder, **judge)
    assert result["real"] is None and "seam_colour" not in result["thresholds"]
    assert "Not applied" in capsys.readouterr().err
    again = gate_folder(folder, data=phantom_folder, **judge)
    assert "seam_colour" in again["thresholds"]


def test_figures_and_labels(made):
    folder, judge = made
    wanted = rows(folder, "requests.jsonl")[0]["id"]
    result = gate_folder(
        folder, **judge, explain=[wanted], soft_labels=True, refine=True, thresholds={"label_agreement": 0.0, "lesion_drawn": 0.01}
    )
    figure = cv2.imread(result["figures"][0])
    assert figure is not None and figure.std() > 20
    assert result["labels"].get("soft", 0) == result["kept"]
    for row in rows(folder, "metadata.jsonl"):
        soft = read_grey(folder / "soft" / f"{json.loads(row['provenance'])['id']}.png")
        assert soft.shape == tuple(row["size"][::-1]) or soft.ndim == 2
    with pytest.raises(UserError, match="no such case"):
        gate_folder(folder, **judge, explain=["abc"])


def test_a_list_without_the_label_gate_says_nothing_of_it(made, tmp_path):
    folder, judge = made
    assert gate_folder(folder, **judge)["real"]["label_passed"] is not None
    (tmp_path / "gates.yaml").write_text("gates: [{name: lesion_drawn}, {name: visible}]\n")
    assert gate_folder(folder, gates=str(tmp_path / "gates.yaml"))["real"]["label_passed"] is None


def test_few_held_out_lesions_set_no_threshold_by_themselves(made, tmp_path, monkeypatch):
    folder, judge = made
    real = [render(k, 96, polyps=1) for k in range(700, 709)]
    for k, case in enumerate(real):
        case.name, case.group, case.split = f"real{k}", f"real{k}", "val" if k % 3 == 0 else "train"
    write_data_set(tmp_path / "real", real)
    few = gate_folder(folder, data=tmp_path / "real", **judge)["real"]
    assert few["n"] == 3 and few["judged"] == few["lesions"] + few["n"], "held-out and training lesions together"
    monkeypatch.setattr(gating, "LEAST_HELD", 1)
    assert gate_folder(folder, data=tmp_path / "real", **judge)["real"]["judged"] == few["n"]


def test_bad_input(made, tmp_path):
    folder, judge = made
    with pytest.raises(UserError, match="lies in 0..1"):
        gate_folder(folder, **judge, thresholds={"label_agreement": 1.5})
    with pytest.raises(UserError, match="without a lesion would pass"):
        gate_folder(folder, **judge, thresholds={"lesion_drawn": 0.0})
    with pytest.raises(UserError, match="give a number"):
        gate_folder(folder, **judge, thresholds={"seam_colour": float("nan")})
    with pytest.raises(UserError, match="was not written by"):
        gate_folder(tmp_path, **judge)
    with pytest.raises(UserError, match="no such configuration"):
        gate_folder(folder, **judge, gates="none.yaml")


@pytest.mark.slow
def test_no_judge_saw_what_it_judges(phantom_folder, tmp_path, monkeypatch):
    quick = ["training.max_steps=2", "training.budget_seconds=null", "training.batch_size=2", "phantom.frames=0", "model.window_px=32"]
    out = tmp_path / "judges"
    result = cross_fit("window_segmenter", [phantom_folder], out, 2, assignments=quick)
    stored = json.loads((out / "model" / "config.json").read_text())
    names = {c.name for c in open_checked(phantom_folder).cases("train")}
    assert stored["count"] == 2 and set(stored["folds"]) == names and result["step"] == 4
    from polypforge.quality.judges import load_judge

    judge = load_judge(out / "model")
    windows = np.random.default_rng(0).integers(0, 255, (2, 32, 32, 3), np.uint8)
    for name, fold in stored["folds"].items():
        assert judge.for_case(name) is judge.judges[fold]
    assert judge.for_case("unknown") is judge
    assert np.allclose(judge.predict(windows), np.mean([j.predict(windows) for j in judge.judges], 0))
    again = cross_fit("window_segmenter", [phantom_folder], out, 2, assignments=quick)  # resumes: nothing is left to do
    assert again["model"] == result["model"]


def test_folds_keep_groups_together_and_are_refused_where_they_make_no_sense(phantom_folder, tmp_path):
    opened = open_checked(phantom_folder)
    cases = opened.cases("train")
    parts = fold_of([cases], opened.report.pairs, 3)
    for a, b in opened.report.pairs:
        if a in parts and b in parts:
            assert parts[a] == parts[b]
    assert max(list(parts.values()).count(k) for k in range(3)) - min(list(parts.values()).count(k) for k in range(3)) <= 2
    with pytest.raises(UserError, match="independent groups"):
        fold_of([cases], opened.report.pairs, 50)
    with pytest.raises(UserError, match="at least 2"):
        cross_fit("window_segmenter", [phantom_folder], tmp_path / "x", 1)
    with pytest.raises(UserError, match="is for judges"):
        cross_fit("forge", [phantom_folder], tmp_path / "x", 2)
    with pytest.raises(UserError, match="several --data folders have a case named"):
        cross_fit("window_segmenter", [phantom_folder, phantom_folder], tmp_path / "x", 2)
    with pytest.raises(UserError, match="from nothing"):
        cross_fit("window_segmenter", [phantom_folder], tmp_path / "x", 2, start="starter:window_segmenter")
    assert not (tmp_path / "x").exists()
    bare = [replace(c, name=f"n{i}", group="video", lesion=False) for i, c in enumerate(30 * cases[:1])]
    lone = [replace(c, group=c.name, lesion=True) for c in cases[:6]]
    mixed = fold_of([lone + bare], [], 3)
    assert [sum(mixed[c.name] == k for c in lone) for k in range(3)] == [2, 2, 2]  # one long video of nothing decides nothing
    with pytest.raises(UserError, match="1 independent groups of training cases that show a lesion"):
        fold_of([lone[:1] + [replace(c, group=c.name) for c in bare]], [], 2)
    grouped = [[replace(c, name=f"{k}-{c.name}", group="patient 1") for c in cases] for k in range(2)]
    assert set(fold_of(grouped, [], 2).values()) == {0, 1}  # patient 1 of one hospital is not that of another


def test_scenes_that_two_folders_share_lie_in_one_fold(tmp_path):
    """Public data sets share frames: the same picture under two names, brighter in one of them."""
    shared = [render(k, 256, polyps=1) for k in range(4)]
    others = [render(50 + k, 256, polyps=1) for k in range(4)]
    for number, case in enumerate(shared):
        case.name = f"one-{number}"
    write_data_set(tmp_path / "one", shared)
    for number, case in enumerate([*shared, *others]):
        case.name = f"two-{number}"
        case.image = np.clip(case.image * 1.05, 0, 255).astype(np.uint8)
    write_data_set(tmp_path / "two", [*shared, *others])
    opened = [open_checked(tmp_path / name, val_share=0.0) for name in ("one", "two")]
    ties = shared_scenes(opened, tmp_path / "out")
    assert {(f"one-{k}", f"two-{k}") for k in range(4)} <= set(ties)
    parts = fold_of([o.cases("train") for o in opened], ties, 3)
    assert all(parts[a] == parts[b] for a, b in ties)
