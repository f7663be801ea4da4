"""Downstream detection: average precision against pycocotools, the three networks."""

import os
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image

from polypforge.core.config import from_dict
from polypforge.core.errors import UserError
from polypforge.core.seeding import numpy_rng
from polypforge.evaluation.detection import network
from polypforge.evaluation.detection.average_precision import Ranked, average_precision, score_boxes, summarise
from polypforge.evaluation.detection.network import LesionDetector, LesionDetectorConfig, _batch
from polypforge.masks.shapes import box_iou
from polypforge.phantom.render import render


def test_overlap_of_boxes():
    assert box_iou((0, 0, 4, 4), (2, 0, 6, 4)) == pytest.approx(8 / 24) and box_iou((0, 0, 1, 1), (5, 5, 6, 6)) == 0


def test_textbook_cases():
    right = score_boxes("a", "a", [((0, 0, 10, 10), 0.9)], [(0, 0, 10, 10)])
    assert average_precision([right], 0) == 1
    twice = score_boxes("a", "a", [((0, 0, 10, 10), 0.9), ((0, 0, 10, 10), 0.8)], [(0, 0, 10, 10)])
    assert (
        average_precision([twice], 0) == 1 and np.asarray(twice["hits"])[1].sum() == 0
    )  # the second is a false one, but after full recall
    first_wrong = score_boxes("a", "a", [((50, 50, 60, 60), 0.9), ((0, 0, 10, 10), 0.8)], [(0, 0, 10, 10)])
    assert average_precision([first_wrong], 0) == pytest.approx(0.5)
    missed = score_boxes("a", "a", [], [(0, 0, 10, 10)])
    assert average_precision([missed], 0) == 0 and np.isnan(Ranked([score_boxes("a", "a", [], [])]).average_precision(0))
    told = summarise([[right, missed]])["measures"]
    assert told["recall"]["value"] == 0.5 and told["precision"]["value"] == 1 and told["F1"]["value"] == pytest.approx(2 / 3)


def test_average_precision_equals_pycocotools():
    coco = pytest.importorskip("pycocotools.coco")
    from pycocotools.cocoeval import COCOeval

    rng = np.random.default_rng(0)
    rows, images, annotations, found = [], [], [], []
    for k in range(30):
        truth = [
            tuple(map(float, (x, y, x + w, y + h)))
            for x, y, w, h in rng.integers((0, 0, 20, 20), (100, 100, 60, 60), (rng.integers(0, 4), 4))
        ]
        boxes = []
        for t in truth:
            if rng.random() < 0.8:
                boxes.append((tuple(np.array(t) + rng.uniform(-8, 8, 4)), float(rng.random())))
        boxes += [((x, y, x + 30.0, y + 30.0), float(rng.random())) for x, y in rng.integers(0, 100, (rng.integers(0, 3), 2)).astype(float)]
        rows.append(score_boxes(str(k), str(k), boxes, truth))
        images.append({"id": k, "width": 200, "height": 200})
        for t in truth:
            size = (t[2] - t[0], t[3] - t[1])
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": k,
                    "category_id": 1,
                    "bbox": [t[0], t[1], *size],
                    "area": size[0] * size[1],
                    "iscrowd": 0,
                }
            )
        found += [{"image_id": k, "category_id": 1, "bbox": [b[0], b[1], b[2] - b[0], b[3] - b[1]], "score": s} for b, s in boxes]
    truth_set = coco.COCO()
    truth_set.dataset = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "polyp"}]}
    truth_set.createIndex()
    judged = COCOeval(truth_set, truth_set.loadRes(found), "bbox")
    judged.evaluate()
    judged.accumulate()
    judged.summarize()
    ranked = Ranked(rows)
    assert ranked.average_precision(0) == pytest.approx(judged.stats[1], abs=1e-6)
    assert np.mean([ranked.average_precision(k) for k in range(10)]) == pytest.approx(judged.stats[0], abs=1e-6)


def test_frames_without_a_box_are_no_witnesses_of_what_was_missed():
    """Three scenes with a lesion that nothing finds, twenty without: recall is 0, whatever is drawn, and three bear no interval."""
    rows = [score_boxes(f"p{i}", f"p{i}", [], [(0, 0, 9, 9)]) for i in range(3)] + [
        score_boxes(f"n{i}", f"n{i}", [], []) for i in range(20)
    ]
    told = summarise([rows])["measures"]
    assert told["recall"]["value"] == 0 and all(figure["interval"] is None for figure in told.values())
    more = summarise([rows + [score_boxes(f"q{i}", f"q{i}", [], [(0, 0, 9, 9)]) for i in range(3)]])["measures"]
    assert more["recall"]["interval"] == (0.0, 0.0)


def test_weights_stand_for_repeated_images():
    a = score_boxes("a", "a", [((0, 0, 10, 10), 0.9)], [(0, 0, 10, 10)])
    b = score_boxes("b", "b", [((30, 30, 40, 40), 0.95)], [(0, 0, 10, 10)])
    assert Ranked([a, b]).average_precision(0, np.array([3.0, 1.0])) == pytest.approx(average_precision([a, a, a, b], 0))


@pytest.mark.slow
@pytest.mark.parametrize("settings", [
    {"kind": "centernet", "encoder": "tu-resnet10t", "depth": 3, "decoder": [32, 16, 8]}, {"kind": "rt_detr", "width": 32}, {"kind": "fcos"},

], ids=lambda s: s["kind"])  # fmt: skip
def test_detectors_learn_save_and_predict(settings, tmp_path):
    torch.manual_seed(0)
    model = LesionDetector(from_dict(LesionDetectorConfig, settings | {"size_px": 64}))
    pool = model.prepare([render(70 + k, 128, polyps=1 + k % 2) for k in range(4)])
    pool.augment = "flips"
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    losses = []
    for step in range(10):
        loss, parts = model.loss(model.training_batch(pool, 4, numpy_rng(step)), torch.Generator())
        assert parts and torch.isfinite(loss)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    assert 0 <= model.eval().validation_losses(model.validation_batch(pool, 4, numpy_rng(0)), 0)["1 - AP50"] <= 1
    model.save_pretrained(tmp_path)
    boxes = LesionDetector.load_pretrained(tmp_path).predict([render(70, 128).image])[0]
    assert all(0 <= s <= 1 for _, s in boxes) and boxes == sorted(boxes, key=lambda b: -b[1])


@pytest.mark.slow
@pytest.mark.parametrize("version", ["yolov8n", "yolo26n"])  # with and without suppression of doubles
def test_yolo_finds_what_it_was_shown_and_leaves_other_libraries_as_they_are(version, tmp_path):
    if find_spec("ultralytics") is None:
        pytest.skip("needs the extra yolo")
    opened, saved = Image.open, torch.save
    torch.manual_seed(0)
    model = LesionDetector(from_dict(LesionDetectorConfig, {"kind": "yolo", "yolo": version, "size_px": 96}))
    assert Image.open is opened and torch.save is saved and os.environ["YOLO_OFFLINE"] == "true"
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.3  # ultralytics' 0.03 is meant for long trainings
    pool = model.prepare([render(70 + k, 128, polyps=1) for k in range(4)])
    pool.augment = "none"
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    for step in range(60):
        loss, _ = model.loss(model.training_batch(pool, 4, numpy_rng(step)), torch.Generator())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert model.eval().validation_losses(model.validation_batch(pool, 4, numpy_rng(0)), 0)["1 - AP50"] < 0.7
    model.save_pretrained(tmp_path)
    image = render(70, 128, polyps=1).image
    assert LesionDetector.load_pretrained(tmp_path).predict([image]) == model.predict([image])


def test_empty_frames_give_no_boxes_to_learn():
    model = LesionDetector(from_dict(LesionDetectorConfig, {"encoder": "tu-resnet10t", "depth": 3, "decoder": [32, 16, 8], "size_px": 64}))
    batch = model.validation_batch(model.prepare([render(7, 96, polyps=0), render(8, 96, polyps=1)]), 2, numpy_rng(0))
    assert batch["count"].tolist() == [1, 0] and not batch["boxes"][1].any()  # those that show a lesion come first
    assert torch.isfinite(model.loss(batch, torch.Generator())[0])
    with pytest.raises(UserError, match="kind"):
        from_dict(LesionDetectorConfig, {"kind": "ssd"})


def test_yolo_is_named_by_version_and_says_what_it_needs(monkeypatch):
    for name in ("../model", "yolov8n.yaml", "yolov5n"):
        with pytest.raises(UserError, match="version and a size"):
            from_dict(LesionDetectorConfig, {"kind": "yolo", "yolo": name})
    with pytest.raises(UserError, match="starts from nothing"):
        from_dict(LesionDetectorConfig, {"kind": "yolo", "weights": "yolov8n.pt"})
    monkeypatch.setattr(network, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"polypforge\[yolo\]"):
        from_dict(LesionDetectorConfig, {"kind": "yolo"})


def test_a_lesion_that_is_mirrored_into_the_frame_is_taught_too():
    lesion = np.zeros((64, 64), bool)
    lesion[8:24, 8:24] = lesion[40:50, 40:50] = True
    batch = _batch([(np.full((64, 64, 3), 90, np.uint8), [lesion])])
    assert int(batch["count"][0]) == 2 and sorted(map(tuple, batch["boxes"][0, :2].tolist())) == [(8, 8, 24, 24), (40, 40, 50, 50)]
