import cv2
import numpy as np
import pytest
from PIL import Image as PIL

from polypforge.core.errors import UserError
from polypforge.core.images import brightest_channel, darkest_channel, image_files, png_bytes, read_image, read_mask, write_png


def save(path, array, **options):
    PIL.fromarray(array).save(path, **options)
    return path


GREY = np.tile(np.arange(80, dtype=np.uint8), (80, 1))
RGB = np.stack([GREY, GREY, GREY], -1)


def test_png_round_trip_is_exact(tmp_path):
    write_png(tmp_path / "a.png", RGB, {"key": "value"})
    assert (read_image(tmp_path / "a.png") == RGB).all()
    assert PIL.open(tmp_path / "a.png").text["key"] == "value"


def test_masks_are_thresholded_at_128(tmp_path):
    levels = np.full((80, 80), 127, np.uint8)
    levels[:, 40:] = 128
    assert read_mask(save(tmp_path / "m.png", levels)).mean() == 0.5


def test_palette_and_grey_become_rgb(tmp_path):
    PIL.fromarray(RGB).convert("P").save(tmp_path / "p.png")
    save(tmp_path / "g.png", GREY)
    assert read_image(tmp_path / "p.png").shape == (80, 80, 3)
    assert (read_image(tmp_path / "g.png") == RGB).all()


def test_unicode_and_spaces_in_names(tmp_path):
    path = save(tmp_path / "Zäpfchen 1 測試.png", RGB)
    assert (read_image(path) == RGB).all()


def bad_files(tmp_path):
    text = tmp_path / "text.png"
    text.write_text("not an image")
    yield text, "not an image"
    broken = tmp_path / "cut.png"
    broken.write_bytes(png_bytes(np.random.default_rng(0).integers(0, 255, (80, 80, 3), np.uint8))[:900])
    yield broken, "truncated"
    yield save(tmp_path / "small.png", RGB[:1, :1]), "at least 64"
    yield save(tmp_path / "wide.png", np.zeros((64, 30000, 3), np.uint8)), "scale it down"
    yield save(tmp_path / "deep.png", np.full((80, 80), 40000, np.uint16)), "8 bits"
    cmyk = tmp_path / "cmyk.jpg"
    PIL.fromarray(RGB).convert("CMYK").save(cmyk)
    yield cmyk, "CMYK"
    yield save(tmp_path / "alpha.png", np.dstack([RGB, GREY])), "transparent"
    turned = tmp_path / "turned.jpg"
    exif = PIL.Exif()
    exif[0x0112] = 6
    PIL.fromarray(RGB).save(turned, exif=exif)
    yield turned, "EXIF rotation"
    yield tmp_path / "none.png", "no such file"


def test_every_bad_image_gets_one_sentence_that_names_file_and_mend(tmp_path):
    seen = 0
    for path, words in bad_files(tmp_path):
        with pytest.raises(UserError) as caught:
            read_image(path)
        assert words in str(caught.value)
        assert path.name in str(caught.value)
        assert "\n" not in str(caught.value)
        seen += 1
    assert seen == 9


def test_opaque_alpha_is_no_problem(tmp_path):
    path = save(tmp_path / "opaque.png", np.dstack([RGB, np.full_like(GREY, 255)]))
    assert (read_image(path) == RGB).all()


def test_masks_of_zero_and_one_are_refused(tmp_path):
    with pytest.raises(UserError, match="0 and 255"):
        read_mask(save(tmp_path / "m.png", (GREY > 40).astype(np.uint8)))


def test_hidden_files_are_passed_over(tmp_path):
    save(tmp_path / "a.png", RGB)
    save(tmp_path / ".b.png", RGB)
    (tmp_path / ".cache").mkdir()
    save(tmp_path / ".cache" / "c.png", RGB)
    assert [p.name for p in image_files(tmp_path)] == ["a.png"]


def test_sixteen_bit_rgb_is_refused_and_a_width_of_160_is_not(tmp_path):
    cv2.imwrite(str(tmp_path / "deep.png"), np.full((80, 80, 3), 40000, np.uint16))
    with pytest.raises(UserError, match="8 bits"):
        read_image(tmp_path / "deep.png")
    assert read_image(save(tmp_path / "w.png", np.zeros((160, 160, 3), np.uint8))).shape == (160, 160, 3)


@pytest.mark.parametrize(("level", "words"), [(100, "0..100"), (1, "0..1")])
def test_dark_masks_are_refused_instead_of_read_as_empty(tmp_path, level, words):
    with pytest.raises(UserError, match=words):
        read_mask(save(tmp_path / "m.png", np.where(GREY > 40, level, 0).astype(np.uint8)))


def test_coloured_masks_are_refused(tmp_path):
    red = np.zeros((80, 80, 3), np.uint8)
    red[20:40, 20:40, 0] = 255
    with pytest.raises(UserError, match="neopolyp"):
        read_mask(save(tmp_path / "m.png", red))


def test_black_jpeg_masks_are_empty(tmp_path):
    faint = np.zeros((80, 80), np.uint8)
    faint[::9, ::9] = 4
    assert not read_mask(save(tmp_path / "m.jpg", faint, quality=95)).any()


def test_brightest_and_darkest_channel():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    for view in (pixels, pixels[:, ::-1], pixels[::2]):
        assert np.array_equal(brightest_channel(view), view.max(-1))
        assert np.array_equal(darkest_channel(view), view.min(-1))


def test_pictures_that_would_run_a_program_are_not_opened(tmp_path):
    """Pillow tells formats by their content: a PostScript file would go to Ghostscript."""
    path = tmp_path / "a.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\nshowpage\n%%EOF\n")
    with pytest.raises(UserError, match="not an image that can be read"):
        read_image(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_a_damaged_exif_block_is_one_sentence(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    PIL.fromarray(np.full((80, 80, 3), 90, np.uint8)).save(path, exif=b"Exif\0\0garbage!garbage!", dpi=(72, 72))
    with pytest.raises(UserError, match="truncated or damaged"):
        read_image(path)


def test_sixteen_bits_beside_an_alpha_channel_are_refused_too(tmp_path):
    deep = np.full((80, 80, 4), 65535, np.uint16)
    deep[..., :3] = 300
    path = tmp_path / "a.png"
    assert cv2.imwrite(str(path), deep)
    with pytest.raises(UserError, match="more than 8 bits"):
        read_image(path)
