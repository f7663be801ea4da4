import pytest
import torch

from polypforge.core.errors import UserError
from polypforge.models.fill import smooth_fill
from polypforge.models.locate import locate, starter_names, weights_hash
from polypforge.models.unet import UNetShape, apply_unet, build_unet


def test_unet_keeps_shape_and_starts_at_zero():
    unet = build_unet(UNetShape((32, 32), (False, True), patch_px=4, norm_groups=8), 9, 4, conditional=True)
    out = apply_unet(unet, torch.randn(2, 9, 32, 48), torch.rand(2), 4, torch.randn(2, 128))
    assert out.shape == (2, 4, 32, 48) and out.abs().max() == 0


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="one entry"):
        UNetShape((32, 64), (False,))
    with pytest.raises(ValueError, match="multiple"):
        UNetShape((30,), (False,))


def test_fill_keeps_what_is_known_and_uses_nothing_else():
    image = torch.rand(2, 3, 32, 32)
    known = torch.ones(2, 1, 32, 32)
    known[:, :, 8:20, 10:24] = 0
    filled = smooth_fill(image, known)
    assert torch.equal(filled[known.expand_as(image) > 0], image[known.expand_as(image) > 0])
    other = torch.where(known > 0, image, torch.rand_like(image))
    assert torch.allclose(smooth_fill(other, known), filled)


def test_fill_of_a_constant_is_constant():
    known = (torch.rand(1, 1, 64, 64) > 0.7).float()
    assert torch.allclose(smooth_fill(torch.full((1, 3, 64, 64), 0.4), known), torch.tensor(0.4), atol=1e-5)
    assert smooth_fill(torch.ones(1, 3, 16, 16), torch.zeros(1, 1, 16, 16)).abs().max() == 0


def test_fill_is_smooth_across_the_edge():
    ramp = torch.linspace(0, 1, 64).view(1, 1, 1, 64).expand(1, 3, 64, 64)
    known = torch.ones(1, 1, 64, 64)
    known[:, :, 20:44, 20:44] = 0
    assert (smooth_fill(ramp, known) - ramp).abs().max() < 0.25


def test_weights_are_found_or_named(tmp_path):
    with pytest.raises(UserError, match="no starter weights"):
        locate("starter:nothing")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "config.json").write_text("{}")
    with pytest.raises(UserError, match="no starter weights"):
        locate(f"starter:{tmp_path / 'own'}")  # would pass for public weights
    with pytest.raises(UserError, match="no such folder"):
        locate("./nowhere")
    with pytest.raises(UserError, match="config.json"):
        locate(str(tmp_path))
    with pytest.raises(UserError, match="hf download someone/model"):
        locate("someone/model", offline=True)


def test_pickles_are_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.bin").write_bytes(b"x")
    with pytest.raises(UserError, match="pickle"):
        locate(str(tmp_path))


def test_hash_follows_content(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    first = weights_hash(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    assert weights_hash(tmp_path) == first
    (tmp_path / "config.json").write_text('{"a": 1}')
    assert weights_hash(tmp_path) != first


def test_starter_weights_ship_with_the_package():
    assert {"forge", "window_segmenter"} <= set(starter_names())
    assert sum(p.stat().st_size for n in starter_names() for p in locate(f"starter:{n}").rglob("*")) < 40e6


def test_offline_holds_for_models_that_models_name(monkeypatch):
    import huggingface_hub

    from polypforge.core.errors import UserError
    from polypforge.models.locate import locate, set_offline

    asked = []

    def download(name, **options):
        asked.append(options["local_files_only"])
        raise OSError("no network in tests")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    for offline in (True, False):
        set_offline(offline)
        with pytest.raises(UserError, match="hf download"):
            locate("somebody/something")
    assert asked == [True, False]
