"""Field of view, overlays, duplicates: what a frame shows."""

import cv2
import numpy as np
import pytest

from polypforge.data.duplicates import find_pairs, fingerprint
from polypforge.data.field_of_view import field_of_view
from polypforge.data.overlays import has_inset_box, overlay_text
from polypforge.phantom.render import render


def tissue(size=300):
    case = render(5, size, polyps=0)
    return np.maximum(case.image, 40)


def test_octagon_and_lumen():
    image = tissue()
    ys, xs = np.mgrid[:300, :300]
    inside = np.abs(xs - 150) + np.abs(ys - 150) < 200
    image[~inside] = 3
    cv2.circle(image, (150, 150), 30, (5, 5, 5), -1)  # a dark lumen is part of the field
    field = field_of_view(image)
    assert (field == inside).mean() > 0.97
    assert field[150, 150]


@pytest.mark.parametrize("colour", [(40, 180, 140), (0, 0, 0)])
def test_inset_boxes_are_outside_the_field(colour):
    image = tissue()
    image[210:, :90] = colour
    field = field_of_view(image)
    assert field[215:, 5:85].mean() < 0.05
    assert field[:200].mean() > 0.97
    assert has_inset_box(image)


def test_plain_frames_have_no_inset():
    assert not any(has_inset_box(render(i, 256).image) for i in range(10))


@pytest.mark.parametrize("scale", [0.4, 0.6])
def test_text_is_found_and_tissue_is_not(scale):
    found, false = [], []
    for seed in range(6):
        image = render(seed, 480, polyps=0).image.copy()
        false.append(overlay_text(image).mean())
        before = image.copy()
        for row, line in enumerate(["14/05/2013", "00:26:48", "No: 123456"]):
            cv2.putText(image, line, (16, 120 + 24 * row), cv2.FONT_HERSHEY_SIMPLEX, scale, (240, 240, 240), 1, cv2.LINE_AA)
        strokes = (image.astype(int) - before).max(-1) > 60
        if strokes.any():
            found.append(overlay_text(image)[strokes].mean())
    assert np.mean(found) > 0.8
    assert np.mean(false) < 0.01


def variants(image):
    yield "jpeg", cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], cv2.IMREAD_COLOR)
    yield "resized", cv2.resize(image, (300, 260), interpolation=cv2.INTER_AREA)
    yield "mirrored", image[:, ::-1].copy()
    yield "colour", np.clip(image * np.array([1.1, 0.95, 0.9]) + 8, 0, 255).astype(np.uint8)
    yield "cropped", image[30:-20, 24:-30].copy()


def test_altered_copies_are_linked_and_other_frames_are_not():
    frames = [render(200 + i, 360, polyps=1).image for i in range(8)]
    copies = dict(variants(frames[0]))
    prints = [fingerprint(f) for f in [*frames, *copies.values()]]
    pairs = find_pairs(prints)
    groups = {0, *range(8, 8 + len(copies))}
    linked = {p.a for p in pairs} | {p.b for p in pairs}
    assert linked <= groups
    missing = {name for i, name in enumerate(copies, 8) if i not in linked}
    assert not missing
