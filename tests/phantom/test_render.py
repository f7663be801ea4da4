import numpy as np
import pytest

from polypforge.data.field_of_view import field_of_view
from polypforge.masks.shapes import dilate
from polypforge.phantom.noise import octave
from polypforge.phantom.render import render


def test_same_seed_same_frame_other_seed_other_frame():
    a, b, c = render(7, 128), render(7, 128), render(8, 128)
    assert (a.image == b.image).all() and (a.mask == b.mask).all()
    assert (a.image != c.image).mean() > 0.5


def test_normal_and_polyp_frames():
    assert not render(1, 128, polyps=0).mask.any()
    assert render(1, 128, polyps=0).label == "normal"
    shown = [render(i, 128, polyps=1) for i in range(12)]
    assert sum(c.mask.any() for c in shown) >= 10
    kinds = {p["kind"] for c in (render(i, 96, polyps=2) for i in range(24)) for p in c.provenance["phantom"]["polyps"]}
    assert kinds == {"sessile", "pedunculated", "flat"}


def test_mask_lies_in_the_field_and_differs_from_its_surroundings():
    differences = []
    for seed in range(20):
        case = render(seed, 160, polyps=1)
        if case.mask.sum() < 150:
            continue
        ring = dilate(case.mask, 8) & ~dilate(case.mask, 2) & field_of_view(case.image)
        if ring.any():
            differences.append(np.abs(case.image[case.mask].mean(0) - case.image[ring].mean(0)).max())
        assert (case.mask & (case.image.max(-1) == 0)).mean() < 0.001
    assert np.median(differences) > 8


def test_frames_have_the_colours_of_mucosa():
    means = np.array([c.image[field_of_view(c.image)].mean(0) for c in (render(i, 96) for i in range(16))])
    red, green, blue = means.mean(0)
    assert red > 1.2 * green > 1.2 * blue * 0.9
    assert 60 < red < 230


def test_overlay_changes_pixels_but_no_label():
    plain, marked = render(3, 256), render(3, 256, overlay=True)
    assert (plain.mask == marked.mask).all()
    assert (plain.image != marked.image).any()


def test_what_the_inset_box_hides_is_no_label():
    plain, marked = render(900006, 128), render(900006, 128, overlay=True)
    assert plain.mask.any() and not marked.mask.any() and marked.label == "normal" and not marked.boxes


def test_too_small_is_refused():
    with pytest.raises(ValueError, match="64"):
        render(0, 32)


def test_noise_wraps_around(rng):
    texture = octave(rng, 64, 8)
    inner = np.abs(np.diff(texture, axis=1)).mean()
    seam = np.abs(texture[:, 0] - texture[:, -1]).mean()
    assert seam < 3 * inner
