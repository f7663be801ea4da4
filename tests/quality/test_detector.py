import numpy as np
import pytest
import torch

from polypforge.core.errors import UserError
from polypforge.core.types import Case
from polypforge.core.window import around_mask
from polypforge.masks.shapes import bounding_box, box_iou, components
from polypforge.models.centernet import centre_targets
from polypforge.phantom.render import render
from polypforge.quality.detector import Detector, DetectorConfig, load_detector


@pytest.fixture
def tiny_detector():
    torch.manual_seed(0)
    return Detector(DetectorConfig(decoder=(32, 24, 16, 16), window_px=64))


def test_targets_by_hand():
    heat, sides, centre = centre_targets([(10, 20, 30, 60)], 64)
    assert centre.sum() == 1 and centre[39, 19] == 1 and heat[39, 19] == 1.0
    assert sides[:, 39, 19].tolist() == pytest.approx([20 / 64, 40 / 64])
    assert heat[0, 0] < 1e-4 < heat[45, 19]


def test_boxes_alone_can_train_it(tiny_detector, polyps):
    boxed = [Case(c.name, c.image, None, c.boxes or tuple(bounding_box(m) for m in components(c.mask, 30))) for c in polyps]
    batch = tiny_detector.training_batch(tiny_detector.prepare(boxed), 8, np.random.default_rng(0))
    assert {k: tuple(v.shape) for k, v in batch.items()} == tiny_detector.batch_shapes(8)
    assert batch["centre"].sum() > 0 and batch["sides"].max() <= 1
    loss, parts = tiny_detector.loss(batch, torch.Generator())
    assert torch.isfinite(loss) and set(parts) == {"focal", "sides"}


def test_saved_and_loaded_it_says_the_same(tiny_detector, tmp_path):
    tiny_detector.save_pretrained(tmp_path)
    windows = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), np.uint8)
    again = load_detector(tmp_path)
    assert again.detect(windows) == tiny_detector.detect(windows)
    (tmp_path / "config.json").write_text('{"model": "window_segmenter"}')
    with pytest.raises(UserError, match="is no window_detector"):
        load_detector(tmp_path)


@pytest.mark.slow
def test_it_learns_to_find_phantom_polyps(tiny_detector):
    torch.manual_seed(0)
    pool = tiny_detector.prepare([render(i, 160, polyps=1) for i in range(40)])
    optimiser = torch.optim.AdamW(tiny_detector.parameters(), 2e-3)
    tiny_detector.train()
    for step in range(220):
        batch = tiny_detector.training_batch(pool, 16, np.random.default_rng(step))
        loss, _ = tiny_detector.loss(batch, torch.Generator())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    held = [c for c in (render(1000 + i, 160, polyps=1) for i in range(24)) if c.mask.sum() > 300]
    lesions = [components(c.mask)[0] for c in held]
    found = tiny_detector.detect_in([c.image for c in held], [around_mask(m, 2.0, 64) for m in lesions])
    hits = [any(box_iou(box, bounding_box(m)) > 0.5 for box, sure in seen[:1]) for seen, m in zip(found, lesions, strict=True)]
    assert np.mean(hits) > 0.6
