import numpy as np
import pytest
import torch
from transformers import Dinov2Config, Dinov2Model

from polypforge.core.errors import UserError
from polypforge.core.window import Window
from polypforge.data.prepared import prepare
from polypforge.features import load_encoder
from polypforge.features.frame_encoder import FrameEncoder, FrameEncoderConfig, matching_loss, shared_places
from polypforge.features.frames import FeatureStore, encode, fit_square, frame_key
from polypforge.phantom.render import render

TINY = FrameEncoderConfig(dim=16, window_px=64, look_px=128, points=8)


@pytest.fixture(scope="module")
def dino(tmp_path_factory):
    """A real DINOv2, only tiny."""
    folder = tmp_path_factory.mktemp("dino")
    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=70, patch_size=14)
    Dinov2Model(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    torch.manual_seed(0)
    FrameEncoder(TINY).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("which", ["dino", "own", "starter:window_segmenter"])
def test_every_encoder_gives_unit_patches_and_a_vector(which, request):
    encoder = load_encoder(which if ":" in which else str(request.getfixturevalue(which)))
    side = 4 * encoder.patch_px if which != "own" else 128
    image = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    patches = encoder.patches(image)
    assert patches.shape[:3] == (2, side // encoder.patch_px, side // encoder.patch_px)
    assert torch.allclose(patches.norm(dim=-1), torch.ones(patches.shape[:3]), atol=1e-4)
    assert encoder.vector(image).shape[0] == 2 and encoder.version and encoder.name


def test_dinov2_patches_are_the_tokens_after_the_class_token(dino):
    encoder = load_encoder(str(dino))
    image = torch.rand(1, 3, 70, 70, generator=torch.Generator().manual_seed(1)) * 2 - 1
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    tokens = encoder.net(pixel_values=((image + 1) / 2 - mean) / std).last_hidden_state[0, 1:]
    expected = torch.nn.functional.normalize(tokens, dim=-1).reshape(5, 5, -1)
    assert torch.allclose(encoder.patches(image)[0], expected, atol=1e-5)
    assert encoder.look_px == 448 and encoder.patch_px == 14


def test_frame_features_ignore_the_padding_and_keep_the_aspect(own):
    encoder = load_encoder(str(own))
    image = render(3, 200).image
    wide = np.ascontiguousarray(image[:100])
    (features,) = encode(encoder, [wide])
    assert features.patches.shape == (8, 16, 16) and features.cell_px == pytest.approx(200 / 16)
    assert np.linalg.norm(features.vector) == pytest.approx(1, abs=1e-5)
    square = fit_square(wide, 128)
    assert square.shape == (128, 128, 3) and not square[64:].any() and square[:64].any()
    with pytest.raises(UserError, match="smaller than one patch"):
        encode(encoder, [image[:4, :4]])


def test_stored_features_are_those_computed_and_other_versions_are_others(own, tmp_path):
    encoder = load_encoder(str(own))
    frames = [(f"f{i}", render(i, 96).image) for i in range(5)]
    fresh = list(FeatureStore(encoder, tmp_path, batch_size=2).features(frames))
    assert [name for name, _ in fresh] == [name for name, _ in frames]
    calls = []
    encoder.patches = lambda image: calls.append(1)  # nothing may be computed again
    again = list(FeatureStore(encoder, tmp_path, batch_size=2).features(frames))
    assert not calls
    for (_, a), (_, b) in zip(fresh, again, strict=True):
        assert np.array_equal(a.patches, b.patches) and np.array_equal(a.vector, b.vector) and a.cell_px == b.cell_px
    assert {p.name for p in tmp_path.iterdir()} == {f"{encoder.version}-{encoder.look_px}"}
    damaged = next(tmp_path.rglob(f"{frame_key(frames[0][1])}.safetensors"))
    damaged.write_bytes(b"not features")
    with pytest.raises(AttributeError):  # computed again, by the broken stand-in above
        next(FeatureStore(encoder, tmp_path, batch_size=1).features(frames[:1]))


def test_memory_stays_flat_however_many_frames_there_are(own):
    held = []
    store = FeatureStore(load_encoder(str(own)), batch_size=2)

    def frames():
        for i in range(9):
            held.append(i)
            yield str(i), render(1, 64).image

    for taken, _ in enumerate(store.features(frames()), 1):
        assert len(held) - taken <= 2


def test_shared_places_are_the_same_tissue():
    first, second = Window(100, 90, 80, 30.0), Window(110, 95, 60, 190.0, True)
    field = np.ones((200, 220), bool)
    here, there = shared_places(first, second, field, 64)
    assert len(here) > 10 and np.abs(here).max() <= 1 and np.abs(there).max() <= 1

    def frame(places, window):
        pixels = ((places + 1) * 64 - 1) / 2
        inverse = np.linalg.inv(np.vstack([window.matrix(64), [0, 0, 1]]))
        return np.hstack([pixels, np.ones((len(pixels), 1))]) @ inverse.T

    assert np.allclose(frame(here, first), frame(there, second), atol=1e-3)
    assert not len(shared_places(first, second, np.zeros_like(field), 64)[0])


def test_matching_loss_is_zero_for_own_pairs_and_log_n_for_none():
    rows = torch.eye(6)
    assert float(matching_loss(rows, rows, 0.01)) < 1e-6
    assert float(matching_loss(torch.ones(6, 4), torch.ones(6, 4), 0.1)) == pytest.approx(np.log(6), abs=1e-5)


@pytest.mark.slow
def test_self_supervision_learns_to_find_the_same_place():
    torch.manual_seed(0)
    model = FrameEncoder(TINY)
    pool = model.prepare([render(i, 160) for i in range(8)])
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    held = model.training_batch(pool, 16, np.random.default_rng(99))
    before = model.validation_losses(held, 0)
    for step in range(60):
        loss, _ = model.loss(model.training_batch(pool, 8, np.random.default_rng(step)), torch.Generator())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = model.validation_losses(held, 0)
    assert after["local"] < before["local"] - 0.5 and after["global"] < before["global"]
    assert len(model.prepare([render(1, 64)])) == 1 and prepare(render(1, 64)).field.any()


def test_an_encoder_without_patches_or_a_damaged_one_is_refused(tmp_path, own):
    from safetensors.torch import save_file
    from torchvision.models import vgg19

    save_file(vgg19(weights=None).state_dict(), tmp_path / "vgg.safetensors")
    encoder = load_encoder(f"vgg19:{tmp_path / 'vgg.safetensors'}")
    with pytest.raises(UserError, match="no patch features"):
        encoder.patches(torch.zeros(1, 3, 32, 32))
    (own.parent / "broken").mkdir(exist_ok=True)
    (own.parent / "broken" / "config.json").write_text((own / "config.json").read_text())
    with pytest.raises(UserError, match="could not be read"):
        load_encoder(str(own.parent / "broken"))
