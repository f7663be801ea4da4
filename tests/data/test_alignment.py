from dataclasses import dataclass, replace

import numpy as np
import pytest

from polypforge.data.alignment import Rules, align, distinct_places

RULES = Rules(ratio=0.9, mutual=True, least=5, tolerance_px=2.0, tries=500, scales=(0.5, 2.0))


@dataclass
class Features:
    points: np.ndarray
    descriptors: np.ndarray


def features(points, seed=0):
    found = np.abs(np.random.default_rng(seed).normal(size=(len(points), 128))).astype(np.float32)
    return Features(points.astype(np.float32), found / np.linalg.norm(found, axis=1, keepdims=True))


@pytest.fixture
def start():
    return np.random.default_rng(1).uniform(0, 200, (40, 2))


def moved(points, degrees, scale):
    turn = np.deg2rad(degrees)
    matrix = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return points @ matrix.T + (15, -8), matrix


def test_a_turn_with_a_scale_is_found_among_wrong_matches(start):
    end, matrix = moved(start, 30, 1.4)
    end[:12] = np.random.default_rng(2).uniform(0, 200, (12, 2))
    found, tentative = align(features(start), features(end), RULES)
    assert tentative == 40 and len(found.start) == 28
    assert np.allclose(found.transform, np.column_stack([matrix, (15, -8)]), atol=0.05)
    assert np.allclose(found.end, end[12:], atol=1e-3)


def test_what_the_rules_forbid_is_not_found(start):
    near, _ = moved(start, 30, 1.4)
    assert align(features(start), features(moved(start, 0, 3)[0]), RULES)[0] is None  # too large
    assert align(features(start[:4]), features(near[:4]), RULES) == (None, 0)  # too few
    assert align(features(start), features(near, seed=9), replace(RULES, ratio=0.8))[0] is None  # features of something else


def test_mutual_matches_leave_out_whom_another_one_likes_better(start):
    end, _ = moved(start, 0, 1)
    a, b = features(start), features(end[:20])
    a.descriptors[20:] = a.descriptors[:20] + 0.02 * np.random.default_rng(3).normal(size=(20, 128)).astype(np.float32)
    a.descriptors /= np.linalg.norm(a.descriptors, axis=1, keepdims=True)
    assert align(a, b, RULES)[1] == 20
    assert align(a, b, replace(RULES, mutual=False))[1] == 40


def test_matches_on_one_spot_count_once():
    assert distinct_places(np.array([[8.0, 8.0], [8.5, 7.6], [30.0, 8.0]])) == 2
