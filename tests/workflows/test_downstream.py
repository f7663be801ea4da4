"""Downstream experiments from data to words: leaks, resuming, growing, outside generators."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from polypforge.core.config import from_dict
from polypforge.core.errors import UserError
from polypforge.core.files import read_json, read_jsonl, write_jsonl
from polypforge.core.types import NORMAL, Case
from polypforge.data.folder import METADATA, write_data_set
from polypforge.evaluation.plan import Supply, plan_from
from polypforge.evaluation.segmentation.network import LesionSegmenter, LesionSegmenterConfig
from polypforge.phantom.render import render
from polypforge.workflows.downstream.cases import draw_cases, open_tests
from polypforge.workflows.downstream.cell import run
from polypforge.workflows.downstream.experiment import Experiment, downstream
from polypforge.workflows.downstream.results import words
from polypforge.workflows.downstream.supply import identity, made_elsewhere, make
from polypforge.workflows.opened import open_checked

NETWORK = {"encoder": "tu-resnet10t", "depth": 3, "decoder": [16, 8, 8], "size_px": 32, "loss": "bce_dice"}
PLAN = {
    "title": "Small", "question": "Does it?", "baseline": "strong", "sizes": [6], "draws": 1, "seeds": 2, "validation": 4,
    "arms": {"strong": {"augment": "strong"}, "given": {"augment": "strong", "synthetic": "given", "amounts": [0.5]}},
    "supplies": {"given": {}}, "networks": {"unet": NETWORK},
    "training": {"max_steps": 3, "batch_size": 4, "learning_rate": 1e-3, "warmup_steps": 1, "preview_every": 0, "validate_every": 2},
}  # fmt: skip


def cases(first: int, count: int, prefix: str = "real") -> list[Case]:
    made = []
    for k in range(first, first + count):
        case = render(k, 96, polyps=1)
        case.name, case.group, case.split = f"{prefix}{k}", f"{prefix}{k}", "test" if k % 4 == 3 else "train"
        made.append(case)
    return made


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("real")
    write_data_set(folder, cases(400, 20))
    return folder


def synthetic(folder: Path, parents: list[str], first: int = 800, donors: list[str] | None = None) -> Path:
    made = cases(first, 6, "made")
    for k, case in enumerate(made):
        case.split = "train"
        parent = parents[k % len(parents)] if parents else None
        case.provenance = {"synthetic": True} | (
            {"request": {"background": parent, "label": "polyp", "region": [], "seed": 0}} if parent else {}
        )
        if donors:
            case.provenance["donor"] = donors[k % len(donors)]
    write_data_set(folder, made)
    return folder


def with_folder(folder: Path, **more):
    return plan_from(PLAN | {"supplies": {"given": {"folder": str(folder)}}} | more, "here")


def learned_names(real: Path, plan) -> list[str]:
    return [c.name for c in draw_cases(open_checked(real), plan)[0].learned[plan.sizes[0]]]


def test_draws_are_nested_disjoint_and_repeatable(real):
    plan = plan_from(PLAN | {"sizes": [4, 6, 0], "draws": 3, "arms": {"strong": {}}}, "here")
    opened = open_checked(real)
    draws = draw_cases(opened, plan)
    names = [{n: [c.name for c in part] for n, part in d.learned.items()} for d in draws]
    held_out = {c.name for c in opened.cases("test")}
    for draw, part in zip(draws, names, strict=True):
        held = {c.name for c in draw.validation}
        assert part[6][:4] == part[4] and part[0][:6] == part[6] and not held & set(part[0]) and not held_out & (held | set(part[0]))
    assert names[0] != names[1] and [[c.name for c in d.validation] for d in draw_cases(opened, plan)] == [
        [c.name for c in d.validation] for d in draws
    ]
    with pytest.raises(UserError, match="the plan needs"):
        draw_cases(opened, plan_from(PLAN | {"sizes": [60]}, "here"))


def test_frames_without_lesion_are_no_labelled_cases(tmp_path):
    frames = [render(k, 96, polyps=0) for k in range(900, 904)]
    for k, frame in enumerate(frames):
        frame.name, frame.split = f"normal{k}", "train"
    write_data_set(tmp_path / "data", [*cases(400, 16), *frames])
    plan = plan_from(PLAN | {"supplies": {"given": {"recipe": "copy_paste", "per_real": 2}}}, "here")
    opened = open_checked(tmp_path / "data")
    draw = draw_cases(opened, plan)[0]
    assert (draw.labelled[6], len(draw.learned[6])) == (6, 10)
    assert [len(draw.real(6, share)) for share in (1, 0.5, 0)] == [10, 7, 0]
    assert all(c.label == NORMAL for c in draw.real(6, 0.5)[3:]) and draw.real(6, 0.05) == () and draw.pool >= 6
    experiment = Experiment(plan, [draw], {}, tmp_path / "run", "cpu", True)
    job = experiment.job(next(c for c in plan.first_cells() if c.arm == "strong"), "cpu")
    assert (job.labelled, job.shown, len(job.real)) == (6, 6, 10)
    assert plan.supplies["given"].count(draw.labelled[6]) == 12


def test_frames_with_boxes_and_no_label_show_lesions(tmp_path):
    boxed = [replace(c, mask=None, label="") for c in cases(400, 16)]
    assert all(c.boxes for c in boxed)
    write_data_set(tmp_path / "data", boxed)
    opened = open_checked(tmp_path / "data")
    assert {c.label for c in opened.source.cases} == {""}
    draw = draw_cases(opened, plan_from(PLAN | {"task": "detection"}, "here"))[0]
    assert (draw.labelled[6], len(draw.learned[6])) == (6, 6)


@pytest.mark.parametrize(("change", "said"), [
    ({"networks": {"unet": NETWORK | {"architecture": "pan"}}}, "can't look at a frame"),
    ({"networks": {"unet": NETWORK | {"weights": "runs/gone"}}}, "no such file or folder"),
    ({"training": PLAN["training"] | {"seed": 3}}, "seeds come from the draws"), ({"training": PLAN["training"] | {"epochs": float("nan"), "max_steps": None}}, "epochs"),
])  # fmt: skip
def test_networks_and_settings_that_cannot_be_are_said_before_anything_is_made(change, said, real, tmp_path):
    with pytest.raises(UserError, match=said):
        downstream(plan_from(PLAN | {"arms": {"strong": {}}, "supplies": {}} | change, "here"), real, tmp_path / "run", workers=1)
    assert not (tmp_path / "run").exists()


def test_frames_of_one_scene_are_one_witness(real, tmp_path):
    scene = next(c for c in cases(700, 1))
    twins = [replace(scene, name=f"twin{k}", group=f"twin{k}", split="test") for k in range(3)]
    write_data_set(tmp_path / "other", [*twins, *(replace(c, split="test") for c in cases(710, 3))])
    tests = open_tests(open_checked(real), [tmp_path / "other"], [], tmp_path / "checks", False, masks=True)
    groups = {c.name: c.group for c in tests["other"]}
    assert groups["twin0"] == groups["twin1"] == groups["twin2"] and len(set(groups.values())) == 4


def test_a_supply_is_another_one_when_its_judge_was_trained_again(tiny_segmenter, tmp_path):
    tiny_segmenter.save_pretrained(tmp_path / "judge")
    (tmp_path / "gates.yaml").write_text(f"judges: ['{tmp_path / 'judge'}']\ngates: [{{name: label_agreement}}]\n")
    supply = Supply(gates=str(tmp_path / "gates.yaml"))
    before = identity(supply)
    assert identity(supply) == before
    with torch.no_grad():
        next(tiny_segmenter.parameters()).add_(1)
    tiny_segmenter.save_pretrained(tmp_path / "judge")
    assert identity(supply) != before


@pytest.mark.slow
def test_a_plan_runs_resumes_grows_and_tells(real, tmp_path):
    plan = with_folder(tmp_path / "made")
    synthetic(tmp_path / "made", learned_names(real, plan))
    result = downstream(plan, real, tmp_path / "run", workers=1, device="cpu")
    assert result["trainings"] == 4 and len(result["words"]) == 1 and "over strong" in result["words"][0]
    rows = {r["arm"]: r for r in result["rows"]}
    assert rows["given"]["runs"] == 2 and rows["given"]["real"] == 6 and rows["given"]["steps"] == rows["strong"]["steps"] == 3
    assert rows["strong"]["images"] == 5 and rows["given"]["difference"] == pytest.approx(rows["given"]["value"] - rows["strong"]["value"])
    assert "size" in rows["given"] and 0 <= rows["strong"]["measures"]["imagewise"]["iou"]["value"] <= 1
    files = {f.name: f.stat().st_mtime_ns for f in (tmp_path / "run" / "cells").iterdir()}
    assert len(files) == 4 and all(name.endswith(".json") for name in files)
    for name in ("results.json", "results.md", "results.csv", "results.tex", "forest.png"):
        assert (tmp_path / "run" / name).stat().st_size > 100
    grown = with_folder(tmp_path / "made", seeds=3)
    for file in real.rglob("*.png"):
        file.touch()  # as when data are copied anew
    again = downstream(grown, real, tmp_path / "run", workers=1, device="cpu")
    after = {f.name: f.stat().st_mtime_ns for f in (tmp_path / "run" / "cells").iterdir()}
    assert again["trainings"] == 6 and files.items() <= after.items()  # what was done stays
    seeds = {(c["cell"]["arm"], c["cell"]["seed"]): c["tests"] for c in map(read_json, (tmp_path / "run" / "cells").iterdir())}
    assert seeds["strong", 0] != seeds["strong", 1]


@pytest.mark.slow
def test_supplies_are_made_from_the_labelled_cases_alone_and_amounts_are_chosen(real, tmp_path):
    plan = plan_from(
        PLAN | {
            "seeds": 2,
            "arms": {"strong": {"augment": "strong"}, "pasted": {"synthetic": "pasted", "amounts": [0.25, 0.75], "choose": True}},
            "supplies": {"pasted": {"recipe": "copy_paste", "gates": "none", "per_real": 0.5}},
        },
        "here",
    )  # fmt: skip
    result = downstream(plan, real, tmp_path / "run", workers=1, device="cpu")
    known = set(learned_names(real, plan))
    rows = [row for path in (tmp_path / "run" / "data").rglob(METADATA) for row in read_jsonl(path)]
    parents = {json.loads(r["provenance"])["request"]["background"] for r in rows if json.loads(r["provenance"]).get("synthetic")}
    shown = {Path(r["image_file_name"]).stem for r in rows if not json.loads(r["provenance"]).get("synthetic")}
    assert parents and parents <= known and shown == known
    assert len(result["chosen"]) == 1 and result["chosen"][0]["amount"] in (0.25, 0.75)
    assert {r["arm"]: r["runs"] for r in result["rows"]} == {"strong": 2, "pasted": 2}


def test_a_supply_is_drawn_in_its_steps(real, tiny_forge, tmp_path):
    tiny_forge.save_pretrained(tmp_path / "forge")
    draw = draw_cases(open_checked(real), plan_from(PLAN, "here"))[0]
    supply = Supply("forge", str(tmp_path / "forge"), steps=2, gates="none", per_real=0.3)
    made = make(supply, draw, 6, tmp_path, "few", "cpu", True)
    assert made.cases and {c.provenance["steps"] for c in made.cases} == {2}
    with pytest.raises(UserError, match="steps"):
        make(Supply("copy_paste", steps=2, gates="none"), draw, 6, tmp_path, "pasted", "cpu", True)
    assert identity(supply) != identity(replace(supply, steps=3))


def test_synthetic_cases_from_other_peoples_labels_are_refused(real, tmp_path):
    plan = with_folder(tmp_path / "made")
    synthetic(tmp_path / "made", ["somebody-else", *learned_names(real, plan)])
    with pytest.raises(UserError, match="'somebody-else'.*labels alone"):
        downstream(plan, real, tmp_path / "run", workers=1)
    assert not (tmp_path / "run" / "cells").exists()


def test_pasted_lesions_count_as_labels(real, tmp_path):
    plan = with_folder(tmp_path / "made")
    names = learned_names(real, plan)
    synthetic(tmp_path / "made", names, donors=["somebody-else"])
    with pytest.raises(UserError, match="'somebody-else'.*labels alone"):
        downstream(plan, real, tmp_path / "run", workers=1)


def test_what_was_made_from_validation_cases_is_left_out(real, tmp_path):
    plan = with_folder(tmp_path / "made")
    draw = draw_cases(open_checked(real), plan)[0]
    synthetic(tmp_path / "made", [draw.validation[0].name, draw.learned[6][0].name])
    kept = make(plan.supplies["given"], draw, 6, tmp_path, "given", "cpu", True)
    assert set(kept.parents) == {draw.learned[6][0].name} and len(kept.cases) == 3
    synthetic(tmp_path / "none", [draw.validation[0].name])
    with pytest.raises(UserError, match="validation cases alone"):
        make(with_folder(tmp_path / "none").supplies["given"], draw, 6, tmp_path, "given", "cpu", True)


def test_test_cases_among_the_synthetic_or_the_training_ones_are_refused(real, tmp_path):
    stolen = [c for c in cases(400, 20) if c.split == "test"]
    for case in stolen:
        case.name, case.group, case.split = "x" + case.name, "x" + case.name, ""
    write_data_set(tmp_path / "stolen", stolen)
    with pytest.raises(UserError, match="show the same scene"):
        downstream(with_folder(tmp_path / "stolen"), real, tmp_path / "run", workers=1)
    known = [c for c in cases(400, 20) if c.split == "train"]
    for case in known:
        case.name, case.split = "y" + case.name, "test"
    write_data_set(tmp_path / "same", known)
    plan = plan_from(PLAN | {"arms": {"strong": {}}, "supplies": {}}, "here")
    with pytest.raises(UserError, match="overlap"):
        downstream(plan, real, tmp_path / "run2", tests=[tmp_path / "same"], workers=1)


def test_test_sets_without_masks_are_refused_and_the_folder_stays_free(real, tmp_path):
    boxed = cases(700, 4)
    for case in boxed:
        case.mask, case.split = None, "test"
    write_data_set(tmp_path / "boxed", boxed)
    plan = plan_from(PLAN | {"arms": {"strong": {}}, "supplies": {}}, "here")
    named = [replace(c, boxes=(), label="polyp") for c in boxed]
    write_data_set(tmp_path / "named", named)
    for folder, said in (("boxed", "has no mask of it"), ("named", "no mask or box says where")):
        with pytest.raises(UserError, match=said):
            downstream(plan, real, tmp_path / "run", tests=[tmp_path / folder], workers=1)
    assert not (tmp_path / "run").exists()


def test_cells_are_known_by_the_content_of_their_cases(real, tmp_path):
    plan = with_folder(tmp_path / "made")
    draws = draw_cases(open_checked(real), plan)
    cell = next(c for c in plan.first_cells() if c.arm == "given")
    found = []
    for first in (800, 900):
        synthetic(tmp_path / f"made-{first}", [draws[0].learned[6][0].name], first)
        other = with_folder(tmp_path / f"made-{first}")
        found.append(Experiment(other, draws, {}, tmp_path, "cpu", True))
    held = tuple(draws[0].validation[:2])
    tested = Experiment(
        plan_from(PLAN | {"supplies": {"given": {"folder": str(tmp_path / "made-800")}}}, "here"), draws, {"t": held}, tmp_path, "cpu", True
    )
    assert len({e.result(cell) for e in (*found, tested)}) == 3
    again = Experiment(found[0].plan, draw_cases(open_checked(real), plan), {}, tmp_path, "cpu", True)
    assert again.result(cell) == found[0].result(cell)


def test_a_cell_knows_the_weights_that_its_network_sets_out_from(real, tmp_path):
    file = tmp_path / "encoder.safetensors"
    plan = plan_from(PLAN | {"arms": {"strong": {}}, "supplies": {}, "networks": {"unet": NETWORK | {"weights": str(file)}}}, "here")
    draws, found = draw_cases(open_checked(real), plan), []
    for content in (b"one", b"two"):
        file.write_bytes(content)
        found.append(Experiment(plan, draws, {}, tmp_path, "cpu", True).result(plan.first_cells()[0]))
    assert found[0] != found[1]


def test_a_cell_knows_all_weights_that_its_network_sets_out_from(real, tmp_path):
    start = tmp_path / "start"
    arms = {"strong": {}, "started": {"network": {"weights": str(start)}, "training": {"max_steps": 2}}}
    plan = plan_from(PLAN | {"arms": arms, "supplies": {}}, "here")
    draws, found = draw_cases(open_checked(real), plan), []
    cells = {c.arm: c for c in plan.first_cells()}
    for seed in range(2):
        torch.manual_seed(seed)
        LesionSegmenter(from_dict(LesionSegmenterConfig, NETWORK)).save_pretrained(start)
        experiment = Experiment(plan, draws, {}, tmp_path, "cpu", True)
        found.append({arm: experiment.result(cell) for arm, cell in cells.items()})
    assert found[0]["started"] != found[1]["started"] and found[0]["strong"] == found[1]["strong"]
    jobs = {arm: experiment.job(cell, "cpu") for arm, cell in cells.items()}
    assert jobs["started"].network["weights"] == str(start) and "weights" not in jobs["strong"].network
    assert (jobs["started"].training["max_steps"], jobs["strong"].training["max_steps"]) == (2, 3)


def test_adding_children_needs_to_know_their_parents(real, tmp_path):
    arms = {"strong": {}, "given": {"synthetic": "given", "mode": "add", "amounts": [2]}}
    plan = with_folder(tmp_path / "made", arms=arms)
    synthetic(tmp_path / "made", [])
    experiment = Experiment(plan, draw_cases(open_checked(real), plan), {}, tmp_path / "run", "cpu", True)
    cell = next(c for c in plan.first_cells() if c.arm == "given")
    with pytest.raises(UserError, match="'add' has nothing to draw"):
        run(experiment.job(cell, "cpu"))


@pytest.mark.parametrize("masks", [False, True])
def test_nothing_is_tested_where_there_is_nothing_to_find(masks, real, tmp_path):
    write_data_set(tmp_path / "normal", [render(k, 96, polyps=0) for k in range(4)])
    with pytest.raises(UserError, match="shows no lesion that could be found"):
        open_tests(open_checked(real), [tmp_path / "normal"], [], tmp_path / "checks", False, masks)


def test_an_unknown_recipe_is_said_before_anything_is_made(real, tmp_path):
    plan = plan_from(PLAN | {"supplies": {"given": {"recipe": "magic"}}}, "here")
    with pytest.raises(UserError, match="magic"):
        downstream(plan, real, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_missing_folders_and_splits_are_said(real, tmp_path):
    with pytest.raises(UserError, match="is no folder"):
        downstream(with_folder(tmp_path / "nowhere"), real, tmp_path / "run")
    untested = cases(600, 12)
    for case in untested:
        case.split = "train"
    write_data_set(tmp_path / "untested", untested)
    with pytest.raises(UserError, match="no test split"):
        downstream(plan_from(PLAN | {"arms": {"strong": {}}, "supplies": {}}, "here"), tmp_path / "untested", tmp_path / "run")


def test_a_run_folder_keeps_to_its_data(real, tmp_path):
    from polypforge.workflows.run_folder import claim

    claim(tmp_path / "run", "downstream", {"train": "/elsewhere", "tests": []})
    with pytest.raises(UserError, match="train"):
        downstream(plan_from(PLAN | {"arms": {"strong": {}}, "supplies": {}}, "here"), real, tmp_path / "run")


def test_an_empty_supply_is_said(real, tmp_path):
    (tmp_path / "made").mkdir()
    write_jsonl(tmp_path / "made" / METADATA, [])
    with pytest.raises(UserError, match="holds no case"):
        downstream(with_folder(tmp_path / "made"), real, tmp_path / "run")


def test_real_cases_of_a_run_that_kept_no_synthetic_one_are_not_taken_for_them(tmp_path):
    write_data_set(tmp_path / "expanded", cases(0, 3))
    (tmp_path / "expanded" / "run.json").write_text("{}")
    with pytest.raises(UserError, match="no synthetic case: none was accepted"):
        made_elsewhere(tmp_path / "expanded")


def test_an_empty_folder_stays_free_after_a_refusal(real, tmp_path):
    (tmp_path / "run").mkdir()
    plan = plan_from(PLAN | {"arms": {"strong": {}}, "supplies": {}}, "here")
    for _ in range(2):
        with pytest.raises(UserError, match="no such folder"):
            downstream(plan, real, tmp_path / "run", tests=[tmp_path / "typo"], workers=1)


DRIVER = """
import multiprocessing, os, time
from concurrent.futures import ProcessPoolExecutor
from polypforge.workflows.downstream.cell import quiet_worker

if __name__ == "__main__":
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=quiet_worker, initargs=(1, True)) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        pool.submit(time.sleep, 600).result()
"""


@pytest.mark.slow
def test_trainings_end_when_the_command_is_killed(tmp_path):
    (tmp_path / "driver.py").write_text(DRIVER)
    with subprocess.Popen([sys.executable, tmp_path / "driver.py"], stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout
        worker = int(driver.stdout.readline())
        time.sleep(1)  # it sleeps, as it would train
        os.kill(worker, 0)
        driver.kill()
    for _ in range(100):
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker outlived the command")


def test_many_comparisons_are_told_as_many():
    plan = plan_from(PLAN, "here")
    told = {"network": "unet", "test": "a", "amount": None, "real": 4, "size": 4, "verdict": "helped", "difference": 0.02, "by_draw": (0.02, 0.02),
            "difference_interval": (0.01, 0.03), "better": 2, "units": 2, "p": 0.5}  # fmt: skip
    few = words([told | {"arm": f"arm {k}"} for k in range(5)], plan)
    many = words([told | {"arm": f"arm {k}"} for k in range(40)], plan)
    assert len(few) == 5 and len(many) == 41 and "about 2 of them would say so by chance" in many[-1]
    once = words([told | {"arm": "b", "difference_interval": None, "verdict": "was tried once, which shows nothing yet,"}], plan)
    assert once[0].endswith("+2.0 points of Dice over strong.")
