"""Distributions of generated labels, and whether an outline follows the picture."""

import numpy as np
import pytest

from polypforge.evaluation.masks.shapes import boundary_sharpness, describe, distribution_distances


def disc(x, y, radius, size=(96, 120)):
    rows, columns = np.mgrid[: size[0], : size[1]]
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def test_a_disc_is_described():
    found = describe(disc(30, 48, 15))
    assert found["x"] == pytest.approx(0.25, abs=0.01) and found["y"] == pytest.approx(0.5, abs=0.01) and found["lesions"] == 1
    assert found["size"] == pytest.approx(np.sqrt(np.pi * 225 / (96 * 120)), rel=0.02) and found["elongation"] > 0.95
    assert describe(np.zeros((9, 9), bool)) is None
    assert describe(disc(30, 48, 10) | disc(90, 48, 12))["lesions"] == 2


def test_distances_of_distributions_know_which_differ():
    rng = np.random.default_rng(0)
    real = [disc(rng.uniform(30, 90), rng.uniform(30, 66), rng.uniform(8, 20)) for _ in range(40)]
    same = [disc(rng.uniform(30, 90), rng.uniform(30, 66), rng.uniform(8, 20)) for _ in range(40)]
    small = [disc(rng.uniform(30, 90), rng.uniform(30, 66), rng.uniform(3, 6)) for _ in range(40)]
    assert distribution_distances(real, same)["size"]["p"] > 0.01
    found = distribution_distances(real, small)
    assert found["size"]["p"] < 1e-6 and found["size"]["made"] < found["size"]["real"] and found["x"]["p"] > 0.01
    with pytest.raises(ValueError, match="no lesion"):
        distribution_distances(real, [np.zeros((9, 9), bool)])


def test_an_outline_on_an_edge_is_sharp_and_one_beside_it_is_not():
    rng = np.random.default_rng(1)
    picture = np.clip(rng.normal(120, 4, (96, 120, 3)), 0, 255)
    picture[disc(60, 48, 20)] += 60
    picture = picture.astype(np.uint8)
    assert boundary_sharpness(picture, disc(60, 48, 20)) > 3 > 1.5 > boundary_sharpness(picture, disc(25, 25, 12))
    assert np.isnan(boundary_sharpness(picture, np.zeros((96, 120), bool)))


def test_masks_of_one_scene_are_one_witness():
    """Ten scenes shown eight times each, of one population: p must not see eighty witnesses."""
    rng, loose, tight = np.random.default_rng(0), 0, 0
    for _ in range(20):
        sets = [[disc(60, 48, radius) for radius in rng.uniform(8, 40, 10) for _ in range(8)] for _ in range(2)]
        groups = [[f"{k // 8}" for k in range(80)]] * 2
        loose += distribution_distances(*sets)["size"]["p"] < 0.05
        tight += distribution_distances(*sets, *groups)["size"]["p"] < 0.05
    assert loose >= 8 and tight <= 4
