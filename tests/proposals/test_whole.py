import numpy as np
import pytest

from polypforge.core.errors import UserError
from polypforge.core.types import Case, Request
from polypforge.masks.shapes import polygon_mask, region_mask
from polypforge.phantom.render import render
from polypforge.proposals.census import measure_lesions
from polypforge.proposals.plan import PlanConfig, Planner, shrunk
from polypforge.proposals.whole import FreePlanner, MaskPlanner


def test_mask_requests_use_every_mask_before_any_twice():
    cases = {n: Case(n, np.zeros((8, 8, 3), np.uint8), np.full((8, 8), n != "normal")) for n in ("a", "b", "normal", "c")}
    planner = MaskPlanner(list(cases), cases.__getitem__, [], seed=3)
    asked = [planner.requests(i)[0] for i in range(6)]
    assert {r.background for r in asked[:3]} == {"a", "b", "c"} and len({r.id for r in asked}) == 6
    assert asked == [MaskPlanner(list(cases), cases.__getitem__, [], seed=3).requests(i)[0] for i in range(6)]
    assert all(r.region == () for r in asked)
    with pytest.raises(UserError, match="no lesion"):
        MaskPlanner(["normal"], cases.__getitem__, [], 0).requests(0)


def test_free_requests_name_nothing_and_number_themselves():
    asked = [FreePlanner([], 5).requests(i)[0] for i in range(4)]
    assert all(r.background == "" for r in asked) and {r.seed - asked[0].seed for r in asked} == {0, 1, 2, 3}


def test_asked_outlines_lie_in_their_regions():
    cases = {f"c{i}": render(600 + i, 200, polyps=1) for i in range(6)}
    for name, case in cases.items():
        case.name = name
    references = [a for c in cases.values() for a in measure_lesions(c)]
    planner = Planner(sorted(cases), cases.__getitem__, references, 0, PlanConfig(replace=0.5, add=0.5, move=0.0), shapes=True)
    for index in range(12):
        request = planner.requests(index)[-1]
        size = cases[request.background].size
        lesion, region = polygon_mask(list(request.lesion), size), region_mask(request.region, size)
        assert lesion.any() and (lesion & ~region).sum() <= 0.06 * lesion.sum()
        assert Request.from_json(request.to_json()) == request


def test_a_polygon_shrinks_about_its_middle():
    square = ((0, 0), (10, 0), (10, 10), (0, 10))
    assert shrunk(square, 0.5) == ((2, 2), (8, 2), (8, 8), (2, 8)) or np.abs(np.array(shrunk(square, 0.5)).mean(0) - 5).max() < 0.6


def test_no_region_means_the_whole_frame():
    assert region_mask((), (3, 4)).all() and region_mask((), (3, 4)).shape == (3, 4)
