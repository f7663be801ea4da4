import numpy as np
import pytest

from polypforge.evaluation.masks.similarity import mask_similarity
from polypforge.masks.shapes import box_mask


def test_known_answers():
    half = box_mask((0, 0, 64, 32), (64, 64))
    quarter = box_mask((0, 0, 32, 32), (64, 64))
    none = np.zeros((64, 64), bool)
    assert mask_similarity([half], [half, none]) == 1.0
    assert mask_similarity([quarter], [half]) == pytest.approx(0.75)
    assert mask_similarity([quarter], [half], "iou") == pytest.approx(0.5)
    assert mask_similarity([half, quarter], [half]) == pytest.approx((1 + 0.75) / 2)  # summed over the generated, not the real ones
    upright = half.T
    assert mask_similarity([upright], [half], "iou") == pytest.approx(1 / 3)
    assert mask_similarity([upright], [half], "iou", symmetries=True) == 1.0


def test_more_real_masks_never_lower_it_and_sizes_may_differ():
    rng = np.random.default_rng(0)
    masks = [box_mask((x, y, x + 40, y + 30), (128, 160)) for x, y in rng.integers(0, 90, (8, 2))]
    assert mask_similarity(masks[:3], masks[3:]) >= mask_similarity(masks[:3], masks[3:5])
    assert mask_similarity([masks[0]], [box_mask((0, 0, 4, 4), (8, 8))]) < 1
    with pytest.raises(ValueError, match="at least one"):
        mask_similarity([], masks)
    with pytest.raises(ValueError, match="pixels or iou"):
        mask_similarity(masks, masks, "dice")
