import cv2
import numpy as np
import pytest

from polypforge.masks.shapes import (
    bounding_box,
    box_mask,
    component_boxes,
    components,
    dilate,
    enlarge,
    erode,
    inner_distance,
    outline,
    polygon_mask,
)


def test_box_and_mask_are_inverse():
    assert bounding_box(box_mask((3, 4, 10, 20), (30, 30))) == (3, 4, 10, 20)
    with pytest.raises(ValueError):
        bounding_box(np.zeros((5, 5), bool))


def test_components_are_sorted_by_size_and_joined_over_corners():
    mask = np.zeros((20, 20), bool)
    mask[0:2, 0:2] = mask[2:4, 2:4] = True  # touch at a corner: one component
    mask[10:15, 10:15] = True
    assert component_boxes(mask) == ((10, 10, 15, 15), (0, 0, 4, 4))
    assert component_boxes(mask, min_area_px=10) == ((10, 10, 15, 15),)


def test_enlarge_is_clipped():
    assert enlarge((2, 2, 10, 28), 5, (30, 40)) == (0, 0, 15, 30)


def test_dilate_and_erode_are_round():
    point = np.zeros((41, 41), bool)
    point[20, 20] = True
    disc = dilate(point, 10)
    ys, xs = np.mgrid[:41, :41]
    assert (disc == (np.hypot(ys - 20, xs - 20) <= 10)).all()
    assert erode(disc, 9).sum() < 12
    assert erode(np.ones((9, 9), bool), 2).sum() == 25  # the frame's edge counts as outside


def test_inner_distance_known_answer():
    assert inner_distance(box_mask((2, 2, 7, 7), (9, 9)))[4].tolist() == pytest.approx([0, 0, 1, 2, 3, 2, 1, 0, 0], abs=1e-3)


def test_outline_redraws_the_mask():
    mask = box_mask((5, 5, 25, 18), (40, 40))
    assert (polygon_mask(outline(mask), (40, 40)) == mask).all()


@pytest.mark.parametrize("box", [(40, 30, 70, 50), (41, 33, 70, 50), (0, 0, 12, 9), (80, 0, 100, 90), (0, 0, 100, 90)])
def test_what_looks_near_the_mask_alone_says_what_the_whole_frame_says(rng, box):
    mask = box_mask(box, (90, 100)) & (rng.random((90, 100)) < 0.7)
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    found = components(mask)
    assert len(found) == count - 1 and (sum(part.astype(int) for part in found) == mask).all()
    order = sorted(range(1, count), key=lambda i: -(labels == i).sum())
    assert all((labels[part] == i).all() for part, i in zip(found, order, strict=True))
    distance = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    assert all((dilate(mask, radius) == (distance <= radius)).all() for radius in (0.5, 1, 2.9, 4, 7.3, 60))
    whole = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    assert (inner_distance(mask) == whole).all()
    assert all((erode(mask, radius) == (whole > radius)).all() for radius in (0.5, 1, 2, 2.9, 4, 6))


def test_an_empty_mask_has_no_parts_and_no_inside():
    empty = np.zeros((20, 30), bool)
    assert components(empty) == [] and not dilate(empty, 3).any() and not inner_distance(empty).any() and not erode(empty, 1).any()
