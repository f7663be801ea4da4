"""Burnt-in text and file metadata stay out of outputs, and out of what generators learn."""

import cv2
import numpy as np
import pytest
from PIL import Image as PIL

from polypforge.core.errors import UserError
from polypforge.core.images import write_png
from polypforge.core.types import POLYP, Case, Request
from polypforge.data.folder import write_data_set
from polypforge.data.layouts import open_source
from polypforge.data.prepared import prepare
from polypforge.phantom.overlays import draw_overlay
from polypforge.phantom.render import render
from polypforge.recipes import Job, load_recipe
from polypforge.workflows import train as train_module
from polypforge.workflows.data import import_data
from polypforge.workflows.deidentify import Deidentifier


@pytest.fixture
def texted(tmp_path):
    """Phantom JPEGs with text in the pixels and a name in their EXIF; the letters of each."""
    letters = {}
    for seed in (1, 2, 5):  # no white letters on white highlights
        case = render(seed + 40, 480, polyps=1)
        image, letters[f"f{seed}"] = draw_overlay(case.image, np.random.default_rng(seed), fonts=())
        exif = PIL.Exif()
        exif[0x010E] = "Jane Doe"
        (tmp_path / "raw" / "images").mkdir(parents=True, exist_ok=True)
        PIL.fromarray(image).save(tmp_path / "raw" / "images" / f"f{seed}.jpg", quality=92, exif=exif)
        write_png(tmp_path / "raw" / "masks" / f"f{seed}.png", case.mask)
    return tmp_path / "raw", letters


@pytest.mark.parametrize("mode", ["inpaint", "mask"])
def test_import_takes_text_and_metadata_out(texted, tmp_path, mode):
    raw, letters = texted
    result = import_data(raw, tmp_path / "clean", deidentify=mode)
    assert result["cases"] == result["deidentified"] == 3
    for case in open_source(tmp_path / "clean"):
        path = next((tmp_path / "clean" / "images").glob(f"{case.name}.*"))
        assert b"Jane" not in path.read_bytes() and not PIL.open(path).getexif()
        before = cv2.imread(str(raw / "images" / f"{case.name}.jpg"))[..., ::-1].astype(int)
        changed = np.abs(case.image.astype(int) - before).max(-1) > 8
        mask = letters[case.name]
        assert changed[mask].mean() > 0.85  # what is left unchanged looked like its surroundings
        if mode == "mask":
            assert (case.image[mask] == 0).all(-1).mean() > 0.95
        else:
            assert Deidentifier().text(case.image)[mask].mean() < 0.1


def test_import_without_the_option_keeps_pixels_and_drops_metadata(texted, tmp_path):
    raw, _ = texted
    assert import_data(raw, tmp_path / "plain")["deidentified"] == 0
    for path in (tmp_path / "plain" / "images").iterdir():
        assert b"Jane" not in path.read_bytes()
        assert (np.asarray(PIL.open(path)) == np.asarray(PIL.open(raw / "images" / f"{path.stem}.jpg"))).all()
    with pytest.raises(UserError, match="choose inpaint or mask"):
        import_data(raw, tmp_path / "other", deidentify="blur")


def test_what_was_replaced_is_not_learned_from(tmp_path):
    case = render(41, 480, polyps=1)
    image, letters = draw_overlay(case.image, np.random.default_rng(4), fonts=())
    cleaner = Deidentifier(cache=tmp_path)
    cleaned = cleaner.clean(Case("x", image, case.mask))
    assert cleaned.hidden is not None and cleaned.hidden[letters].mean() > 0.95
    assert not prepare(cleaned).field[cleaned.hidden].any()
    assert len(list(tmp_path.rglob("*.png"))) == 1
    assert (cleaner.clean(Case("x", image, case.mask)).image == cleaned.image).all()  # from the cache
    with pytest.raises(UserError, match="inpaint or mask"):
        cleaner.clean(case, "hide")


@pytest.mark.slow
def test_a_model_that_learned_from_frames_with_text_writes_none(tmp_path, monkeypatch):
    """Green words stand in every training frame. Samples show no green; without the cleaning, the same training teaches it."""
    cases = []
    for seed in range(12):
        case = render(seed + 60, 256, polyps=1)
        for line in range(5):
            cv2.putText(case.image, "MRS JANE DOE", (18, 45 + 44 * line), cv2.FONT_HERSHEY_SIMPLEX, 0.9, (70, 255, 70), 4, cv2.LINE_AA)
        cases.append(case)
    write_data_set(tmp_path / "data", cases)
    tiny = {"unet.widths": "[32, 48]", "unet.attention": "[false, false]", "unet.norm_groups": "16", "size_px": "64", "steps": "20"}
    quick = {"max_steps": 200, "budget_seconds": "null", "batch_size": 12, "warmup_steps": 20, "ema_decay": 0.97, "preview_every": 0}
    quick |= {"validate_every": 0, "learning_rate": 2e-3}
    settings = [*(f"model.{k}={v}" for k, v in tiny.items()), *(f"training.{k}={v}" for k, v in quick.items())]

    def green(out):
        """Share of clearly green pixels in samples: no mucosa is green."""
        train_module.train("polyp_ddpm", [tmp_path / "data"], out, assignments=settings)
        shown = [c for c in cases if c.mask.any()][:6]
        made = load_recipe(out / "model").generate([Job(Request(c.name, POLYP, (), seed=k), c) for k, c in enumerate(shown)])
        pixels = np.concatenate([m.image.reshape(-1, 3).astype(int) for m in made])
        return float((pixels[:, 1] > pixels[:, 0] + 25).mean())

    clean = green(tmp_path / "clean")
    monkeypatch.setattr(train_module, "without_text", lambda cases, cache: cases)
    dirty = green(tmp_path / "dirty")
    assert dirty > 0.02 and clean < 0.1 * dirty
