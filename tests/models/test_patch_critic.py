import pytest
import torch

from polypforge.models.patch_critic import PatchCritic


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
