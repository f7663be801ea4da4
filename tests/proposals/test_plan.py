import itertools

import numpy as np
import pytest

from polypforge.core.errors import UserError
from polypforge.core.types import Case
from polypforge.data.field_of_view import field_of_view
from polypforge.data.prepared import prepare
from polypforge.masks.shapes import bounding_box, box_iou, polygon_mask
from polypforge.phantom.render import render
from polypforge.proposals.census import measure_lesions
from polypforge.proposals.outlines import blob
from polypforge.proposals.places import propose
from polypforge.proposals.plan import REPEATED, PlanConfig, Planner
from polypforge.proposals.removal import removals


@pytest.fixture(scope="module")
def frames():
    return {c.name: c for c in (render(i, 200, polyps=i % 3) for i in range(9))}


def planner(frames, seed=0, **shares):
    references = [a for c in frames.values() for a in measure_lesions(c)]
    return Planner(list(frames), frames.__getitem__, references, seed, PlanConfig(**shares) if shares else PlanConfig())


def test_plans_are_deterministic_and_differ_by_seed(frames):
    one = [r.id for i in range(10) for r in planner(frames).requests(i)]
    assert one == [r.id for i in range(10) for r in planner(frames).requests(i)]
    assert set(one).isdisjoint(r.id for i in range(10) for r in planner(frames, seed=1).requests(i))
    assert len(set(one)) == len(one)
    assert [r.id for r in planner(frames).requests(7)] == [r.id for r in planner(frames).requests(7)]


def test_large_plans_keep_the_shares_and_places_serve_in_turn(frames):
    shown = {name: case for name, case in frames.items() if case.mask.any()}
    plan, passes = planner(shown), 12
    made = [plan.requests(i)[-1] for i in range(passes * len(shown))]
    replaced = [(shown[r.background].mask & polygon_mask(list(r.region), shown[r.background].size)).any() for r in made]
    assert 0.35 < np.mean(replaced) < 0.65  # asked for: half
    first = made[: len(shown)]
    for a, b in itertools.combinations(first, 2):  # within one pass no place serves twice
        if a.background == b.background:
            boxes = [bounding_box(polygon_mask(list(r.region), shown[r.background].size)) for r in (a, b)]
            assert box_iou(*boxes) <= REPEATED


def test_placed_regions_avoid_lesions_border_and_darkness(frames):
    adds = planner(frames, replace=0.0, add=1.0, move=0.0)
    for index in range(20):
        (request,) = adds.requests(index)
        case = frames[request.background]
        region = polygon_mask(list(request.region), case.size)
        assert not (region & case.mask).any()
        assert field_of_view(case.image)[region].mean() > 0.93
        assert case.image[region].mean() > 30


def test_replacing_covers_the_old_lesion(frames):
    replaces = planner(frames, replace=1.0, add=0.0, move=0.0)
    seen = 0
    for index in range(15):
        (request,) = replaces.requests(index)
        case = frames[request.background]
        if case.mask.any():
            region = polygon_mask(list(request.region), case.size)
            boxes = prepare(case).boxes
            largest = np.zeros(case.size, bool)
            largest[boxes[0][1] : boxes[0][3], boxes[0][0] : boxes[0][2]] = True
            assert (region & case.mask & largest).sum() > 0.95 * (case.mask & largest & field_of_view(case.image)).sum()
            seen += 1
    assert seen > 3


@pytest.mark.parametrize("place", [np.s_[0:160, 2:12], np.s_[40:120, 36:41]])
def test_a_label_that_can_hardly_be_seen_gives_no_request_without_an_outline(place):
    """In the black border, and all of it but a sliver."""
    image = np.zeros((160, 160, 3), np.uint8)
    image[:, 40:] = np.random.default_rng(0).integers(90, 140, (160, 120, 3))
    mask = np.zeros((160, 160), bool)
    mask[place] = True
    cases = {"odd": Case("odd", image, mask, label="polyp"), "usual": render(3, 200, polyps=1)}
    references = measure_lesions(cases["usual"])
    for shapes in (False, True):
        replaces = Planner(list(cases), cases.__getitem__, references, 0, PlanConfig(replace=1.0, add=0.0, move=0.0), shapes)
        made = [r for i in range(6) for r in replaces.requests(i)]
        assert made and all(len(r.region) >= 3 and len(r.lesion) not in (1, 2) for r in made)
        seen = (mask & field_of_view(image)).any()
        assert seen or not any(r.background == "odd" for r in made)
    assert all(len(r.region) >= 3 for r in removals(prepare(cases["odd"]), 1)) and (seen or not removals(prepare(cases["odd"]), 1))


def test_moving_removes_first_and_chains(frames):
    moves = planner(frames, replace=0.0, add=0.0, move=1.0)
    chains = [moves.requests(i) for i in range(12)]
    long = [c for c in chains if len(c) > 1]
    assert long
    for chain in long:
        assert [r.label for r in chain] == ["normal"] * (len(chain) - 1) + ["polyp"]
        assert all(b.parent == a.id for a, b in itertools.pairwise(chain))


def test_sizes_follow_the_data(frames):
    asked = [r.attributes["size"] for i in range(40) for r in planner(frames).requests(i) if r.label == "polyp"]
    real = [a.attributes.size for c in frames.values() for a in measure_lesions(c)]
    assert 0.5 < np.median(asked) / np.median(real) < 1.6


def test_dark_frames_have_no_place(rng):
    dark = np.full((120, 120, 3), 30, np.uint8)
    assert propose(dark, np.ones((120, 120), bool), np.zeros((120, 120), bool), 15, lambda r: blob(r, 0.8), rng) is None


def test_what_cannot_be_planned_is_said(frames):
    references = [a for c in frames.values() for a in measure_lesions(c)]
    with pytest.raises(UserError, match="no frame to repaint"):
        Planner([], frames.__getitem__, references, 0, PlanConfig())
    with pytest.raises(UserError, match="no lesion to learn"):
        Planner(list(frames), frames.__getitem__, [], 0, PlanConfig())
    dark = {"d": Case("d", np.zeros((120, 120, 3), np.uint8), np.zeros((120, 120), bool))}
    with pytest.raises(UserError, match="no place for a lesion"):
        Planner(["d"], dark.__getitem__, references, 0, PlanConfig()).requests(0)
    with pytest.raises(ValueError, match="sum to 1"):
        PlanConfig(replace=0.9)


def test_scenes_take_turns(frames):
    """Six frames of one video and three lone ones: the lone ones are not left for the end."""
    names = list(frames)
    references = [a for c in frames.values() for a in measure_lesions(c)]
    scenes = {name: "video" if k < 6 else name for k, name in enumerate(names)}
    plan = Planner(names, frames.__getitem__, references, 0, PlanConfig(), scenes=scenes)
    order = [scenes[names[k]] for k in plan._order]
    assert sorted(order[:4]) == sorted(["video", *names[6:]]) and order[4:] == ["video"] * 5
    alone = Planner(names, frames.__getitem__, references, 0, PlanConfig())
    assert sorted(alone._order) == sorted(plan._order)
