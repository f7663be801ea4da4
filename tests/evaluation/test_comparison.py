"""Paired comparisons: intervals that cover, the sign test, words."""

import numpy as np
import pytest

from polypforge.evaluation.comparison import Comparison, compare, mean_of, sign_test


def test_the_sign_test_has_its_known_values():
    assert sign_test(6, 0) == pytest.approx(2 / 64) and sign_test(3, 3) == 1 and sign_test(0, 0) == 1
    assert sign_test(5, 1) == pytest.approx(2 * 7 / 64) == sign_test(1, 5)


def test_intervals_cover_the_true_difference_at_the_stated_rate():
    """Runs and images both vary."""
    rng, hits, trials = np.random.default_rng(0), 0, 120
    for k in range(trials):
        runs, images = rng.normal(0, 0.03, (6, 1)), rng.normal(0, 0.2, (1, 40))
        base = rng.normal(0.5, 0.1, (6, 40))
        arm = base + 0.02 + runs + images + rng.normal(0, 0.05, (6, 40))
        found = compare(mean_of(arm), mean_of(base), [str(i) for i in range(40)], [0, 0, 0, 1, 1, 1], resamples=200, seed=k)
        hits += found.interval[0] <= 0.02 <= found.interval[1]
    assert 0.90 <= hits / trials <= 1.0


def test_images_of_one_group_are_one_witness():
    rng = np.random.default_rng(0)
    scene = np.repeat(rng.normal(0, 0.3, 8), 5)
    base, arm = np.zeros((4, 40)), scene[None] + rng.normal(0, 0.01, (4, 40))
    loose = compare(mean_of(arm), mean_of(base), [str(i) for i in range(40)], [0] * 4)
    tight = compare(mean_of(arm), mean_of(base), [str(i // 5) for i in range(40)], [0] * 4)
    assert np.diff(tight.interval) > 1.5 * np.diff(loose.interval)


def test_draws_that_differ_widen_the_interval():
    base = np.full((6, 30), 0.5)
    by_draw = base + np.array([0.1, 0.1, 0.1, -0.1, -0.1, -0.1])[:, None] + np.linspace(-0.01, 0.01, 6)[:, None]
    mixed = base + np.array([0.1, -0.1, 0.1, -0.1, 0.1, -0.1])[:, None] + np.linspace(-0.01, 0.01, 6)[:, None]
    names, draws = [str(i) for i in range(30)], [0, 0, 0, 1, 1, 1]
    wide, narrow = (compare(mean_of(a), mean_of(base), names, draws).interval for a in (by_draw, mixed))
    assert np.diff(wide) > 1.3 * np.diff(narrow)


def test_what_a_comparison_says():
    base = np.full((4, 20), 0.5)
    better = base + np.linspace(0.04, 0.06, 20)
    found = compare(mean_of(better), mean_of(base), [str(i) for i in range(20)], [0, 0, 1, 1])
    assert found.verdict == "helped" and found.better == 4 and found.difference == pytest.approx(0.05) and len(found.by_draw) == 2
    assert compare(mean_of(base - 0.05), mean_of(base), ["a", "b"] * 10, [0, 0, 1, 1]).verdict == "harmed"
    assert "once" in compare(mean_of(better[:1]), mean_of(base[:1]), [str(i) for i in range(20)], [0]).verdict
    assert "no difference" in Comparison(0.01, (-0.02, 0.04), 3, 1, 0.6, 4, 20, (0.01,)).verdict
    with pytest.raises(ValueError, match="nothing"):
        compare(mean_of(base), mean_of(base), [], [])
