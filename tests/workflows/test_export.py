import io

import numpy as np
from PIL import Image as PIL
from PIL import PngImagePlugin

from polypforge.workflows.export_cases import carries_metadata, plain_name


def test_names_that_hugging_face_takes_for_splits_are_changed():
    assert [plain_name(n) for n in ("test_1", "a-train", "val", "case.dev.3")] == ["testx_1", "a-trainx", "valx", "case.devx.3"]
    assert [plain_name(n) for n in ("latest_1", "training2", "cju0roawv")] == ["latest_1", "training2", "cju0roawv"]


def encoded(form, **options):
    buffer = io.BytesIO()
    PIL.fromarray(np.zeros((64, 64, 3), np.uint8)).save(buffer, form, **options)
    return buffer.getvalue()


def test_files_that_carry_words_are_noticed():
    info = PngImagePlugin.PngInfo()
    info.add(b"tEXt", b"Patient\0someone", after_idat=True)
    exif = PIL.Exif()
    exif[0x010E] = "someone"
    assert carries_metadata(encoded("PNG", pnginfo=info)) and carries_metadata(encoded("JPEG", exif=exif))
    assert not carries_metadata(encoded("PNG")) and not carries_metadata(encoded("JPEG"))
