import json
import math

import numpy as np
import pytest
import torch

from polypforge.core.config import from_dict
from polypforge.core.errors import UserError
from polypforge.evaluation.segmentation.network import LesionSegmenter, LesionSegmenterConfig
from polypforge.quality.segmenter import SegmenterConfig, WindowSegmenter
from polypforge.recipes.polyp_ddpm.recipe import PolypDDPM
from polypforge.training.config import PrivacyConfig, TrainingConfig
from polypforge.training.private import PrivateTrainer, _noisy, epsilon_after, noise_for
from polypforge.workflows.train import _weights_in, train


@pytest.mark.parametrize(("noise", "epochs", "published"), [(1.3, 15, 1.19), (1.1, 60, 3.01), (0.7, 45, 7.10)])
def test_the_account_agrees_with_published_values(noise, epochs, published):
    """MNIST with batches of 256, delta 1e-5: the table of TensorFlow Privacy's tutorial. Its Renyi conversion was looser than today's."""
    found = epsilon_after(epochs * 60_000 // 256, noise, 256 / 60_000, 1e-5)
    assert 0.8 * published < found <= 1.01 * published


def test_one_step_on_everybody_is_the_gaussian_mechanism():
    """Never below the exact epsilon of the Gaussian mechanism (Balle & Wang 2018), and not far above."""

    def delta_of(epsilon, sigma):
        def phi(x):
            return 0.5 * math.erfc(-x / math.sqrt(2))

        return phi(0.5 / sigma - epsilon * sigma) - math.exp(epsilon) * phi(-0.5 / sigma - epsilon * sigma)

    low, high = 0.0, 50.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if delta_of(middle, 2.0) > 1e-5 else (low, middle)
    found = epsilon_after(1, 2.0, 1.0, 1e-5)
    assert high <= found < 1.25 * high and epsilon_after(0, 2.0, 1.0, 1e-5) == 0


def test_noise_keeps_the_promise():
    noise = noise_for(4.0, 1e-4, 0.05, 500)
    assert 3.9 < epsilon_after(500, noise, 0.05, 1e-4) <= 4.0
    assert noise_for(1.0, 1e-4, 0.05, 500) > noise


class Plain(WindowSegmenter):
    """A loss whose gradient is known: the sum of one weight times the image's mean."""

    def __init__(self, values):
        torch.nn.Module.__init__(self)
        self.config = SegmenterConfig()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.values = values

    def training_batch(self, pool, batch_size, rng):
        return {"x": torch.tensor([float(pool[0])])}

    def loss(self, batch, generator):
        value = (self.weight * batch["x"]).sum()
        return value, {"loss": value.detach()}

    def save_pretrained(self, folder):
        (folder / "x").write_text("")


def config(**more):
    return TrainingConfig(
        batch_size=4, max_steps=60, learning_rate=0.1, warmup_steps=1, checkpoint_every=0, validate_every=0, preview_every=0, **more
    )


def test_every_image_is_clipped_and_noise_is_added(tmp_path):
    """All images pull with gradient +1000 and are clipped to 1; with next to no noise the step is the mean pull, q n / batch = 1 on average."""
    model = Plain(None)
    quiet = config(privacy=PrivacyConfig(noise_multiplier=1e-6))
    trainer = PrivateTrainer(model, [1000.0] * 8, [], tmp_path / "a", quiet, device="cpu")
    pulls, seen = [], []
    trainer._private.original_optimizer.step = lambda *a, **k: pulls.append(float(model.weight.grad))
    for step in range(60):
        batch = trainer._batch(step)
        trainer._step(batch)
        seen.append((len(batch), pulls[-1]))
    for count, gradient in seen:
        assert gradient == pytest.approx(count / 4, abs=1e-3)
    assert {count for count, _ in seen} > {4} and 3 < np.mean([c for c, _ in seen]) < 5
    loud = PrivateTrainer(Plain(None), [0.0] * 8, [], tmp_path / "b", config(privacy=PrivacyConfig(noise_multiplier=2.0)), device="cpu")
    noise = []
    loud._private.original_optimizer.step = lambda *a, **k: noise.append(float(loud.model.weight.grad))
    for step in range(60):
        loud._step(loud._batch(step))
    assert 0.3 < np.std(noise) < 0.75  # 2.0 * 1.0 / 4


def test_noisy_gradients_lie_in_memory_as_their_weights_do():
    """Where networks lie channels-last, a fused step walks weights and gradients side by side."""
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    before = conv.weight.detach().clone()
    optimizer = _noisy(torch.optim.AdamW(conv.parameters(), 1e-2, weight_decay=0.0, fused=True), 1e-6, 1.0, 2)
    slope = torch.randn(4, 3, 3, 3)
    conv.weight.grad_sample, conv.bias.grad_sample = torch.stack([slope, slope]), torch.zeros(2, 4)
    optimizer.step()
    assert conv.weight.grad.stride() == conv.weight.stride()
    assert torch.equal((before - conv.weight).detach().sign(), slope.sign())


def test_images_that_teach_nothing_are_passed_over(tmp_path):
    class Picky(Plain):
        def training_batch(self, pool, batch_size, rng):
            if pool[0] > 2:
                raise UserError("nothing to learn")
            return super().training_batch(pool, batch_size, rng)

    run = PrivateTrainer(Picky(None), [0.0, 1.0, 5.0, 5.0], [], tmp_path, config(privacy=PrivacyConfig(epsilon=5)), device="cpu")
    assert max(len(run._batch(step)) for step in range(40)) == 2


@pytest.mark.slow
def test_a_recipe_trains_privately_and_its_card_says_so(phantom_folder, tmp_path):
    from polypforge.workflows.train import train

    tiny = ["model.unet.widths=[32, 32]", "model.unet.attention=[false, false]", "model.unet.norm_groups=16", "model.size_px=32"]
    quick = [
        "training.max_steps=3",
        "training.budget_seconds=null",
        "training.batch_size=2",
        "training.privacy.epsilon=6",
        "phantom.frames=0",
    ]
    train("polyp_ddpm", [phantom_folder], tmp_path / "run", assignments=[*tiny, *quick])
    account = json.loads((tmp_path / "run" / "model" / "privacy.json").read_text())
    assert 0 < account["epsilon"] <= 6 and account["steps"] == 3 and account["images"] > 4
    assert f"({account['epsilon']:.3g}, " in (tmp_path / "run" / "model" / "MODEL_CARD.md").read_text()
    assert not (tmp_path / "run" / "best").exists()
    assert PolypDDPM.load_pretrained(tmp_path / "run" / "model") is not None


def test_what_can_not_be_private_is_refused(tmp_path):
    private = PrivacyConfig(epsilon=5)
    with pytest.raises(UserError, match="max_steps"):
        PrivateTrainer(Plain(None), [1.0] * 8, [], tmp_path, TrainingConfig(budget_seconds=5, batch_size=4, privacy=private))
    with pytest.raises(UserError, match="at most the 3"):
        PrivateTrainer(Plain(None), [1.0] * 3, [], tmp_path, config(privacy=private))

    class Fitted(Plain):
        def fit(self, cases):
            pass

    with pytest.raises(UserError, match="more from its training cases"):
        PrivateTrainer(Fitted(None), [1.0] * 8, [], tmp_path, config(privacy=private))
    with pytest.raises(ValueError, match="positive"):
        PrivacyConfig(epsilon=0)


def test_weights_that_others_trained_are_found_at_any_depth():
    section = {
        "backbone": {"weights": "runs/mine", "size": 3, "first_stage": "runs/stage"},
        "control_weights": "starter:forge", "unet": {"weights": None}, "styling": {"semantics": "runs/encoder"},
    }  # fmt: skip
    assert sorted(_weights_in(section)) == ["runs/encoder", "runs/mine", "runs/stage", "starter:forge"]


def test_private_training_does_not_set_out_from_weights_of_this_machine(tmp_path, phantom_folder):
    torch.manual_seed(0)
    network = {"encoder": "tu-resnet10t", "depth": 3, "decoder": [16, 8, 8], "size_px": 32}
    LesionSegmenter(from_dict(LesionSegmenterConfig, network)).save_pretrained(tmp_path / "mine")
    section = json.dumps(network | {"weights": str(tmp_path / "mine")})
    wanted = (f"model={section}", "training.privacy.epsilon=8", "training.max_steps=2")
    with pytest.raises(UserError, match="can't set out from .*mine"):
        train("lesion_segmenter", [phantom_folder], tmp_path / "out", assignments=wanted, device="cpu")
