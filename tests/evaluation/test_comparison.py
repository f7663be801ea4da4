"""Paired comparisons: intervals that cover, the sign test, words."""

import numpy as np
import pytest

from polypforge.evaluation.comparison import Comparison, compare, mean_of, sign_test


def test_the_sign_test_has_its_known_values():
    assert sign_test(6, 0) == pytest.approx(2 / 64) and sign_test(3, 3) == 1 and sign_test(0, 0) == 1
    assert sign_test(5, 1) == pytest.approx(2 * 7 / 64) == sign_test(1, 5)


@pytest.mark.parametrize(("draws", "draw_spread", "scenes"), [
    ((0, 0, 0, 1, 1, 1), 0.0, 40), ((0, 0, 0, 1, 1, 1), 0.06, 40), ((0, 1, 2, 3, 4, 5), 0.03, 40), ((0, 0, 0, 0), 0.0, 40), ((0, 1, 2, 3, 4, 5), 0.01, 3),
])  # fmt: skip
def test_intervals_cover_the_true_difference_at_the_stated_rate(draws, draw_spread, scenes):
    """Draws, seeds and scenes all vary; few draws and few scenes widen the interval as they must."""
    rng, hits, trials, n = np.random.default_rng(0), 0, 200, len(draws)
    groups = [str(i % scenes) for i in range(40)]
    for k in range(trials):
        shared = rng.normal(0, draw_spread, 6)[list(draws)][:, None]
        images = rng.normal(0, 0.2, scenes)[[int(g) for g in groups]][None]
        base = rng.normal(0.5, 0.1, (n, 40))
        arm = base + 0.02 + shared + rng.normal(0, 0.03, (n, 1)) + images + rng.normal(0, 0.05, (n, 40))
        found = compare(mean_of(arm), mean_of(base), groups, draws, resamples=200, seed=k)
        hits += found.interval[0] <= 0.02 <= found.interval[1]
    assert 0.91 <= hits / trials <= 1.0


@pytest.mark.parametrize(("pool", "taken", "draws"), [(160, 16, 4), (160, 128, 4), (112, 64, 10)])
def test_draws_that_share_cases_are_no_fresh_witnesses(pool, taken, draws):
    """What an arm adds depends on the labelled cases: those of all draws come from one pool, itself a sample."""
    rng, hits, naive, trials, groups = np.random.default_rng(0), 0, 0, 200, [str(i) for i in range(40)]
    for k in range(trials):
        worth = rng.normal(0, 0.4, pool)
        effect = np.array([worth[rng.permutation(pool)[:taken]].mean() for _ in range(draws)])[:, None]
        base = rng.normal(0.5, 0.1, (draws, 40))
        arm = base + 0.02 + effect + rng.normal(0, 0.002, (draws, 40))
        for shared in (taken / pool, 0.0):
            low, high = compare(mean_of(arm), mean_of(base), groups, range(draws), resamples=50, seed=k, shared=shared).interval
            hits, naive = hits + (shared > 0) * (low <= 0.02 <= high), naive + (shared == 0) * (low <= 0.02 <= high)
    assert hits / trials >= 0.92 and naive <= hits
    if taken > pool / 2:
        assert naive / trials < 0.8  # what was told before


def test_draws_of_all_cases_are_one():
    base = np.full((4, 20), 0.5)
    arm = base + np.array([0.04, 0.05, 0.06, 0.05])[:, None]
    found = compare(mean_of(arm), mean_of(base), [str(i) for i in range(20)], [0, 1, 2, 3], shared=1.0)
    assert len(found.by_draw) == 1 and found.verdict == "helped these cases (others were not tried)"
    with pytest.raises(ValueError, match="from 0 to 1"):
        compare(mean_of(arm), mean_of(base), ["a"] * 20, [0, 1, 2, 3], shared=2)


def test_seeds_of_one_draw_are_no_witnesses_of_their_own():
    base = np.full((6, 20), 0.5)
    arm = base + np.array([0.05, 0.05, -0.01, 0.03, 0.03, -0.01])[:, None]
    found = compare(mean_of(arm), mean_of(base), [str(i) for i in range(20)], [0, 0, 0, 1, 1, 1])
    assert (found.better, found.worse, found.units, found.runs) == (2, 0, 2, 6) and found.p == pytest.approx(0.5)


def test_images_of_one_group_are_one_witness():
    rng = np.random.default_rng(0)
    scene = np.repeat(rng.normal(0, 0.3, 8), 5)
    base, arm = np.zeros((4, 40)), scene[None] + rng.normal(0, 0.01, (4, 40))
    loose = compare(mean_of(arm), mean_of(base), [str(i) for i in range(40)], [0] * 4)
    tight = compare(mean_of(arm), mean_of(base), [str(i // 5) for i in range(40)], [0] * 4)
    assert np.diff(tight.interval) > 1.5 * np.diff(loose.interval)


def test_frames_without_lesion_are_no_witnesses():
    """A few scenes with a lesion among many without: resamples that show none say nothing, and one such scene is one scene."""
    rng = np.random.default_rng(0)
    dice = np.clip(rng.normal(0.6, 0.05, (4, 42)), 0, 1)
    shows = np.arange(42) < 2

    def figure(scores):
        return lambda weights: mean_of(scores[:, shows])(weights[shows])

    names = [str(i) for i in range(42)]
    few = compare(figure(dice + 0.07), figure(dice), names, [0, 1, 2, 3], witnesses=shows)
    assert np.isfinite(few.interval).all() and few.groups == 2 and few.tells
    assert "one scene" in compare(figure(dice + 0.07), figure(dice), ["a", "a", *names[2:]], [0, 1, 2, 3], witnesses=shows).verdict
    with pytest.raises(ValueError, match="nothing"):
        compare(figure(dice), figure(dice), names, [0], witnesses=np.zeros(42, bool))


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
    assert found.verdict == "helped" and found.better == 2 and found.difference == pytest.approx(0.05) and len(found.by_draw) == 2
    assert compare(mean_of(base - 0.05), mean_of(base), ["a", "b"] * 10, [0, 0, 1, 1]).verdict == "harmed"
    assert "once" in compare(mean_of(better[:1]), mean_of(base[:1]), [str(i) for i in range(20)], [0]).verdict
    assert "no difference" in Comparison(0.01, (-0.02, 0.04), 3, 1, 0.6, 4, 20, (0.01,), 20, 4).verdict
    assert "one scene" in compare(mean_of(better), mean_of(base), ["a"] * 20, [0, 0, 1, 1]).verdict
    with pytest.raises(ValueError, match="nothing"):
        compare(mean_of(base), mean_of(base), [], [])
