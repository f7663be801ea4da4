import numpy as np
import pytest

from polypforge.masks import attributes
from polypforge.masks.shapes import box_mask

FIELD = np.ones((200, 200), bool)


def scene(lesion, colour=(200, 120, 100), other=(160, 100, 90)):
    image = np.empty((200, 200, 3), np.uint8)
    image[:] = other
    image[lesion] = colour
    return image


def test_known_answers():
    ys, xs = np.mgrid[:200, :200]
    lesion = ((xs - 100) / 40) ** 2 + ((ys - 100) / 20) ** 2 <= 1
    region = box_mask((50, 70, 150, 130), (200, 200))
    found = attributes.measure(scene(lesion), lesion, region, FIELD)
    assert found.fill == pytest.approx(np.pi * 800 / 6000, rel=0.02)
    assert found.size == pytest.approx(np.sqrt(np.pi * 800 / 40000), rel=0.02)
    assert found.elongation == pytest.approx(0.5, abs=0.03)
    assert found.solidity > 0.95
    assert found.delta_l > 5 and found.delta_a > 3
    assert found.contrast < 1.5


def test_darker_lesions_have_negative_delta():
    lesion = box_mask((80, 80, 120, 120), (200, 200))
    assert attributes.measure(scene(lesion, colour=(90, 60, 50)), lesion, FIELD, FIELD).delta_l < -10


def test_a_plus_is_less_solid_than_a_square():
    square = box_mask((60, 60, 140, 140), (200, 200))
    plus = box_mask((60, 90, 140, 110), (200, 200)) | box_mask((90, 60, 110, 140), (200, 200))
    assert (
        attributes.measure(scene(plus), plus, FIELD, FIELD).solidity
        < attributes.measure(scene(square), square, FIELD, FIELD).solidity - 0.2
    )


def test_no_lesion_is_an_error():
    with pytest.raises(ValueError, match="no lesion"):
        attributes.measure(scene(FIELD), ~FIELD, FIELD, FIELD)


@pytest.mark.parametrize("value", [None, float("nan"), "large"])
def test_what_is_no_number_is_not_asked_for(value):
    with pytest.raises(ValueError, match="'size' is"):
        attributes.to_vector({"size": value, "fill": 0.5})


def test_vectors_mark_what_is_known():
    values, known = attributes.to_vector({"size": 0.45, "fill": 0.55})
    assert known.tolist() == [1, 1, 0, 0, 0, 0, 0, 0]
    assert values[0] == pytest.approx(0) and values[1] == pytest.approx(1)
    with pytest.raises(ValueError, match="unknown attributes"):
        attributes.to_vector({"colour": 1.0})
