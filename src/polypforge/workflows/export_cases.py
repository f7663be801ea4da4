"""Real cases into a data-set folder: image files byte for byte where they carry nothing but pixels, masks as PNG."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image as PIL
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from polypforge.core.console import console
from polypforge.core.images import png_bytes
from polypforge.core.types import Case
from polypforge.data.folder import write_case
from polypforge.data.source import Source

KEPT_SUFFIXES = (".jpg", ".jpeg", ".png")  # formats that browsers and `datasets` read; others become PNG


def copy_real(source: Source, out: Path, clean: Callable[[Case], Case] | None = None) -> list[dict[str, Any]]:
    """Write every case of `source` below `out` and return the metadata rows. clean: takes text out of a case first."""
    rows = []
    columns = (TextColumn("copying real cases"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("copy", total=len(source))
        for entry in source.cases:
            case = entry.load()
            before = case.image
            case = clean(case) if clean else case
            case.name = plain_name(case.name)
            suffix = entry.image_path.suffix.lower()
            content = entry.image_path.read_bytes() if suffix in KEPT_SUFFIXES else b""
            if not content or case.image is not before or carries_metadata(content):
                content, suffix = png_bytes(case.image), ".png"
            rows.append(write_case(out, case, content, suffix))
            bar.advance(task)
    return rows


_SPLIT_WORD = re.compile(
    r"(?:^|(?<=[-._ ]))(train|training|validation|valid|val|dev|testing|test|eval|evaluation)(?=$|[-._ ])", re.IGNORECASE
)


def plain_name(name: str) -> str:
    """A name from which Hugging Face `datasets` reads no split: `test_1` would put a case into "test", and drop its labels."""
    return _SPLIT_WORD.sub(r"\1x", name)


def carries_metadata(content: bytes) -> bool:
    """True when the file holds EXIF, comments or text, which may name a patient."""
    with PIL.open(io.BytesIO(content)) as picture:
        picture.load()  # text may also stand after the pixels
        keys = set(picture.info) - {
            "jfif",
            "jfif_version",
            "jfif_unit",
            "jfif_density",
            "dpi",
            "gamma",
            "srgb",
            "progressive",
            "progression",
            "interlace",
            "chromaticity",
            "aspect",
        }
        keys -= {"icc_profile", "adobe", "adobe_transform"}
        return bool(keys) or bool(picture.getexif())
