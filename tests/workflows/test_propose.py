import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from polypforge.core.errors import UserError
from polypforge.core.images import write_png
from polypforge.data.folder import write_data_set
from polypforge.data.layouts import open_source
from polypforge.data.prepared import prepare
from polypforge.features.frame_encoder import FrameEncoder, FrameEncoderConfig
from polypforge.generation.writer import read_requests
from polypforge.masks.shapes import polygon_mask
from polypforge.phantom.render import render
from polypforge.proposals.database import ReferenceDatabase
from polypforge.proposals.removal import removals
from polypforge.workflows.encoder import open_encoder
from polypforge.workflows.generate import generate_cases
from polypforge.workflows.opened import open_checked
from polypforge.workflows.plan import plan_requests
from polypforge.workflows.propose import propose_places
from polypforge.workflows.references import build_references, describe
from tests.conftest import TINY, wake


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    from polypforge.recipes.forge.recipe import Forge

    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    FrameEncoder(FrameEncoderConfig(dim=16, look_px=128)).save_pretrained(root / "encoder")
    recipe = Forge(TINY)
    wake(recipe)
    recipe.save_pretrained(root / "forge")
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("propose") / "phantom"
    write_data_set(folder, [render(8600 + i, 160, polyps=1 + (i == 3)) for i in range(12)])
    return folder


@pytest.fixture(scope="module")
def built(data, models, tmp_path_factory):
    out = tmp_path_factory.mktemp("db") / "references"
    result = build_references(data, out, model=str(models / "forge"), encoder=str(models / "encoder"), device="cpu")
    return out, result


def test_references_are_built_once_and_grow(built, data, models, tmp_path):
    out, result = built
    assert result["added"] == result["references"] > 5 and result["index"] == "flat" and result["recall@5"] == 1.0
    again = build_references(data, out, model=str(models / "forge"), encoder=str(models / "encoder"), device="cpu")
    assert again["added"] == 0 and again["references"] == result["references"]
    database = ReferenceDatabase.open(out)
    assert all(r.lesions and len(r.attributes) == len(r.lesions) for r in database.references)
    other = tmp_path / "other"
    write_data_set(other, [render(8700 + i, 160, polyps=1) for i in range(4)])
    grown = build_references(other, out, model=str(models / "forge"), encoder=str(models / "encoder"), device="cpu")
    assert grown["references"] == result["references"] + grown["added"] and grown["added"] > 0
    with pytest.raises(UserError, match="was built with seed 0, not 5"):
        build_references(other, out, model=str(models / "forge"), encoder=str(models / "encoder"), seed=5, device="cpu")
    with pytest.raises(UserError, match="was built with the encoder"):
        build_references(other, out, model=str(models / "forge"), encoder="starter:encoder", device="cpu")


def test_proposals_are_requests_with_reasons_and_pictures(built, data, models, tmp_path):
    out, _ = built
    result = propose_places(data, out, tmp_path / "p.jsonl", explain=tmp_path / "why", cache=tmp_path / "cache", device="cpu")
    rows = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert result["proposals"] == len(rows) > 12 and {r["source"] for r in rows} <= {"retrieval", "prior"}
    assert len(list((tmp_path / "why").glob("*.png"))) == result["frames"]
    asked = read_requests(tmp_path / "p.jsonl")
    assert [r.background for r in asked] == [r["background"] for r in rows] and all(r.lesion and r.region for r in asked)
    again = propose_places(data, out, tmp_path / "q.jsonl", cache=tmp_path / "cache", device="cpu")
    assert (tmp_path / "p.jsonl").read_text() == (tmp_path / "q.jsonl").read_text() and again["proposals"] == len(rows)
    (tmp_path / "few.jsonl").write_text("\n".join(json.dumps(r) for r in rows[:2]))
    made = generate_cases(data, tmp_path / "made", model=str(models / "forge"), requests_file=tmp_path / "few.jsonl", device="cpu")
    assert made["made"] == 2


def test_a_data_set_as_references_builds_a_database_beside_the_result(data, models, tmp_path):
    result = propose_places(
        data, data, tmp_path / "p.jsonl", count=2, encoder=str(models / "encoder"), model=str(models / "forge"), device="cpu"
    )
    assert len(list(tmp_path.glob("p.references-*/manifest.json"))) == 1 and 0 < result["proposals"] <= 24
    write_data_set(tmp_path / "fewer", list(open_source(data))[:8])
    propose_places(
        data, tmp_path / "fewer", tmp_path / "p.jsonl", count=2, encoder=str(models / "encoder"), model=str(models / "forge"), device="cpu"
    )
    assert len(list(tmp_path.glob("p.references-*/manifest.json"))) == 2  # other references are not added to the first ones


def test_pictures_do_not_go_among_the_frames(data, tmp_path):
    with pytest.raises(UserError, match="lie inside each other"):
        propose_places(data, data, tmp_path / "p.jsonl", explain=data / "why")


def test_a_denoisers_own_features_serve_as_encoder(models):
    encoder = open_encoder(f"denoiser:{models / 'forge'}", "cpu")
    image = torch.rand(2, 3, encoder.look_px, encoder.look_px) * 2 - 1
    one = encoder.patches(image)
    assert one.shape[:3] == (2, encoder.look_px // encoder.patch_px, encoder.look_px // encoder.patch_px)
    assert torch.equal(one, encoder.patches(image)) and encoder.version and encoder.name.startswith("denoiser:")


def test_black_frames_get_none_and_bad_options_say_so(built, tmp_path):
    out, _ = built
    frames = tmp_path / "black"
    write_png(frames / "a.png", np.zeros((160, 160, 3), np.uint8))
    result = propose_places(frames, out, tmp_path / "p.jsonl", layout="normal", device="cpu")
    assert result["proposals"] == 0 and result["frames without any"] == 1
    with pytest.raises(UserError, match="--num is 0"):
        propose_places(frames, out, tmp_path / "p.jsonl", count=0, layout="normal")
    write_png(tmp_path / "lit" / "a.png", render(8800, 160).image)
    with pytest.raises(UserError, match="500 references were asked for"):
        propose_places(tmp_path / "lit", out, tmp_path / "r.jsonl", references_per_frame=500, layout="normal", device="cpu")
    assert not (tmp_path / "r.jsonl").exists()
    write_png(tmp_path / "tiny" / "a.png", np.full((4, 4, 3), 90, np.uint8))
    with pytest.raises(UserError):
        propose_places(tmp_path / "tiny", out, tmp_path / "t.jsonl", layout="normal", device="cpu")
    assert not (tmp_path / "t.jsonl").exists()


def test_plans_meet_quotas_and_take_places_that_are_given(built, data, models, tmp_path):
    out, _ = built
    table = tmp_path / "quotas.csv"
    table.write_text("size,share\nsmall,3\nmedium,1\n")
    result = plan_requests(data, tmp_path / "plan.jsonl", 40, want=str(table), outlines="real", device="cpu")
    assert result["requests"] == 40 and result["greatest miss"] <= 0.02 and result["plan"]["size"]["small"] == pytest.approx(0.75)
    asked = read_requests(tmp_path / "plan.jsonl")
    assert len({r.id for r in asked}) == 40 and all(r.lesion for r in asked)
    propose_places(data, out, tmp_path / "p.jsonl", device="cpu")
    placed = plan_requests(data, tmp_path / "placed.jsonl", 10, want="match", proposals=tmp_path / "p.jsonl", masks=True, device="cpu")
    proposals = {json.dumps(json.loads(line)["region"]) for line in (tmp_path / "p.jsonl").read_text().splitlines()}
    rows = [json.loads(line) for line in (tmp_path / "placed.jsonl").read_text().splitlines()]
    assert placed["requests"] == 10 and all(json.dumps(r["region"]) in proposals for r in rows)


def test_lists_overwrite_nothing_but_lists(data, tmp_path):
    plan_requests(data, tmp_path / "plan.jsonl", 2, device="cpu")
    plan_requests(data, tmp_path / "plan.jsonl", 3, device="cpu")
    assert len(read_requests(tmp_path / "plan.jsonl")) == 3
    (tmp_path / "notes.txt").write_text("mine")
    for out, words in ((tmp_path / "notes.txt", "is no list of requests"), (data / "plan.jsonl", "among the data")):
        with pytest.raises(UserError, match=words):
            plan_requests(data, out, 2, device="cpu")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_drawn_masks_and_boxes_are_places(data, tmp_path):
    opened = open_checked(data, min_cases=1)
    case = opened.cases("train")[0].load()
    train = [c.name for c in opened.cases("train")]
    drawn = np.zeros(case.size, bool)
    drawn[60:90, 50:95] = True
    for name in train:
        write_png(tmp_path / "drawn" / f"{name}.png", drawn)
    result = plan_requests(data, tmp_path / "a.jsonl", 3, drawn=tmp_path / "drawn", masks=True, device="cpu")
    first = read_requests(tmp_path / "a.jsonl")[0]
    xs = [x for x, _ in first.lesion]
    assert result["requests"] == 3 and min(xs) == 50 and max(xs) == 94
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps({n: [[40, 50, 90, 100]] for n in train}))
    plan_requests(data, tmp_path / "b.jsonl", 3, boxes=boxes, masks=True, device="cpu")
    xs = [x for x, _ in read_requests(tmp_path / "b.jsonl")[0].lesion]
    assert 40 <= min(xs) <= 42 and 87 <= max(xs) <= 90
    boxes.write_text(json.dumps({train[0]: [[40, 50, 400, 100]]}))
    with pytest.raises(UserError, match="box 1 of"):
        plan_requests(data, tmp_path / "c.jsonl", 3, boxes=boxes)
    write_png(tmp_path / "drawn" / "stranger.png", drawn)
    with pytest.raises(UserError, match="no training frame 'stranger'"):
        plan_requests(data, tmp_path / "c.jsonl", 3, drawn=tmp_path / "drawn")
    with pytest.raises(UserError, match="give one of them"):
        plan_requests(data, tmp_path / "c.jsonl", 3, drawn=tmp_path / "drawn", boxes=boxes)
    assert not (tmp_path / "c.jsonl").exists()


def test_box_only_frames_lend_places_but_no_rectangles(models, tmp_path):
    listing = {}
    for i in range(5):
        case = render(8900 + i, 160, polyps=1)
        write_png(tmp_path / "data" / "images" / f"f{i}.png", case.image)
        boxes = [(20, 30, 70, 80), (90, 90, 130, 125)][: 1 + i % 2]
        entry = [{"label": "polyp", "xmin": a, "ymin": b, "xmax": c, "ymax": d} for a, b, c, d in boxes]
        listing[f"f{i}"] = {"height": 160, "width": 160, "bbox": entry}
    (tmp_path / "data" / "boxes.json").write_text(json.dumps(listing))
    result = build_references(
        tmp_path / "data", tmp_path / "db", model=str(models / "forge"), encoder=str(models / "encoder"), device="cpu"
    )
    references = ReferenceDatabase.open(tmp_path / "db").references
    assert result["added"] == len(references) > 3 and {len(r.lesions) for r in references} == {1, 2}
    for polygon in (p for r in references for p in r.lesions):
        assert polygon_mask(list(polygon), (160, 160)).sum() < 0.99 * np.prod(np.ptp(polygon, 0) + 1)  # no full box


def test_lesions_that_cannot_be_seen_are_no_references():
    case = render(8950, 160, polyps=1)
    case.image[:, :30] = 0
    mask = np.zeros(case.size, bool)
    mask[60:80, 2:14] = True  # in the black border
    assert removals(prepare(replace(case, mask=mask)), 0) == [] and describe(replace(case, mask=mask), "").lesions == ()
    line = mask | False
    line[80:82, 40:120] = True  # a stray stroke has no outline
    assert all(len(p) >= 3 for p in describe(replace(case, mask=line), "").lesions)


def test_an_encoder_without_patches_is_refused_before_any_work(data, models, tmp_path):
    from safetensors.torch import save_file
    from torchvision.models import vgg19

    save_file(vgg19(weights=None).state_dict(), tmp_path / "vgg.safetensors")
    with pytest.raises(UserError, match="no patch features"):
        build_references(data, tmp_path / "db", model=str(models / "forge"), encoder=f"vgg19:{tmp_path / 'vgg.safetensors'}", device="cpu")
    assert not (tmp_path / "db").exists()
