"""Critic, diversity, repetitions, refined labels."""

import numpy as np
import pytest

from polypforge.core.types import Case
from polypforge.core.window import around_mask
from polypforge.evaluation.images.diversity import SIDE_PX, ms_ssim_within, vendi_score
from polypforge.masks.shapes import box_mask
from polypforge.quality.critic import critic_auc
from polypforge.quality.gates import Look, Subject
from polypforge.quality.neighbours import descriptor, first_alike
from polypforge.quality.refinement import refined_label, soft_label

rng = np.random.default_rng(0)


def test_the_critic_tells_shifted_features_and_is_blind_on_equal_ones():
    names = [f"g{i // 2}" for i in range(120)]
    noise = rng.normal(0, 1, (120, 8)).astype(np.float32)
    blind = critic_auc(noise[:60], noise[60:], names, "noise")
    assert blind.interval[0] < 0.5 < blind.interval[1] and blind.real == blind.synthetic == 60
    told = critic_auc(noise[:60], noise[60:] + 2, names, "noise")
    assert told.auc > 0.95 and told.interval[0] > 0.9
    with pytest.raises(ValueError, match="at least"):
        critic_auc(noise[:5], noise[60:], names[:65], "noise")


def test_vendi_counts_what_is_different():
    eye = np.eye(6, dtype=np.float32)
    assert vendi_score(eye) == pytest.approx(6) and vendi_score(np.repeat(eye[:1], 9, 0)) == pytest.approx(1)
    assert vendi_score(np.concatenate([eye, eye])) == pytest.approx(6)
    with pytest.raises(ValueError):
        vendi_score(eye[:0])


def test_ms_ssim_of_copies_is_one():
    image = rng.integers(0, 255, (SIDE_PX, SIDE_PX, 3), np.uint8)
    other = rng.integers(0, 255, (SIDE_PX, SIDE_PX, 3), np.uint8)
    assert ms_ssim_within([image, image]) == pytest.approx([1.0], abs=1e-4)
    assert len(ms_ssim_within([image, other, image])) == 3 and min(ms_ssim_within([image, other])) < 0.3
    with pytest.raises(ValueError):
        ms_ssim_within([image])


def test_repetitions_are_found_mirrored_and_turned(polyps):
    views = [descriptor(c.image, c.mask) for c in polyps[:3]]
    turned = np.ascontiguousarray(np.rot90(views[0])[:, ::-1])
    assert first_alike([*views, turned, views[1]], 0.95) == [None, None, None, 0, 1]
    assert first_alike([], 0.95) == []


def looked(lesion, found, more=()):
    """A case with this label, and judges that found these masks."""
    case = Case("x", np.full((100, 100, 3), 120, np.uint8), lesion)
    subject = Subject("x", case, box_mask((10, 10, 90, 90), (100, 100)), lesion)
    window = around_mask(lesion, 2.0, 64)
    for number, mask in enumerate((found, *more)):
        chance = window.crop_mask(mask, 96).astype(np.float32)
        subject.looks[str(number)] = [Look(window, chance, window.crop_mask(lesion, 96), np.ones((96, 96), bool))]
    return subject


def test_a_boundary_moves_only_where_judges_agree():
    lesion, found = box_mask((30, 30, 70, 70), (100, 100)), box_mask((30, 30, 73, 70), (100, 100))
    moved = refined_label(looked(lesion, found))
    assert moved is not None and abs(int(moved.sum()) - int(found.sum())) < 90
    assert refined_label(looked(lesion, box_mask((30, 30, 50, 70), (100, 100)))) is None
    assert refined_label(looked(lesion, found, [box_mask((30, 30, 55, 70), (100, 100))])) is None


def test_soft_labels_lie_between_label_and_judge():
    lesion, found = box_mask((30, 30, 70, 70), (100, 100)), box_mask((30, 30, 50, 70), (100, 100))
    soft = soft_label(looked(lesion, found))
    assert soft[50, 40] == pytest.approx(1, abs=0.05) and soft[50, 60] == pytest.approx(0.5, abs=0.05) and soft[5, 5] == 0
