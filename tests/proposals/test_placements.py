"""Places that are given: what is no place is said."""

import json

import pytest

from polypforge.core.errors import UserError
from polypforge.proposals.placements import read_boxes


def boxes(tmp_path, *values):
    (tmp_path / "boxes.json").write_text(json.dumps({"frame": list(values)}))
    return read_boxes(tmp_path / "boxes.json", {"frame": lambda: (100, 120)})


def test_a_box_gives_an_outline_that_fills_it(tmp_path):
    (proposal,) = boxes(tmp_path, [20, 30, 60, 80])["frame"]
    xs, ys = zip(*proposal.lesion, strict=True)
    assert abs(min(xs) - 20) <= 1 and abs(max(xs) - 59) <= 1 and abs(min(ys) - 30) <= 1 and abs(max(ys) - 79) <= 1


@pytest.mark.parametrize("box", [[0.3, 0.3, 0.6, 0.7], [10, 10, 11, 11], [10, 10, 60, 12]])
def test_shares_of_the_frame_and_specks_are_no_boxes(tmp_path, box):
    with pytest.raises(UserError, match="boxes are in pixels"):
        boxes(tmp_path, box)


@pytest.mark.parametrize("box", [[60, 30, 20, 80], [0, 0, 130, 50], [1, 2, 3], ["a", 0, 1, 2]])
def test_impossible_boxes_are_refused(tmp_path, box):
    with pytest.raises(UserError, match="box 1 of 'frame'"):
        boxes(tmp_path, box)
