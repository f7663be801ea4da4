import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu

from polypforge.quality.audit.distances import authenticity, c_t_score, mann_whitney_z, set_distances
from polypforge.quality.audit.membership import case_losses, membership


def cloud(seed, n=150, dim=6, scale=1.0):
    return np.random.default_rng(seed).normal(0, scale, (n, dim)).astype(np.float32)


def test_mann_whitney_against_scipy():
    a, b = cloud(0, 40, 1)[:, 0] + 0.3, np.round(cloud(1, 50, 1)[:, 0], 1)
    expected = mannwhitneyu(a, b, alternative="less", use_continuity=False, method="asymptotic").pvalue
    from scipy.stats import norm

    assert norm.cdf(mann_whitney_z(a, b)) == pytest.approx(expected, rel=0.02)


def test_c_t_is_negative_for_copies_and_near_zero_for_honest_samples():
    train, held = cloud(0), cloud(1)
    copies = train + 0.05 * cloud(2)
    assert c_t_score(train, held, copies)[0] < -5
    honest = [c_t_score(train, held, cloud(s))[0] for s in range(3, 9)]
    assert max(abs(z) for z in honest) < 3.5
    assert c_t_score(train, held, cloud(9, scale=3))[0] > 3
    assert c_t_score(train, held[:3], copies) == (None, 0)


def test_authenticity_and_mifid():
    train = cloud(0)
    assert authenticity(train, train + 1e-3).mean() == 0.0
    assert 0.3 < authenticity(train, cloud(1)).mean() < 0.7
    copied = set_distances(train, cloud(1), train + 1e-4)
    assert copied.mifid_penalty > 1000 and copied.authenticity == 0 and copied.c_t < -3
    honest = set_distances(train, cloud(1), cloud(2))
    assert honest.mifid_penalty <= 1 / honest.mifid_distance and honest.heldout_authenticity > 0.3
    assert set_distances(train, train[:0], cloud(2)).c_t is None
    with pytest.raises(ValueError, match="at least two"):
        set_distances(train[:1], train, cloud(2))


def test_membership_by_hand():
    told = membership(list(np.linspace(0, 1, 50)), list(np.linspace(2, 3, 50)))
    assert told.auc == 1.0 and told.advantage == 1.0 and told.at_1_percent == 1.0
    same = membership(list(np.linspace(0, 1, 60)), list(np.linspace(0, 1, 60)))
    assert same.auc == pytest.approx(0.5) and same.interval[0] < 0.5 < same.interval[1]
    with pytest.raises(ValueError, match="at least 10"):
        membership([0.1], [0.2] * 20)


@pytest.mark.slow
def test_an_overfitted_model_betrays_its_members(tiny_segmenter, phantoms):
    """A judge that learned four frames by heart has lower losses on them than on new ones."""
    torch.manual_seed(0)
    polyps = [c for c in phantoms if c.mask.sum() > 200]
    members, others = polyps[:4], polyps[4:]
    pool = tiny_segmenter.prepare(members)
    optimiser = torch.optim.AdamW(tiny_segmenter.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=150)
    tiny_segmenter.train()
    for step in range(150):
        loss, _ = tiny_segmenter.loss(tiny_segmenter.training_batch(pool, 8, np.random.default_rng(step)), torch.Generator())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    known, new = case_losses(tiny_segmenter, members), case_losses(tiny_segmenter, others)
    assert np.mean(known) < np.mean(new)
