"""`audit` from end to end: planted copies leave the set, honest cases stay."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from polypforge.core.errors import UserError
from polypforge.core.types import Case, Request
from polypforge.data.folder import write_data_set
from polypforge.data.layouts import open_source
from polypforge.generation.runner import provenance_of
from polypforge.masks.shapes import components, loosened
from polypforge.phantom.render import render
from polypforge.proposals.places import region_polygon
from polypforge.recipes.copy_paste.recipe import CopyPaste, CopyPasteConfig
from polypforge.workflows.audit import audit
from polypforge.workflows.opened import NEAR_HELD_OUT, open_checked


def textured(seed, name, split=""):
    case = render(seed, 240, polyps=1)
    grain = cv2.GaussianBlur(np.random.default_rng(seed).normal(0, 60, case.image.shape[:2]).astype(np.float32), (0, 0), 2)
    return Case(name, (case.image + grain[..., None]).clip(0, 255).astype(np.uint8), case.mask, label=case.label, split=split)


def large(first, count, prefix, split=""):
    found, seed = [], first
    while len(found) < count:
        case = textured(seed, f"{prefix}{seed}", split)
        if case.mask.sum() > 1500 and len(components(case.mask)) == 1:
            found.append(case)
        seed += 1
    return found


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audit")
    train, held = large(0, 10, "train", "train"), large(500, 6, "held", "test")
    write_data_set(folder / "real", train + held)
    made = []
    for number, case in enumerate(large(900, 4, "new")):  # new lesions in regions of real frames' size
        request = Request("train0", "polyp", region_polygon(loosened(case.mask, 0.12)), number)
        case.provenance = provenance_of(request, {"recipe": "test"})
        made.append(case)
    thief = Case("thief", np.ascontiguousarray(train[0].image[:, ::-1]), np.ascontiguousarray(train[0].mask[:, ::-1]), label="polyp")
    thief.provenance = provenance_of(Request("train5", "polyp", region_polygon(loosened(thief.mask, 0.12)), 9), {"recipe": "test"})
    whole = Case("whole", train[3].image[20:220, 20:220].copy(), train[3].mask[20:220, 20:220].copy(), label="polyp")
    whole.provenance = provenance_of(Request("", "polyp", (), 10), {"recipe": "test"})
    write_data_set(folder / "made", [*made, thief, whole])
    return folder


@pytest.fixture
def made(sets, tmp_path):
    shutil.copytree(sets / "made", tmp_path / "made")
    return tmp_path / "made"


def names(folder):
    return {json.loads(line)["image_file_name"] for line in (folder / "metadata.jsonl").read_text().splitlines()}


def test_copies_leave_and_the_rest_stays(sets, made):
    result = audit(made, sets / "real")
    assert result["copied"] == ["thief", "whole"] and result["removed"] == 2 and result["heldout"] == 6
    assert len(names(made)) == 4 and not any("thief" in n or "whole" in n for n in names(made))
    assert result["false_positives"]["lesion"]["share"] == 0 and result["false_positives"]["frame"]["n"] == 6
    assert result["set"]["authenticity_interval"][1] <= 1 and 0 < result["mask_similarity"]["synthetic"] <= 1
    rows = [json.loads(line) for line in (made / "audit" / "likeness.jsonl").read_text().splitlines()]
    assert {r["train"] for r in rows if r["copied"]} == {"train0", "train3"} or all(r["correlation"] > 0.4 for r in rows if r["copied"])
    assert cv2.imread(str(made / "audit" / "closest.png")).std() > 20
    assert len((made / "removed.jsonl").read_text().splitlines()) == 2
    assert not any(p.stem in ("thief", "whole") for p in (*(made / "images").iterdir(), *(made / "masks").iterdir()))
    assert {p.stem for p in (made / "audit" / "removed" / "images").iterdir()} == {"thief", "whole"}
    again = audit(made, sets / "real")
    assert again["copied"] == [] and len(names(made)) == 4


def test_a_training_case_that_shows_a_held_out_scene_is_compared_with_too(sets, made, tmp_path):
    known = large(0, 10, "train", "train")
    twin = Case("twin", (known[0].image * 0.9).astype(np.uint8), known[0].mask, label="polyp", split="test")
    write_data_set(tmp_path / "real", [*known, *large(500, 5, "held", "test"), twin])
    assert known[0].name in open_checked(tmp_path / "real").skipped[NEAR_HELD_OUT]
    result = audit(made, tmp_path / "real", keep=True)
    assert result["copied"] == ["thief", "whole"] and result["train"] == 10 and result["left_out"] == {}


def test_of_another_tools_folder_the_results_lie_beside_it(sets, made, tmp_path):
    (tmp_path / "theirs" / "images").mkdir(parents=True)
    (tmp_path / "theirs" / "labels").mkdir()
    for file in (made / "images").iterdir():
        shutil.copy(file, tmp_path / "theirs" / "images")
        (tmp_path / "theirs" / "labels" / f"{file.stem}.txt").write_text("0 0.5 0.5 0.4 0.4\n")
    before = {c.name for c in open_source(tmp_path / "theirs").cases}
    assert audit(tmp_path / "theirs", sets / "real")["out"] == str(tmp_path / "theirs-audit")
    assert {c.name for c in open_source(tmp_path / "theirs").cases} == before, "pictures of patients are no cases"


def test_a_folder_may_be_named_from_inside_and_layouts_are_those_of_the_real_data(sets, made, monkeypatch):
    monkeypatch.chdir(made)
    result = audit(Path(), sets / "real", keep=True, layout="pairs")
    assert result["out"] == str(made.resolve() / "audit") and len(result["copied"]) == 2


def test_kept_copies_are_only_named(sets, made):
    before = names(made)
    result = audit(made, sets / "real", keep=True)
    assert len(result["copied"]) == 2 and result["removed"] == 0 and names(made) == before


def test_what_can_not_be_audited(sets, made, tmp_path):
    with pytest.raises(UserError, match="as synthetic and as real"):
        audit(made, made)
    shutil.copytree(made, tmp_path / "again")
    with pytest.raises(UserError, match="synthetic cases"):
        audit(made, tmp_path / "again")
    with pytest.raises(UserError, match="held-out frames show pictures of"):
        held = [Case("twin", np.ascontiguousarray(c.image[:, ::-1]), np.ascontiguousarray(c.mask[:, ::-1])) for c in large(0, 1, "train")]
        write_data_set(tmp_path / "held", held)
        audit(made, sets / "real", heldout=tmp_path / "held")
    CopyPaste(CopyPasteConfig(), [textured(3, "donor")]).save_pretrained(tmp_path / "pasting")
    with pytest.raises(UserError, match="no loss of a single case"):
        audit(made, sets / "real", model=str(tmp_path / "pasting"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "audit.txt").touch()
    for out, words in ((sets / "real" / "audit", "inside each other"), (tmp_path / "mine", "is not empty")):
        with pytest.raises(UserError, match=words):
            audit(made, sets / "real", out=out)
    write_data_set(tmp_path / "none", large(0, 3, "train"))
    (tmp_path / "none" / "run.json").write_text("{}")
    with pytest.raises(UserError, match="holds no synthetic case"):
        audit(tmp_path / "none", sets / "real")
    with pytest.raises(UserError, match="between 0 and"):
        audit(made, sets / "real", false_positives=0)
    with pytest.raises(UserError, match="no such"):
        audit(made, tmp_path / "nowhere")
