"""Samplers, RePaint, learned variance, losses and loss guidance on cases whose answers are known."""

import itertools
import math

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from polypforge.diffusion.gaussian import DiffusionConfig, GaussianDiffusion
from polypforge.diffusion.learned_variance import variational_bound
from polypforge.diffusion.loss_guidance import LossGuided
from polypforge.diffusion.noise import SampleNoise
from polypforge.diffusion.repaint import jump_order, keep_known, repaint_sigmas
from polypforge.diffusion.samplers import SAMPLERS, ancestral, ddim, euler, interpolated_log_variance, posterior_variance
from polypforge.diffusion.schedules import Schedule, karras_sigmas

MEAN, SPREAD = 0.3, 0.5


def ideal(x, sigma, cond=None):
    """E[x0 | x] for data N(MEAN, SPREAD^2): the best denoiser there is."""
    return (MEAN * sigma**2 + x * SPREAD**2) / (sigma**2 + SPREAD**2)


def constant_noise(x):
    return torch.full_like(x, 0.5)


@pytest.mark.parametrize("name", [*SAMPLERS, "eta 0.5"])
def test_samplers_reproduce_a_gaussian(name):
    sample = ddim(0.5) if name == "eta 0.5" else SAMPLERS[name]
    sigmas = karras_sigmas(160, 0.01, 60.0)
    noise = SampleNoise(range(8))
    x = noise.draw((1, 64, 64), torch.device("cpu")) * sigmas[0] + MEAN
    out = sample(ideal, x, sigmas, None, noise)
    assert float(out.mean()) == pytest.approx(MEAN, abs=0.02)
    assert float(out.std()) == pytest.approx(SPREAD, abs=0.02)


def _network(state, times, cond):
    """Some smooth function of state and time, as a stand-in for a trained network."""
    return 0.6 * state + 0.1 * torch.sin(3 * state) + (times.view(-1, 1, 1, 1) / 1000) * 0.2


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_ddim_equals_diffusers(prediction):
    ours = {"epsilon": "epsilon", "v_prediction": "v", "sample": "x0"}[prediction]
    config = DiffusionConfig(Schedule("scaled_linear", 1000, 0.00085, 0.012), prediction=ours)
    diffusion = GaussianDiffusion(config)
    scheduler = DDIMScheduler(
        1000,
        0.00085,
        0.012,
        "scaled_linear",
        clip_sample=False,
        set_alpha_to_one=True,
        prediction_type=prediction,
        timestep_spacing="linspace",
    )
    scheduler.set_timesteps(20)
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    theirs = x.clone()
    times = scheduler.timesteps
    for now, then in itertools.pairwise([*times.tolist(), -1]):
        raw = _network(theirs, torch.full((2,), now), None)
        # diffusers assumes equal strides; the formula below is its step with the true next time
        signal, after = scheduler.alphas_cumprod[now], scheduler.alphas_cumprod[then] if then >= 0 else torch.tensor(1.0)
        clean = {
            "epsilon": (theirs - (1 - signal).sqrt() * raw) / signal.sqrt(),
            "sample": raw,
            "v_prediction": signal.sqrt() * theirs - (1 - signal).sqrt() * raw,
        }[prediction]
        eps = (theirs - signal.sqrt() * clean) / (1 - signal).sqrt()
        theirs = after.sqrt() * clean + (1 - after).sqrt() * eps
    sigmas = diffusion.spaced(20)
    mine = euler(diffusion.denoiser(_network), x * (1 + sigmas[0] ** 2).sqrt(), sigmas, None)
    assert torch.allclose(mine, theirs, atol=2e-4)


def test_ancestral_step_equals_diffusers():
    scheduler = DDPMScheduler(250, beta_schedule="linear", clip_sample=False, variance_type="fixed_small")
    diffusion = GaussianDiffusion(DiffusionConfig(Schedule("linear", 250)))
    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    raw = _network(x, torch.tensor([120]), None)
    torch.manual_seed(7)
    theirs = scheduler.step(raw, 120, x).prev_sample
    torch.manual_seed(7)
    unit = torch.randn(x.shape)
    sigmas = diffusion.sigmas[[120, 119]]
    mine = ancestral(diffusion.denoiser(_network), x * (1 + sigmas[0] ** 2).sqrt(), sigmas, None, lambda like: unit)
    assert torch.allclose(mine / (1 + sigmas[1] ** 2).sqrt(), theirs, atol=1e-4)


def test_learned_variance_spans_beta_tilde_to_beta():
    scheduler = DDPMScheduler(1000, variance_type="fixed_small")
    sigmas = Schedule("linear", 1000).sigmas()
    now, then = sigmas[500], sigmas[499]
    to_unit = 1 / (1 + then**2)  # from the state x0 + sigma n to diffusers' state of unit variance
    low, high = (float(interpolated_log_variance(torch.tensor(s, dtype=torch.float64), now, then).exp() * to_unit) for s in (0.0, 1.0))
    assert low == pytest.approx(float(scheduler._get_variance(500, variance_type="fixed_small")), rel=1e-4)
    assert high == pytest.approx(float(scheduler.betas[500]), rel=1e-4)


def test_learned_variance_loss_is_the_divergence_of_two_gaussians():
    sigmas = Schedule("linear", 1000).sigmas()
    now, then = sigmas[400].view(1, 1, 1, 1), sigmas[399].view(1, 1, 1, 1)
    clean = torch.rand(1, 2, 4, 4, dtype=torch.float64) * 2 - 1
    guess, share = clean + 0.1, torch.full_like(clean, 0.3)
    x = clean + now * torch.randn_like(clean)
    ours = torch.distributions.Normal(
        (then**2 / now**2) * x + (1 - then**2 / now**2) * guess, interpolated_log_variance(share, now, then).mul(0.5).exp()
    )
    truth = torch.distributions.Normal((then**2 / now**2) * x + (1 - then**2 / now**2) * clean, posterior_variance(now, then).sqrt())
    expected = torch.distributions.kl_divergence(truth, ours).mean() / math.log(2)
    assert float(variational_bound(clean, x, guess, share, now, then)) == pytest.approx(float(expected), rel=1e-6)
    perfect = variational_bound(clean, x, clean, torch.zeros_like(clean), now, then)
    assert float(perfect) == pytest.approx(0, abs=1e-9)


def test_the_last_term_of_the_bound_is_a_likelihood_of_bytes():
    now = Schedule("linear", 1000).sigmas()[0].view(1, 1, 1, 1)
    clean = (torch.arange(256, dtype=torch.float64) / 127.5 - 1).view(1, 1, 16, 16)
    none = torch.zeros_like(now)
    sharp = variational_bound(clean, clean, clean, torch.zeros_like(clean), now, none)
    off = variational_bound(clean, clean, clean + 0.1, torch.zeros_like(clean), now, none)
    assert 0 < float(sharp) < 3 < float(off)


def test_repaint_makes_960_calls_in_its_order():
    order = jump_order(200, 10, 5)
    assert order[0] == 199 and order[-1] == -1
    calls = sum(b < a for a, b in itertools.pairwise(order))
    assert calls == 960
    assert all(abs(a - b) == 1 for a, b in itertools.pairwise(order))
    assert order[:12] == list(range(199, 187, -1)) and order[19:31] == [180, *range(181, 191), 189]
    assert order.count(180) == 1 + 4 + 4  # once down, four returns of its own jumps, four ends of the jumps from 170
    assert jump_order(6, 2, 2) == [5, 4, 3, 2, 3, 4, 3, 2, 1, 0, 1, 2, 1, 0, -1]


@pytest.mark.parametrize("name", SAMPLERS)
def test_repaint_over_any_sampler_keeps_known_pixels_bit_equal(name):
    sigmas = repaint_sigmas(Schedule("linear", 1000).spaced_sigmas(12), 3, 2)
    known = torch.rand(2, 4, 8, 8, generator=torch.Generator().manual_seed(3)) * 2 - 1
    unknown = torch.zeros(2, 1, 8, 8)
    unknown[..., 2:6, 2:6] = 1
    noise = SampleNoise([1, 2])
    calls = []

    def denoise(x, sigma, cond):
        calls.append(float(sigma))
        return ideal(x, sigma)

    x = noise.draw((4, 8, 8), torch.device("cpu")) * sigmas[0]
    out = SAMPLERS[name](denoise, x, sigmas, None, noise, keep_known(known, unknown, noise))
    assert torch.equal(out[..., :2, :], known[..., :2, :]) and not torch.equal(out[..., 2:6, 2:6], known[..., 2:6, 2:6])
    if name != "heun":
        assert len(calls) == sum(b < a for a, b in itertools.pairwise(sigmas.tolist()))


def test_jumps_keep_the_distribution():
    sigmas = repaint_sigmas(karras_sigmas(240, 0.01, 40.0), 10, 3)
    noise = SampleNoise(range(6))
    x = noise.draw((1, 64, 64), torch.device("cpu")) * sigmas[0] + MEAN
    out = ancestral(ideal, x, sigmas, None, noise)
    assert float(out.mean()) == pytest.approx(MEAN, abs=0.02) and float(out.std()) == pytest.approx(SPREAD, abs=0.02)


def test_noise_belongs_to_the_sample_and_the_purpose():
    one, other = SampleNoise([5, 6])(torch.empty(2, 3)), SampleNoise([6])(torch.empty(1, 3))
    assert torch.equal(one[1], other[0])
    assert not torch.equal(other, SampleNoise([6], "else")(torch.empty(1, 3)))
    with pytest.raises(ValueError, match="noise for 1"):
        SampleNoise([6])(torch.empty(2, 3))


def test_a_random_sampler_without_noise_is_refused():
    with pytest.raises(ValueError, match="hand in"):
        ancestral(ideal, torch.zeros(1, 1, 2, 2), torch.tensor([2.0, 1.0, 0.0]), None)


def test_errors_are_zero_for_a_perfect_network_and_compose_with_snr():
    clean = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    for prediction in ("epsilon", "v", "x0"):
        config = DiffusionConfig(prediction=prediction, snr_gamma=5.0)
        diffusion = GaussianDiffusion(config)

        def perfect(state, times, cond, prediction=prediction, diffusion=diffusion):
            signal = diffusion.signal[times].view(-1, 1, 1, 1)
            noise = (state - signal.sqrt() * clean) / (1 - signal).sqrt()
            return {"epsilon": noise, "x0": clean, "v": signal.sqrt() * noise - (1 - signal).sqrt() * clean}[prediction]

        errors = diffusion.errors(perfect, clean, None, torch.Generator().manual_seed(1))
        assert float(errors.mean()) < 1e-6 and torch.allclose(errors.clean, clean, atol=1e-2)
        times = torch.tensor([10, 500, 990])
        ratio = diffusion.signal[times] / (1 - diffusion.signal[times])
        weight = diffusion.errors(perfect, clean, None, torch.Generator(), times).weight
        expected = {"epsilon": ratio.clamp_max(5) / ratio, "v": ratio.clamp_max(5) / (ratio + 1), "x0": ratio.clamp_max(5)}[prediction]
        assert torch.allclose(weight, expected)


def test_loss_guidance_lowers_its_loss():
    sigmas = karras_sigmas(60, 0.01, 40.0)
    x = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * sigmas[0]

    def loss(clean, sigma):
        return 40 * (clean - 0.9).square().flatten(1).sum(1)

    plain = euler(ideal, x, sigmas, None)
    steered = euler(LossGuided(ideal, loss), x, sigmas, None)
    assert float(loss(steered, 0).sum()) < 0.5 * float(loss(plain, 0).sum())
    idle = euler(LossGuided(ideal, loss, min_sigma=1e9), x, sigmas, None)
    assert torch.equal(idle, plain)


def test_learned_variance_reaches_the_sampler():
    config = DiffusionConfig(Schedule("linear", 100), learned_variance=True)
    diffusion = GaussianDiffusion(config)

    def network(share):
        return lambda state, times, cond: torch.cat([0.5 * state, torch.full_like(state, 2 * share - 1)], 1)

    sigmas, x = diffusion.sigmas[[60, 50]], torch.ones(1, 1, 4, 4)
    results = [ancestral(diffusion.denoiser(network(s)), x, sigmas, None, constant_noise) for s in (0.0, 1.0)]
    spread = [float(interpolated_log_variance(torch.tensor(s), sigmas[0], sigmas[1]).mul(0.5).exp()) for s in (0.0, 1.0)]
    assert float((results[1] - results[0]).mean()) == pytest.approx(0.5 * (spread[1] - spread[0]), rel=1e-4)


def test_the_bounds_cap_acts_on_the_bound_alone():
    clean = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))

    def network(state, times, cond):
        return torch.cat([0.9 * clean, torch.zeros_like(clean)], 1)

    times = torch.tensor([5])
    plain, capped = (
        GaussianDiffusion(DiffusionConfig(prediction="x0", learned_variance=True, bound_gamma=g)).errors(
            network, clean, None, torch.Generator(), times
        )
        for g in (None, 1.0)
    )
    ratio = float(GaussianDiffusion(DiffusionConfig()).signal[5])
    assert float(capped.bound / plain.bound) == pytest.approx((1 - ratio) / ratio, rel=1e-4)
    assert float(plain.weight) == float(capped.weight) == 1
    for bad in (dict(bound_gamma=-1.0), dict(snr_gamma=0.0)):
        with pytest.raises(ValueError, match="must be positive"):
            DiffusionConfig(**bad)


def test_a_wild_variance_does_not_blow_up_sampling():
    diffusion = GaussianDiffusion(DiffusionConfig(prediction="x0", learned_variance=True))

    def network(state, times, cond):
        return torch.cat([torch.zeros_like(state), torch.full_like(state, 60.0)], 1)

    noise = SampleNoise([1, 2])
    sigmas = diffusion.spaced(20)
    drawn = ancestral(diffusion.denoiser(network, clip=True), noise.start((1, 4, 4), sigmas[0]), sigmas, None, noise)
    assert torch.isfinite(drawn).all() and drawn.abs().max() <= 1
