"""Schedules against diffusers' own tables and the papers' terminal signals."""

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from polypforge.diffusion.schedules import SCHEDULES, Schedule, karras_sigmas

PAPERS = {
    # method: (schedule, signal left at the last step: product of 1 - beta; checked by hand: exp(-sum beta - sum beta^2 / 2))
    "polyp_gen": (Schedule("scaled_linear", 1000, 0.00085, 0.012), 0.0046601),
    "cond_polyp_diff masks, diffuse_gen": (Schedule("linear", 1000, 1e-4, 0.02), 4.0358e-5),
    "cond_polyp_diff images": (Schedule("sqrt_linear", 1000, 0.0015, 0.0205), 9.691e-5),
}


@pytest.mark.parametrize("name", PAPERS)
def test_terminal_signal_of_each_method(name):
    schedule, left = PAPERS[name]
    assert float(schedule.alpha_bars()[-1]) == pytest.approx(left, rel=2e-3)


def test_polyp_ddpm_keeps_no_signal_and_its_cosine_starts_gently():
    bars = Schedule("cosine", 250).alpha_bars()
    assert float(bars[-1]) < 1e-7
    expected = np.cos((1 / 250 + 0.008) / 1.008 * np.pi / 2) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    assert float(bars[0]) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("ours", "theirs"), [("linear", "linear"), ("scaled_linear", "scaled_linear"), ("cosine", "squaredcos_cap_v2")])
def test_tables_equal_diffusers(ours, theirs):
    reference = DDPMScheduler(1000, 0.00085, 0.012, beta_schedule=theirs).alphas_cumprod.double()
    mine = Schedule(ours, 1000, 0.00085, 0.012).alpha_bars()
    assert torch.allclose(mine, reference, rtol=2e-3, atol=1e-9)


def test_continuous_cosine_follows_its_log_snr():
    bars = Schedule("cosine_logsnr", 100).alpha_bars()
    times = (torch.arange(100, dtype=torch.float64) + 0.5) / 100
    log_snr = (bars / (1 - bars)).log()
    assert torch.allclose(log_snr[:-1], -2 * torch.tan(torch.pi * times / 2).log()[:-1], atol=1e-6)


@pytest.mark.parametrize("name", SCHEDULES)
def test_noise_grows_and_spacing_ends_at_nothing(name):
    schedule = Schedule(name, 400)
    assert (schedule.sigmas().diff() > 0).all()
    levels = schedule.spaced_sigmas(40)
    assert len(levels) == 41 and levels[-1] == 0 and (levels.diff() < 0).all()
    assert levels[0] == pytest.approx(float(schedule.sigmas()[-1])) and levels[-2] == pytest.approx(float(schedule.sigmas()[0]))


def test_edm_levels():
    levels = karras_sigmas(5, 0.002, 80.0)
    assert levels[0] == pytest.approx(80) and levels[4] == pytest.approx(0.002, rel=1e-3) and levels[5] == 0
    assert float(levels[2]) == pytest.approx(((80 ** (1 / 7) + 0.002 ** (1 / 7)) / 2) ** 7, rel=1e-4)


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="choose one of"):
        Schedule("quadratic")
    with pytest.raises(ValueError, match="can't be walked"):
        Schedule("linear", 10).spaced_times(11)
