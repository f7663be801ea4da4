import numpy as np
import pytest
import torch

from polypforge.core.errors import UserError
from polypforge.core.seeding import numpy_rng
from polypforge.models.first_stage import Autoencoder, FirstStage, FirstStageConfig, edge_error, load_autoencoder
from polypforge.models.locate import locate
from polypforge.phantom.render import render


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_trains_and_scales_its_latents(kind, tmp_path):
    torch.manual_seed(0)
    model = FirstStage(FirstStageConfig(kind, (16, 16, 16), 1, codes=64, norm_groups=8, size_px=32))
    pool = model.prepare([render(900 + i, 160) for i in range(3)])
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    batch = model.training_batch(pool, 8, numpy_rng("held"))
    before = model.validation_losses(batch, 0)["pixels"]
    for step in range(30):
        loss, _ = model.loss(model.training_batch(pool, 8, numpy_rng(step)), torch.Generator().manual_seed(step))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert model.validation_losses(batch, 0)["pixels"] < 0.9 * before
    model.save_pretrained(tmp_path)
    stage = Autoencoder(load_autoencoder(tmp_path))
    latents = stage.encode(batch["image"])
    assert latents.shape == (8, 4, 8, 8) and stage.factor == 4 and float(latents.std()) == pytest.approx(1, abs=0.4)
    assert stage.decode(latents).shape == batch["image"].shape
    again = FirstStage.load_pretrained(tmp_path)
    assert float(again.latent_std) == pytest.approx(float(model.latent_std), rel=1e-4)


def test_the_shipped_one_keeps_shapes():
    stage = Autoencoder(load_autoencoder(locate("starter:first_stage")))
    frame = render(5, 256).image[64:192, 64:192]
    image = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        error = (stage.decode(stage.encode(image)) - image).abs().mean()
    assert float(error) < 0.12 and stage.channels == 4


def test_edges_of_equal_images_have_no_error():
    image = torch.rand(1, 3, 16, 16)
    assert float(edge_error(image, image + 0.3)) == pytest.approx(0, abs=1e-6) and float(edge_error(image, -image)) > 0


def test_a_folder_without_an_autoencoder_is_refused(tmp_path):
    with pytest.raises(UserError, match="train first_stage"):
        load_autoencoder(tmp_path)
