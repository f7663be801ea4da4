import numpy as np
import pytest
import torch

from polypforge.core.types import Case, Request
from polypforge.masks.shapes import box_iou, box_mask
from polypforge.quality.agreement import boundary_f
from polypforge.quality.gates import GATES, Gatekeeper, Rule, Subject
from polypforge.quality.gates.gatekeeper import label_gates
from polypforge.quality.segmenter import WindowSegmenter

REGION = ((40, 40), (120, 40), (120, 120), (40, 120))
POLYP = Request("a", "polyp", REGION, 1)
NORMAL = Request("a", "normal", REGION, 1)
WHOLE = Request("", "polyp", (), 1)
SIZE = (160, 160)
LESION = box_mask((60, 60, 100, 100), SIZE)
NOTHING = np.zeros(SIZE, bool)


class Oracle(WindowSegmenter):
    """Finds a mask that it was told of, wherever it is looked for."""

    def __init__(self, config, truth):
        torch.nn.Module.__init__(self)
        self.config, self.truth = config, truth

    def predict_in(self, images, windows):
        return np.stack([w.crop_mask(self.truth, self.config.window_px).astype(np.float32) for w in windows])


def case(mask):
    return Case("x", np.full((*SIZE, 3), 120, np.uint8), mask)


def scored(tiny_segmenter, truth, mask, gate, request=POLYP):
    keeper = Gatekeeper([Rule(gate)], {"oracle": Oracle(tiny_segmenter.config, truth)})
    return keeper.scores([Subject.synthetic(case(mask), request)])[0][gate]


def verdict(tiny_segmenter, truth, mask, request=POLYP, min_iou=0.7):
    keeper = label_gates(Oracle(tiny_segmenter.config, truth), min_iou)
    return keeper.verdicts([Subject.synthetic(case(mask), request)])[0]


def test_verdicts(tiny_segmenter):
    shifted = box_mask((70, 60, 110, 100), SIZE)
    right = verdict(tiny_segmenter, LESION, LESION)
    assert right.kept and right.agreement > 0.97 and right.reason == "" and right.failed == ()
    off = verdict(tiny_segmenter, shifted, LESION)
    assert not off.kept and "disagrees" in off.reason and off.agreement == pytest.approx(0.6, abs=0.05)
    assert verdict(tiny_segmenter, shifted, LESION, min_iou=0.5).kept
    assert verdict(tiny_segmenter, NOTHING, NOTHING).reason == "no lesion was drawn"
    assert "fills its region" in verdict(tiny_segmenter, LESION, box_mask((40, 40, 121, 121), SIZE)).reason


def test_removals_are_judged_by_what_is_left(tiny_segmenter):
    assert verdict(tiny_segmenter, NOTHING, NOTHING, NORMAL).kept
    left = verdict(tiny_segmenter, LESION, NOTHING, NORMAL)
    assert not left.kept and "still seen" in left.reason


def test_a_second_labelled_lesion_must_be_found_and_one_that_is_not_labelled_must_not_be(tiny_segmenter):
    second = box_mask((110, 60, 125, 75), SIZE)
    assert scored(tiny_segmenter, LESION, LESION, "missed_lesion") is None
    assert scored(tiny_segmenter, LESION | second, LESION | second, "missed_lesion", WHOLE) > 0.9
    assert scored(tiny_segmenter, LESION, LESION | second, "missed_lesion", WHOLE) == 0.0
    assert scored(tiny_segmenter, LESION, LESION, "extra_lesion") == 0.0
    extra = scored(tiny_segmenter, LESION | second, LESION, "extra_lesion")
    assert extra == pytest.approx(150 / 1600, rel=0.1)  # what of it lies in the window


def test_a_new_frame_is_searched_as_a_whole(tiny_segmenter):
    far = box_mask((130, 130, 155, 155), SIZE)
    small = box_mask((10, 10, 30, 30), SIZE)
    assert scored(tiny_segmenter, small | far, small, "extra_lesion", WHOLE) > 1
    assert scored(tiny_segmenter, small | far, small, "extra_lesion", Request("a", "polyp", ((0, 0), (50, 0), (50, 50), (0, 50)), 1)) == 0


def test_what_was_asked_is_compared_with_label_and_prediction(tiny_segmenter):
    asked = Request("a", "polyp", REGION, 1, lesion=((60, 60), (99, 60), (99, 99), (60, 99)))
    half = box_mask((60, 60, 80, 100), SIZE)
    assert scored(tiny_segmenter, LESION, LESION, "asked_agreement", asked) == 1.0
    assert scored(tiny_segmenter, LESION, half, "asked_agreement", asked) == pytest.approx(0.5, abs=0.01)
    assert scored(tiny_segmenter, half, LESION, "asked_found", asked) == pytest.approx(0.5, abs=0.05)
    assert (
        scored(tiny_segmenter, LESION, half, "asked_boundary", asked) < scored(tiny_segmenter, LESION, LESION, "asked_boundary", asked) == 1
    )
    assert scored(tiny_segmenter, LESION, LESION, "asked_agreement") is None


def test_boundary_f_by_hand():
    a, b = box_mask((2, 2, 12, 12), (20, 20)), box_mask((4, 2, 14, 12), (20, 20))
    assert boundary_f(a, a) == 1.0 and boundary_f(a & False, a & False) == 1.0 and boundary_f(a, a & False) == 0.0
    assert boundary_f(a, b, 2.0) == 1.0
    # Both have 36 edge pixels; with no tolerance those of the shared top and bottom rows agree: x = 4..11, twice.
    assert boundary_f(a, b, 0.0) == pytest.approx(16 / 36)


def test_several_judges_count_by_the_least_favourable(tiny_segmenter):
    judges = {"good": Oracle(tiny_segmenter.config, LESION), "bad": Oracle(tiny_segmenter.config, NOTHING)}
    keeper = Gatekeeper([Rule("label_agreement")], judges)
    assert keeper.scores([Subject.synthetic(case(LESION), POLYP)])[0]["label_agreement"] == 0.0


def test_the_detector_gate_wants_a_sure_box_in_the_right_place():
    subject = Subject.synthetic(case(LESION), POLYP)
    score = GATES["detected"].score
    assert score(subject) is None
    subject.sightings = {"d": [((62, 60, 102, 100), 0.8), ((0, 0, 20, 20), 0.99)]}
    assert score(subject) == 0.8
    subject.sightings = {"d": [((0, 0, 20, 20), 0.99)]}
    assert score(subject) == 0.0
    assert box_iou((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3) and box_iou((0, 0, 1, 1), (2, 2, 3, 3)) == 0


def test_a_pasted_lesion_is_judged_as_its_donors():
    pasted = case(LESION)
    assert Subject.synthetic(pasted, POLYP).made_from == "a"
    pasted.provenance["donor"] = "giver"
    assert Subject.synthetic(pasted, POLYP).made_from == "giver"
