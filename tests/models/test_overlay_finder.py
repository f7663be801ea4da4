import cv2
import numpy as np
import pytest
import torch

from polypforge.models.locate import starter_root
from polypforge.models.overlay_finder import OverlayFinder, OverlayFinderConfig
from polypforge.phantom.overlays import draw_overlay, system_fonts
from polypforge.phantom.render import render


def test_overlays_say_which_pixels_they_drew():
    image = render(3, 320).image
    for seed in range(12):
        drawn, letters = draw_overlay(image, np.random.default_rng(seed), fonts=())
        changed = np.abs(drawn.astype(int) - image).max(-1) > 24
        near = cv2.dilate(letters.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        assert 0.0005 < letters.mean() < 0.3 and not (changed & ~near).any()


def test_the_finder_trains_on_frames_without_text_only():
    torch.manual_seed(0)
    finder = OverlayFinder(OverlayFinderConfig(crop_px=64, look_px=320))
    plain = render(3, 320)
    texted = render(3, 320)
    texted.image, _ = draw_overlay(texted.image, np.random.default_rng(1), fonts=())
    assert len(finder.prepare([plain])) == 1
    batch = finder.training_batch(finder.prepare([plain]), 4, np.random.default_rng(0))
    assert {k: tuple(v.shape) for k, v in batch.items()} == finder.batch_shapes(4)
    loss, _ = finder.loss(batch, torch.Generator())
    assert torch.isfinite(loss) and finder.find(plain.image).shape == (320, 320)


def test_faint_pixels_join_a_sure_one_and_are_nothing_alone():
    finder = OverlayFinder(OverlayFinderConfig(look_px=320, grow=0))
    chance = torch.full((1, 1, 320, 320), 0.01)
    chance[..., 50:60, 50:90] = 0.2  # a faint stroke,
    chance[..., 50:60, 50:52] = 0.9  # sure at one end;
    chance[..., 200:210, 200:240] = 0.2  # another one is sure nowhere,
    chance[..., 300, 300] = 0.9  # and a lone pixel is no letter

    class Given(torch.nn.Module):
        def forward(self, image):
            return torch.logit(chance)

    finder.net = Given()
    finder.register_parameter("place", torch.nn.Parameter(torch.zeros(1)))  # says on which device it is
    found = finder.find(np.zeros((320, 320, 3), np.uint8))
    assert found[50:60, 50:90].all() and found.sum() == 400
    with pytest.raises(ValueError, match="faint"):
        OverlayFinderConfig(faint=0.5)


@pytest.mark.slow
@pytest.mark.skipif(not (starter_root() / "overlay_finder").is_dir(), reason="no shipped finder")
def test_the_shipped_finder_covers_rendered_letters_and_little_else():
    finder = OverlayFinder.load_pretrained(starter_root() / "overlay_finder").eval()
    found = letters = false = pixels = 0
    for seed in range(16):
        image = render(9000 + seed, 480).image
        drawn, mask = draw_overlay(image, np.random.default_rng(100 + seed), system_fonts())
        seen = finder.find(drawn)
        found, letters = found + int((seen & mask).sum()), letters + int(mask.sum())
        false, pixels = false + int(finder.find(image).sum()), pixels + mask.size
    assert found / letters > 0.98 and false / pixels < 0.02
