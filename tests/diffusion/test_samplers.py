import pytest
import torch

from polypforge.diffusion.flow import as_denoiser, mix, sigma_steps, velocity_loss
from polypforge.diffusion.guidance import guided
from polypforge.diffusion.samplers import SAMPLERS

MEAN, SD = 0.7, 0.4


def gaussian(x, sigma, cond):
    """The exact denoiser of data from N(MEAN, SD^2): the posterior mean."""
    gain = SD**2 / (SD**2 + sigma**2)
    return MEAN + gain * (x - MEAN)


@pytest.mark.parametrize(("name", "steps"), [("euler", 400), ("heun", 60), ("dpmpp_2m", 60)])
def test_samplers_reproduce_a_known_gaussian(name, steps):
    sigmas = sigma_steps(steps)
    x = torch.randn(4000, 1, 1, 1, generator=torch.Generator().manual_seed(0)) * sigmas[0]
    out = SAMPLERS[name](gaussian, x, sigmas, None)
    assert out.mean() == pytest.approx(MEAN, abs=0.03)
    assert out.std() == pytest.approx(SD, rel=0.05)


def test_second_order_is_closer_at_few_steps():
    sigmas = sigma_steps(10)
    x = torch.randn(4000, 1, 1, 1, generator=torch.Generator().manual_seed(0)) * sigmas[0]
    exact = MEAN + SD * x / (sigmas[0] ** 2 + SD**2).sqrt()  # the ODE's flow map for a Gaussian
    error = {name: float((SAMPLERS[name](gaussian, x, sigmas, None) - exact).abs().mean()) for name in ("euler", "heun", "dpmpp_2m")}
    assert error["heun"] < error["euler"] and error["dpmpp_2m"] < error["euler"]


def test_sigma_steps_fall_to_zero():
    sigmas = sigma_steps(20, shift=2.0)
    assert len(sigmas) == 21 and sigmas[-1] == 0 and (sigmas.diff() < 0).all()
    assert (sigma_steps(20, shift=3.0) > 1).sum() > (sigma_steps(20) > 1).sum()


def test_denoiser_sees_time_and_scaled_input():
    seen = {}

    def network(z, time, cond):
        seen["z"], seen["t"] = z, time
        return z

    x = torch.full((2, 1, 1, 1), 5.0)
    as_denoiser(network)(x, torch.tensor(3.0), None)
    assert seen["t"].tolist() == [0.25, 0.25] and seen["z"].flatten().tolist() == [1.25, 1.25]


def test_velocity_loss_by_hand():
    clean, predicted = torch.zeros(1, 1, 2, 2), torch.tensor([[[[1.0, 0.0], [0.0, 3.0]]]])
    weight = torch.tensor([[[[1.0, 1.0], [1.0, 0.0]]]])
    assert velocity_loss(predicted, clean, torch.tensor([0.5]), weight) == pytest.approx((1 / 3) / 0.25)
    assert velocity_loss(predicted, clean, torch.tensor([0.99]), weight) == pytest.approx((1 / 3) / 0.08**2, rel=1e-3)
    assert velocity_loss(predicted, clean, torch.tensor([0.5]), torch.zeros_like(weight)) == 0


def test_mix_ends():
    clean, noise = torch.ones(1, 1, 1, 1), -torch.ones(1, 1, 1, 1)
    assert mix(clean, noise, torch.ones(1)).item() == 1 and mix(clean, noise, torch.zeros(1)).item() == -1


def test_guidance_extrapolates_and_respects_its_interval():
    calls = []

    def denoise(x, sigma, cond):
        calls.append(len(x))
        return x * 0 + cond["c"].view(-1, 1, 1, 1)

    x = torch.zeros(2, 1, 1, 1)
    pair = ({"c": torch.full((2,), 3.0)}, {"c": torch.full((2,), 1.0)})
    assert guided(denoise, 2.0)(x, torch.tensor(1.0), pair).flatten().tolist() == [5.0, 5.0]
    assert guided(denoise, 2.0, max_sigma=0.5)(x, torch.tensor(1.0), pair).flatten().tolist() == [3.0, 3.0]
    assert guided(denoise, 1.0)(x, torch.tensor(1.0), pair).flatten().tolist() == [3.0, 3.0]
    assert calls == [4, 2, 2]
