"""`evaluate` from two folders to a table, resumed, and on sets that can't be compared."""

import cv2
import numpy as np
import pytest

from polypforge.core.errors import UserError
from polypforge.core.types import POLYP, Request
from polypforge.data.folder import write_data_set
from polypforge.data.layouts import open_source
from polypforge.masks.shapes import box_mask
from polypforge.phantom.render import render
from polypforge.workflows.evaluate import evaluate, label_figures
from polypforge.workflows.pictures import Pictures, read_pictures

FAST = {"extractors": ("random_vgg",), "judge": "", "device": "cpu"}


def folder(path, first, count, synthetic=False, size=96):
    cases = [render(k, size, polyps=1) for k in range(first, first + count)]
    for case in cases:
        case.name = case.group = f"c{case.name}"
        case.provenance = {"synthetic": True} if synthetic else {}
    write_data_set(path, cases)
    return path


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    return folder(tmp_path_factory.mktemp("real") / "real", 300, 14)


@pytest.mark.slow
def test_every_figure_has_extractor_numbers_and_resizing(real, tmp_path):
    made = folder(tmp_path / "made", 340, 13, synthetic=True, size=112)
    result = evaluate(real, made, tmp_path / "out", **(FAST | {"judge": "starter:window_segmenter"}))
    assert result["n"] == {"real": 14, "synthetic": 13}
    by = {(f["pictures"], f["measure"]): f for f in result["figures"]}
    assert (
        by["lesion", "kid"]["extractor"] == "random_vgg (area to 128)"
        and by["lesion", "kid"]["interval"][0] < by["lesion", "kid"]["interval"][1]
    )
    assert by["frame", "frechet"]["value"] is None and "KID" in by["frame", "frechet"]["note"]  # 13 pictures in 64 dimensions
    for measure in ("sliced_wasserstein mean", "ms_ssim within", "perceptual within", "perceptual real to synthetic", "kid"):
        assert by["lesion", measure]["value"] is not None and by["lesion", measure]["floor"] is not None
    coverage = by["lesion", "coverage"]  # half of 14 real ones is too few for a floor
    assert coverage["value"] is not None and coverage["interval"][1] <= 1 and coverage["floor"] is None
    masks = result["masks"]
    assert masks["sim iou with turns"]["value"] >= masks["sim iou"]["value"] and masks["sharpness"]["synthetic"]["n"] == 13
    assert 0 <= masks["agreement"]["real"]["value"] <= 1
    text = (tmp_path / "out" / "evaluation.md").read_text()
    assert "random_vgg (area to 128)" in text and "real against itself" in text and "starter:window_segmenter" in text
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "features").rglob("*.safetensors")}
    again = evaluate(real, made, tmp_path / "out", **(FAST | {"judge": "starter:window_segmenter"}))
    assert again == result and kept == {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "features").rglob("*.safetensors")}


def test_sets_that_cannot_be_compared_are_refused(real, tmp_path):
    made = folder(tmp_path / "made", 340, 3, synthetic=True)
    for first, second, said in ((made, real, "synthetic cases only"), (real, real, "given as real and as synthetic")):
        with pytest.raises(UserError, match=said):
            evaluate(first, second, tmp_path / "out", **FAST)
    copies = folder(tmp_path / "copies", 300, 5)
    with pytest.raises(UserError, match="byte for byte"):
        evaluate(real, copies, tmp_path / "out", **FAST)
    with pytest.raises(UserError, match="holds one case"):
        evaluate(real, folder(tmp_path / "one", 350, 1, synthetic=True), tmp_path / "out", **FAST)
    with pytest.raises(UserError, match="no case of the split test"):
        evaluate(real, made, tmp_path / "out", split="test", **FAST)
    with pytest.raises(UserError, match="evaluation-nowhere"):
        evaluate(real, tmp_path / "evaluation-nowhere", tmp_path / "out", **FAST)
    assert not (tmp_path / "out" / "evaluation.json").exists()


def test_a_mistyped_network_leaves_the_folder_free(real, tmp_path):
    made = folder(tmp_path / "made", 340, 3, synthetic=True)
    for change, said in (({"extractors": ("starter:encodr",)}, "encodr"), ({"perceptual": "fid_inception:none"}, "none")):
        with pytest.raises(UserError, match=said):
            evaluate(real, made, tmp_path / "out", **(FAST | change))
    assert not (tmp_path / "out").exists()


def test_labels_too_thin_to_compare_are_left_out(real, tmp_path):
    cases = [render(k, 1100, polyps=1) for k in range(370, 372)]
    for case in cases:
        edge = case.mask & ~cv2.erode(case.mask.astype(np.uint8), np.ones((3, 3))).astype(bool)
        case.mask, case.boxes, case.provenance = edge, (), {"synthetic": True}
    write_data_set(tmp_path / "thin", cases)
    sets = [open_source(real), open_source(tmp_path / "thin")]
    pictures = [read_pictures(w, s.cases, [], None, "", tmp_path / "cache", "cpu") for w, s in zip(("real", "made"), sets, strict=True)]
    assert label_figures(pictures, "") is None and label_figures([pictures[0]] * 2, "") is not None


def test_a_lesion_that_was_added_is_measured_alone(tmp_path):
    case = render(380, 256, polyps=0)
    case.mask = box_mask((20, 20, 150, 150), case.size) | box_mask((200, 200, 220, 220), case.size)
    case.label = POLYP
    region = ((195, 195), (225, 195), (225, 225), (195, 225))
    case.provenance = {"synthetic": True, "request": Request("some-frame", POLYP, region, 0).to_json()}
    write_data_set(tmp_path / "added", [case])
    found = read_pictures("added", open_source(tmp_path / "added").cases, [], None, "", tmp_path / "cache", "cpu")
    assert found.rows[0]["drawn"]["size"] == pytest.approx(20 / 256, abs=0.01)


@pytest.mark.slow
def test_grey_frames_and_missing_masks_are_measured_as_far_as_they_go(real, tmp_path):
    cases = [render(k, 96, polyps=1) for k in range(360, 364)]
    for case in cases:
        case.image = np.repeat(case.image.mean(-1, keepdims=True).astype(np.uint8), 3, -1)
        case.mask, case.provenance = None, {"synthetic": True}
    write_data_set(tmp_path / "grey", cases)
    result = evaluate(real, tmp_path / "grey", tmp_path / "out", **FAST)
    assert result["masks"] is None and any(
        f["measure"] == "kid" and f["value"] is not None for f in result["figures"] if f["pictures"] == "frame"
    )


def test_kept_features_belong_to_judge_labels_and_files(real, tmp_path):
    cases = open_source(real).cases[:3]
    read_pictures("real", cases, [], None, "a judge", tmp_path, "cpu")
    first = {p.name for p in tmp_path.iterdir()}
    assert (
        read_pictures("real", cases, [], None, "a judge", tmp_path, "cpu").count("lesion") == 3
        and {p.name for p in tmp_path.iterdir()} == first
    )
    read_pictures("real", cases, [], None, "another judge", tmp_path, "cpu")
    cases[0].boxes = ((1, 1, 20, 20),)
    read_pictures("real", cases, [], None, "a judge", tmp_path, "cpu")
    assert len(list(tmp_path.iterdir())) == 3


def test_labels_in_which_the_judge_finds_nothing_count(tmp_path):
    source = open_source(folder(tmp_path / "made", 340, 12, synthetic=True))
    rows = [{"lesion": True, "agreement": 0.0 if k < 6 else 0.9, "sharpness": 2.0} for k in range(12)]
    found = label_figures([Pictures(source.cases, {}, rows)] * 2, "someone")
    assert found["agreement"]["real"]["value"] == pytest.approx(0.45) and found["agreement"]["real"]["n"] == 12
    few = Pictures(source.cases[:4], {}, rows[4:8])
    told = label_figures([few, few], "someone")["agreement"]["synthetic"]
    assert told["interval"] is None and told["value"] == pytest.approx(0.45)
