import numpy as np
import pytest
import torch

from polypforge.core.intervals import bootstrap_interval, wilson_interval
from polypforge.core.window import around_mask
from polypforge.masks.shapes import box_mask
from polypforge.phantom.render import render
from polypforge.quality.agreement import iou
from polypforge.quality.judges import agreement, overlap_losses
from polypforge.quality.neighbours import descriptor, nearest
from polypforge.quality.segmenter import WindowSegmenter


def test_iou_by_hand():
    a, b = box_mask((0, 0, 2, 2), (4, 4)), box_mask((1, 0, 3, 2), (4, 4))
    assert iou(a, b) == pytest.approx(2 / 6)
    assert iou(a & False, b & False) == 1.0 and iou(a, a) == 1.0


def test_wilson_known_answer_and_bootstrap_covers():
    assert wilson_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson_interval(0, 0) == (0.0, 1.0)
    hits = 0
    for seed in range(120):
        low, high = bootstrap_interval(np.random.default_rng(seed).normal(0, 1, 60), resamples=500, seed=seed)
        hits += low <= 0 <= high
    assert 0.87 < hits / 120 <= 1.0
    with pytest.raises(ValueError):
        bootstrap_interval([1.0])
    with pytest.raises(ValueError):
        bootstrap_interval([1.0, 2.0], groups=["one video", "one video"])


def test_intervals_of_pictures_from_videos_cover_the_truth():
    """Half of the variance lies between videos: pictures alone, as witnesses, would cover it in about 45 of 100 cases."""
    hits = {"alone": 0, "grouped": 0}
    videos = np.repeat(np.arange(20), 20)
    for seed in range(150):
        rng = np.random.default_rng(seed)
        values = (rng.normal(0, 1, 20)[videos] + rng.normal(0, 1, 400)).tolist()
        for how, groups in (("alone", None), ("grouped", videos.astype(str).tolist())):
            low, high = bootstrap_interval(values, resamples=400, seed=seed, groups=groups)
            hits[how] += low <= 0 <= high
    assert hits["grouped"] > 0.84 * 150 and hits["alone"] < 0.6 * 150


@pytest.mark.slow
def test_the_segmenter_learns_to_find_phantom_polyps(tiny_segmenter):
    torch.manual_seed(0)
    train = tiny_segmenter.prepare([render(i, 160, polyps=1) for i in range(40)])
    held = [c for c in (render(1000 + i, 160, polyps=1) for i in range(16)) if c.mask.sum() > 200]

    def score():
        return float(np.mean(agreement(tiny_segmenter, [c.image for c in held], [c.mask for c in held])))

    before = score()
    optimizer = torch.optim.Adam(tiny_segmenter.parameters(), 3e-3)
    tiny_segmenter.train()
    for step in range(120):
        batch = tiny_segmenter.training_batch(train, 12, np.random.default_rng(step))
        loss, _ = tiny_segmenter.loss(batch, torch.Generator())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert score() > before + 0.2


def test_windows_without_lesion_leave_the_overlap_a_number():
    nothing, some = torch.zeros(2, 1, 8, 8, dtype=torch.bool), torch.ones(2, 1, 8, 8, dtype=torch.bool)
    assert overlap_losses(some, nothing) == {"1 - IoU": 0.0, "false alarm": 1.0}
    assert overlap_losses(some, some) == {"1 - IoU": 0.0, "false alarm": 0.0}


def test_segmenter_save_and_load(tiny_segmenter, tmp_path):
    tiny_segmenter.save_pretrained(tmp_path / "s")
    twin = WindowSegmenter.load_pretrained(tmp_path / "s").eval()
    windows = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), np.uint8)
    assert np.allclose(twin.predict(windows), tiny_segmenter.predict(windows), atol=1e-5)


def test_copies_are_nearest_under_any_pose_and_new_lesions_are_not(polyps):
    bank = [descriptor(c.image, c.mask) for c in polyps]
    for i, c in enumerate(polyps):
        mirrored = descriptor(c.image[:, ::-1].copy(), c.mask[:, ::-1].copy())
        turned = descriptor(np.rot90(c.image).copy(), np.rot90(c.mask).copy())
        darker = descriptor((c.image * 0.7).astype(np.uint8), c.mask)
        for found in nearest([mirrored, turned, darker], bank):
            assert found.index == i and found.correlation > 0.95
    fresh = [c for c in (render(500 + i, 160, polyps=1) for i in range(10)) if c.mask.sum() > 200]
    assert np.median([n.correlation for n in nearest([descriptor(c.image, c.mask) for c in fresh], bank)]) < 0.9
    with pytest.raises(ValueError):
        nearest(bank, [])


def test_windows_of_the_gate_hold_the_lesion():
    lesion = box_mask((10, 10, 40, 20), (160, 160))
    assert around_mask(lesion, 2.0, 64).crop_mask(lesion, 64).sum() > 200
