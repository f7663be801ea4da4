import numpy as np
import pytest
import torch

from polypforge.diffusion.flow import sigma_steps
from polypforge.diffusion.samplers import dpmpp_2m
from polypforge.diffusion.solver import Solver, drawings, fit

MEANS, SD = torch.tensor([-0.8, 0.1, 0.9]), 0.15


def mixture(x, sigma, cond):
    """The exact denoiser of a mixture of three normal distributions: the posterior mean."""
    spread = SD**2 + sigma**2
    chance = torch.softmax(-((x[..., None] - MEANS) ** 2) / (2 * spread), -1)
    return (chance * (MEANS + SD**2 / spread * (x[..., None] - MEANS))).sum(-1)


def noise(seed, count=256):
    return torch.randn(count, 1, 2, 2, generator=torch.Generator().manual_seed(seed)) * sigma_steps(1)[0]


def rms(a, b):
    return float((a - b).square().mean().sqrt())


def drawn(solver, x):
    return solver.sampler()(mixture, x, torch.tensor(solver.sigmas), None)


@pytest.mark.parametrize(("steps", "shift"), [(2, 1.0), (3, 1.0), (4, 0.5), (7, 2.0)])
def test_it_sets_out_from_the_second_order_method(steps, shift, monkeypatch):
    monkeypatch.setattr("polypforge.diffusion.solver.ROUNDS", 1)  # looks, and goes nowhere
    sigmas = sigma_steps(steps, shift)
    plain = dpmpp_2m(mixture, noise(0), sigmas, None)
    found = fit(mixture, noise(0), plain, torch.ones_like(plain), sigmas)
    assert found.solver.sigmas == pytest.approx(sigmas.tolist(), abs=1e-3, rel=1e-4)
    assert torch.allclose(drawn(found.solver, noise(0)), plain, atol=1e-4) and found.plain_distance < 1e-4


@pytest.mark.parametrize(("steps", "shift"), [(3, 1.0), (4, 1.0), (4, 2.0)])
def test_fitted_steps_are_nearer_to_many_on_noise_they_never_saw(steps, shift):
    target = dpmpp_2m(mixture, noise(0), sigma_steps(200), None)
    found = fit(mixture, noise(0), target, torch.ones_like(target), sigma_steps(steps, shift))
    assert found.distance < found.plain_distance
    fresh = noise(1)
    many = dpmpp_2m(mixture, fresh, sigma_steps(200), None)
    assert rms(drawn(found.solver, fresh), many) < 0.7 * rms(dpmpp_2m(mixture, fresh, sigma_steps(steps, shift), None), many)


def test_distances_are_what_they_say_and_only_where_the_weight_is():
    calls = 0

    def counted(x, sigma, cond):
        nonlocal calls
        calls += 1
        return mixture(x, sigma, cond)

    target = dpmpp_2m(mixture, noise(0), sigma_steps(200), None)
    weight = torch.zeros_like(target)
    weight[:, :, 0] = 1
    spoilt = torch.where(weight > 0, target, torch.full_like(target, 50.0))
    found = fit(counted, noise(0), spoilt, weight, sigma_steps(3))
    assert calls <= 3 * drawings(3)
    top = np.s_[:, :, 0]
    assert found.distance == pytest.approx(rms(drawn(found.solver, noise(0))[top], target[top]), rel=1e-3)
    plain = dpmpp_2m(mixture, noise(0), sigma_steps(3), None)
    assert found.plain_distance == pytest.approx(rms(plain[top], target[top]), rel=1e-2)
    assert found == fit(mixture, noise(0), spoilt, weight, sigma_steps(3))


@pytest.mark.parametrize(
    ("sigmas", "weights", "message"),
    [
        ((9.0, 1.0), ((1.0,),), "fall"),
        ((9.0, 10.0, 0.0), ((1.0,), (0.0, 1.0)), "fall"),
        ((float("nan"), 0.0), ((1.0,),), "fall"),
        ((float("inf"), 0.0), ((1.0,),), "fall"),
        ((9.0, 0.0), ((float("nan"),),), "sums to 1"),
        ((9.0, 1.0, 0.0), ((1.0,), (1.0, 1.0)), "sums to 1"),
        ((9.0, 1.0, 0.0), ((1.0,),), "row"),
        ((9.0, 1.0, 0.0), ((1.0,), (1.0,)), "row"),
    ],
)
def test_impossible_solvers_are_refused(sigmas, weights, message):
    with pytest.raises(ValueError, match=message):
        Solver(sigmas, weights)
