"""The single-step segmenter learns, saves, loads and judges."""

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from polypforge.core.config import from_dict
from polypforge.core.errors import UserError
from polypforge.core.seeding import numpy_rng
from polypforge.models.locate import starter_root
from polypforge.phantom.render import render
from polypforge.quality.judges import agreement, judge_class, load_judge
from polypforge.quality.latent_segmenter import LatentSegmenter, LatentSegmenterConfig

SMALL = {"vision_depth": 3, "unet": {"widths": [32, 32], "attention": [False, False], "patch_px": 1, "norm_groups": 8}, "window_px": 32}


@pytest.fixture(scope="module")
def first_stage(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("stage")
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3, block_out_channels=(8, 8, 8), layers_per_block=1,
        latent_channels=4, norm_num_groups=4, mid_block_add_attention=False, scaling_factor=1.0,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def test_trains_saves_loads_and_judges(first_stage, tmp_path):
    cases = [render(700 + i, 160, polyps=1) for i in range(6)]
    model = LatentSegmenter(from_dict(LatentSegmenterConfig, SMALL | {"first_stage": str(first_stage)}))
    pool = model.prepare(cases)
    learned = [p for p in model.parameters() if p.requires_grad]
    assert all("vae" not in n for n, p in model.named_parameters() if p.requires_grad)
    optimizer = torch.optim.AdamW(learned, 2e-3)
    losses = []
    for step in range(30):
        loss, parts = model.loss(model.training_batch(pool, 6, numpy_rng(step)), torch.Generator().manual_seed(step))
        loss.backward()
        assert set(parts) == {"error", "clean", "dice"}
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-6:]) < np.mean(losses[:6])
    model.save_pretrained(tmp_path)
    loaded = load_judge(tmp_path)
    windows = np.random.default_rng(0).integers(0, 255, (3, 32, 32, 3), dtype=np.uint8)
    chances = loaded.predict(windows)
    assert chances.shape == (3, 32, 32) and chances.min() >= 0 and chances.max() <= 1
    assert np.abs(chances - model.predict(windows)).max() < 0.02
    assert np.abs(chances[1:2] - loaded.predict(windows[1:2])).max() < 0.02  # the same noise for every image
    scores = agreement(loaded, [c.image for c in cases], [c.mask for c in cases])
    assert len(scores) == 6 and all(0 <= s <= 1 for s in scores)


def test_dice_sends_gradients_through_the_frozen_decoder(first_stage):
    model = LatentSegmenter(from_dict(LatentSegmenterConfig, SMALL | {"first_stage": str(first_stage), "clean_weight": 0.0}))
    latents = torch.randn(1, 4, 8, 8, requires_grad=True)
    model.decode(latents * 0.1).mean().backward()
    assert latents.grad is not None and not any(p.grad is not None for p in model.vae.parameters())


def test_misfits_are_named(first_stage, tmp_path):
    with pytest.raises(UserError, match="shrinks by 4"):
        LatentSegmenter(from_dict(LatentSegmenterConfig, SMALL | {"first_stage": str(first_stage), "vision_depth": 1}))
    other = LatentSegmenter(from_dict(LatentSegmenterConfig, SMALL | {"first_stage": str(first_stage)}))
    other.save_pretrained(tmp_path / "other")
    for wrong in (str(tmp_path / "other"), "starter:window_segmenter"):  # another kind; another depth
        with pytest.raises(UserError, match="no window segmenter with encoder tu-resnet10t of depth 3"):
            LatentSegmenter(from_dict(LatentSegmenterConfig, SMALL | {"first_stage": str(first_stage), "vision_weights": wrong}))
    started = LatentSegmenter(
        from_dict(
            LatentSegmenterConfig,
            SMALL | {"first_stage": str(first_stage), "vision_depth": 4, "vision_weights": "starter:window_segmenter"},
        )
    )
    judge = load_judge(starter_root() / "window_segmenter")
    assert torch.equal(started.vision.state_dict()["model.conv1.0.weight"], judge.net.encoder.state_dict()["model.conv1.0.weight"])
    with pytest.raises(UserError, match="no judge 'oracle'"):
        judge_class("oracle")
    (tmp_path / "config.json").write_text('{"recipe": "forge"}')
    with pytest.raises(UserError, match="is no judge"):
        load_judge(tmp_path)
