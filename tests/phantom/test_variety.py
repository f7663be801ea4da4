from dataclasses import replace

import numpy as np
import pytest

from polypforge.phantom.render import render
from polypforge.phantom.variety import PLAIN, VARIED
from polypforge.phantom.video import put_instrument

ALWAYS = {"dye": 1.0, "instruments": 1.0, "panels": 1.0, "shaken": 1.0, "walls": 1.0}


def only(what):
    return replace(PLAIN, **{what: 1.0})


def test_a_varied_frame_is_the_same_each_time_and_a_plain_one_is_untouched_by_variety():
    a, b = render(5, 96, variety=VARIED), render(5, 96, variety=VARIED)
    assert np.array_equal(a.image, b.image) and np.array_equal(a.mask, b.mask)
    nothing = replace(VARIED, radii=PLAIN.radii, radius_shares=PLAIN.radius_shares, colours=1.0, **dict.fromkeys(ALWAYS, 0.0))
    assert np.array_equal(render(5, 96, variety=nothing).image, render(5, 96).image)


def test_a_wide_frame_holds_the_plain_one_and_its_mask():
    for seed in range(6):
        plain, wide = render(seed, 96, polyps=1), render(seed, 96, polyps=1, variety=only("panels"))
        assert wide.image.shape[:2] == wide.mask.shape and wide.image.shape[1] >= 1.24 * 96
        places = [x for x in range(wide.mask.shape[1] - 95) if np.array_equal(wide.image[:, x : x + 96], plain.image)]
        assert len(places) == 1
        left = places[0]
        assert np.array_equal(wide.mask[:, left : left + 96], plain.mask) and wide.mask.sum() == plain.mask.sum()
        assert wide.boxes == tuple((x0 + left, y0, x1 + left, y1) for x0, y0, x1, y1 in plain.boxes)


def test_nothing_of_an_instrument_is_drawn_outside_the_field():
    field = np.hypot(*(np.mgrid[0:80, 0:80] - 40)) < 34
    rgb = np.full((80, 80, 3), 0.5, np.float32)
    for seed in range(8):
        drawn, hidden = put_instrument(np.random.default_rng(seed), rgb, field)
        assert np.array_equal(drawn[~field], rgb[~field]) and not (hidden & ~field).any()
        assert (drawn[hidden] != 0.5).any() and drawn.min() >= 0 and drawn.max() <= 1


def test_an_instrument_hides_label():
    hidden = 0
    for seed in range(12):
        plain, with_tool = render(seed, 96, polyps=1), render(seed, 96, polyps=1, variety=only("instruments"))
        assert not (with_tool.mask & ~plain.mask).any()
        hidden += int(plain.mask.sum() - with_tool.mask.sum())
        assert (with_tool.image != plain.image).any()
    assert hidden > 0


def test_dye_makes_the_frame_bluer_and_keeps_the_label():
    blue = []
    for seed in range(6):
        plain, dyed = render(seed, 96, polyps=1), render(seed, 96, polyps=1, variety=only("dye"))
        assert np.array_equal(plain.mask, dyed.mask)
        blue.append(
            np.mean(dyed.image[..., 2].astype(float) - dyed.image[..., 0])
            - np.mean(plain.image[..., 2].astype(float) - plain.image[..., 0])
        )
    assert np.mean(blue) > 5


def test_motion_blurs_and_keeps_the_label():
    for seed in range(4):
        plain, moved = render(seed, 96), render(seed, 96, variety=only("shaken"))
        assert np.array_equal(plain.mask, moved.mask)
        rough = [np.abs(np.diff(c.image.astype(float), axis=1)).mean() for c in (plain, moved)]
        assert rough[1] < rough[0]


def test_a_view_of_the_wall_shows_less_darkness():
    dark = [np.mean([(c.image.max(-1) < 40).mean() for c in (render(s, 96, variety=v) for s in range(12))]) for v in (PLAIN, only("walls"))]
    assert dark[1] < dark[0]


def test_polyps_are_larger_where_larger_ones_are_asked_for():
    large = replace(PLAIN, radii=(0.35,), radius_shares=(1.0,))
    area = [np.median([render(s, 96, polyps=1, variety=v).mask.mean() for s in range(12)]) for v in (PLAIN, large)]
    assert area[1] > 4 * area[0]


@pytest.mark.parametrize("seed", range(3))
def test_everything_at_once_is_still_a_case(seed):
    case = render(seed, 96, variety=replace(VARIED, **ALWAYS))
    assert case.image.dtype == np.uint8 and case.mask.shape == case.image.shape[:2] and bool(case.boxes) == bool(case.mask.any())
