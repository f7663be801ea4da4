import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from polypforge.masks.pseudo import inscribed_polygon, is_speck, lesion_free_region, lesion_region
from polypforge.masks.shapes import bounding_box, box_mask, dilate

boxes = st.tuples(st.integers(5, 60), st.integers(5, 60), st.integers(20, 100), st.integers(20, 100)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)


@settings(max_examples=60, deadline=None)
@given(boxes, st.integers(0, 10**6))
def test_polygons_are_inscribed_convex_and_touch_all_four_sides(box, seed):
    mask = inscribed_polygon(box, (180, 180), np.random.default_rng(seed))
    assert bounding_box(mask) == box
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    hull = np.zeros(mask.shape, np.uint8)
    cv2.fillPoly(hull, [cv2.convexHull(contours[0])], 1)
    assert (hull.astype(bool) & ~mask).sum() <= 0.06 * mask.sum() + 15  # equal to its hull but for rasterised edges


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_polygons_cover_elongated_boxes_too(seed):
    box = (10, 60, 170, 90)
    shares = [inscribed_polygon(box, (180, 180), np.random.default_rng(seed + i)).sum() / (160 * 30) for i in range(20)]
    assert np.mean(shares) > 0.5


def test_lesion_regions_hold_the_lesion(rng):
    lesion = box_mask((60, 50, 110, 120), (180, 180))
    field = np.ones((180, 180), bool)
    held = [(lesion_region(lesion, field, rng) & lesion).sum() / lesion.sum() for _ in range(60)]
    assert min(held) > 0.6 and np.median(held) > 0.97


def test_lesion_free_regions_stay_clear_of_lesions_and_border(rng):
    lesion = box_mask((20, 20, 90, 160), (180, 180))
    field = box_mask((0, 0, 180, 150), (180, 180))
    for _ in range(30):
        region = lesion_free_region(field, lesion, rng, (20, 60))
        assert region is not None and region.any()
        assert not (region & dilate(lesion, 3)).any()
        assert not (region & ~field).any()


def test_no_room_gives_none(rng):
    everywhere = np.ones((180, 180), bool)
    assert lesion_free_region(everywhere, everywhere, rng, (20, 60)) is None


def test_specks():
    mask = np.zeros((40, 40), bool)
    assert is_speck(mask)
    mask[20, 5:35] = True
    assert is_speck(mask)
    mask[10:30, 10:30] = True
    assert not is_speck(mask)
