"""What the detail stage of forge has beside its U-Net: the head at full resolution, and the critic."""

import pytest
import torch

from polypforge.models.patch_critic import PatchCritic
from polypforge.models.pixel_head import PixelHead


def test_the_head_starts_by_changing_nothing_and_sees_over_the_borders_of_patches(tmp_path):
    torch.manual_seed(0)
    head = PixelHead(4, 9)
    drawn, seen = torch.rand(2, 4, 16, 16), torch.rand(2, 9, 16, 16)
    assert torch.equal(head(drawn, seen), drawn)
    torch.nn.init.normal_(head.layers[-1].weight)
    moved = drawn.clone()
    moved[..., 8, 8] += 1
    reach = (head(moved, seen) - head(drawn, seen)).abs().sum((0, 1)) > 0
    assert reach[5:12, 5:12].all() and reach.sum() == 49  # 5x5 after 3x3
    head.save_pretrained(tmp_path)
    assert torch.equal(PixelHead.from_pretrained(tmp_path)(drawn, seen), head(drawn, seen))


def test_the_critic_scores_patches_of_three_sizes_and_learns_to_tell_noise_from_none(tmp_path):
    torch.manual_seed(0)
    critic = PatchCritic(3)
    scores, features = critic(torch.rand(2, 3, 64, 64))
    assert [s.shape for s in scores] == [(2, 1, 32, 32), (2, 1, 16, 16), (2, 1, 8, 8)] and [f.shape[1] for f in features] == [48, 96, 128]
    optimizer = torch.optim.Adam(critic.parameters(), 1e-3)
    for _ in range(60):
        smooth = torch.nn.functional.interpolate(torch.rand(4, 3, 8, 8), 64, mode="bilinear")
        noisy = smooth + 0.4 * torch.randn_like(smooth)
        judged = [((s - wanted) ** 2).mean() for wanted, image in ((1.0, smooth), (0.0, noisy)) for s in critic(image)[0]]
        loss = torch.stack(judged).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.12  # 0.25 for one who can't tell
    critic.save_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(PatchCritic.from_pretrained(tmp_path)(noisy)[0][0], critic(noisy)[0][0])


def test_the_critic_needs_sides_that_it_can_halve():
    with pytest.raises(RuntimeError):
        PatchCritic(3)(torch.rand(1, 3, 63, 64))
