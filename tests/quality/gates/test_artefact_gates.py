"""Each gate reacts to its own artefact, painted into a phantom polyp, and not to an honest copy."""

import cv2
import numpy as np
import pytest

from polypforge.core.types import Case
from polypforge.masks.shapes import components, erode
from polypforge.phantom.render import render
from polypforge.quality.gates import GATES, Subject


@pytest.fixture(scope="module")
def subject():
    for seed in range(40):
        case = render(seed, 320, polyps=1)
        parts = components(case.mask, 2500)
        if parts and not erode(parts[0], 1)[[0, -1]].any():
            return Subject.real(case, parts[0])
    raise AssertionError("no phantom with a large polyp")


def score(name, subject):
    return GATES[name].score(subject)


def painted(subject, image):
    return Subject(subject.id, Case("x", image.astype(np.uint8), subject.case.mask), subject.region, subject.lesion)


def test_seams(subject):
    image = subject.case.image.astype(np.int16).copy()
    image[subject.region] += np.array([-25, 0, 25], np.int16)
    shifted = painted(subject, image.clip(0, 255))
    assert score("seam_colour", shifted) > score("seam_colour", subject) + 10
    assert score("seam_gradient", shifted) > score("seam_gradient", subject) + 0.8


def test_edges_of_the_field_of_view_are_no_seams(subject):
    image = subject.case.image.copy()
    columns = np.flatnonzero(subject.region.any(0))
    image[:, columns[-1] - 1 :] = 0  # the field of view ends where the edit does
    ends = painted(subject, image)
    assert score("seam_gradient", ends) < score("seam_gradient", subject) + 0.5


def test_blur_and_noise(subject):
    image = subject.case.image
    soft = np.where(subject.lesion[..., None], cv2.GaussianBlur(image, (0, 0), 5), image)
    assert score("sharpness", painted(subject, soft)) < score("sharpness", subject) - 0.4
    grain = np.random.default_rng(0).normal(0, 14, image.shape)
    noisy = np.where(subject.lesion[..., None], image + grain, image).clip(0, 255)
    assert score("noise", painted(subject, noisy)) > score("noise", subject) + 0.8


def test_repeated_texture(subject):
    image = subject.case.image.astype(np.float32)
    tile = np.random.default_rng(0).normal(0, 18, (14, 14, 1))
    height, width = image.shape[:2]
    wall = np.tile(tile, (height // 14 + 1, width // 14 + 1, 1))[:height, :width]
    tiled = np.where(subject.lesion[..., None], image + wall, image).clip(0, 255)
    free = np.random.default_rng(1).normal(0, 18, (height, width, 1))
    untiled = np.where(subject.lesion[..., None], image + free, image).clip(0, 255)
    assert score("repetition", painted(subject, tiled)) > 0.6 > score("repetition", painted(subject, untiled)) + 0.2


def test_clipped_and_strange_colours(subject):
    image = subject.case.image
    white = np.where(subject.lesion[..., None], 255, image)
    assert score("clipping", painted(subject, white)) > 0.95 and score("clipping", subject) < 0.2
    blue = np.where(subject.lesion[..., None], image[..., ::-1], image)
    assert score("saturation", painted(subject, blue)) > score("saturation", subject) + 15


def test_a_lesion_like_its_surroundings_is_not_visible(subject):
    texture = cv2.GaussianBlur(np.random.default_rng(0).normal(0, 60, subject.case.image.shape).astype(np.float32), (0, 0), 3)
    alike = (np.array([170, 110, 90]) + texture).clip(0, 255)
    paler = np.where(subject.lesion[..., None], alike + 30, alike).clip(0, 255)
    assert score("visible", painted(subject, alike)) < 0.8 < 2 < score("visible", painted(subject, paler))


def test_nothing_drawn_is_nothing_to_measure(subject):
    empty = Subject("x", subject.case, subject.region, subject.lesion & False)
    for name in ("seam_gradient", "seam_colour", "sharpness", "noise", "repetition", "clipping", "saturation", "visible"):
        assert score(name, empty) is None
