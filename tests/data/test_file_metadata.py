import io

import numpy as np
import pytest
from PIL import Image as PIL
from PIL import PngImagePlugin

from polypforge.data.file_metadata import carries_metadata

PIXELS = np.random.default_rng(0).integers(0, 255, (70, 90, 3), np.uint8)


def encoded(form, **options):
    buffer = io.BytesIO()
    PIL.fromarray(PIXELS).save(buffer, form, **options)
    return buffer.getvalue()


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2) + body


def inserted(marker: int, body: bytes) -> bytes:
    plain = encoded("JPEG")
    return plain[:2] + segment(marker, body) + plain[2:]


def test_files_with_nothing_but_pixels_are_let_through():
    profile = b"ICC_PROFILE\0\1\1" + b"x" * 40
    plain = [
        encoded("PNG"), encoded("PNG", dpi=(96, 96)), encoded("JPEG"), encoded("JPEG", dpi=(96, 96)), encoded("JPEG", progressive=True),
        encoded("JPEG", optimize=True, quality=95), inserted(0xE2, profile), inserted(0xDD, b"\0\4"),
    ]  # fmt: skip
    assert [carries_metadata(p) for p in plain] == [False] * len(plain)


@pytest.mark.parametrize("marker", [0xE0, 0xE1, 0xE2, 0xE3, 0xE5, 0xEA, 0xED, 0xEE, 0xEF, 0xFE])
def test_a_jpeg_segment_with_words_is_noticed(marker):
    assert carries_metadata(inserted(marker, b"PatientName=Jane Doe"))


def test_words_in_png_chunks_exif_and_after_the_end_are_noticed():
    info = PngImagePlugin.PngInfo()
    info.add(b"tEXt", b"Patient\0someone", after_idat=True)
    private = PngImagePlugin.PngInfo()
    private.add(b"paTt", b"someone")
    exif = PIL.Exif()
    exif[0x010E] = "someone"
    with_words = [encoded("PNG", pnginfo=info), encoded("PNG", pnginfo=private), encoded("JPEG", exif=exif), encoded("PNG", exif=exif)]
    with_words += [encoded("PNG") + b"someone", encoded("JPEG") + b"someone", encoded("JPEG", comment="someone")]
    assert [carries_metadata(w) for w in with_words] == [True] * len(with_words)


def test_what_is_not_understood_counts_as_words():
    for content in (b"", b"\xff\xd8", encoded("PNG")[:-5], encoded("JPEG")[:-2], encoded("TIFF"), encoded("BMP")):
        assert carries_metadata(content)
