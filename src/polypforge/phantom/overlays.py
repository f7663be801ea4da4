"""What an endoscope's processor writes over a frame, rendered: names, dates, counters, in many fonts, sizes, colours and places."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image as PIL
from PIL import ImageDraw, ImageFont
from PIL.ImageFont import FreeTypeFont

from polypforge.core.types import Image, Mask

COLOURS = (
    (255, 255, 255),
    (235, 235, 235),
    (200, 200, 200),
    (255, 255, 120),
    (190, 255, 190),
    (160, 220, 255),
    (255, 190, 90),
    (90, 255, 90),
)
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
FONT_FOLDERS = ("/usr/share/fonts", "/usr/local/share/fonts", "/Library/Fonts", "C:/Windows/Fonts")
UNREADABLE = ("LastResort", "STIXSiz", "STIXNonUni", "cmex", "cmsy", "cmmi", "Symbol", "Emoji", "wingding", "webdings")


@lru_cache(maxsize=1)
def system_fonts() -> tuple[str, ...]:
    """Paths of TrueType fonts on this machine, sorted; () where there are none."""
    folders = [Path(f) for f in FONT_FOLDERS]
    found = {p.name: str(p) for folder in folders if folder.is_dir() for p in sorted(folder.rglob("*.ttf"))}
    return tuple(path for name, path in sorted(found.items()) if not any(word.lower() in name.lower() for word in UNREADABLE))


def draw_overlay(image: Image, rng: np.random.Generator, fonts: Sequence[str] | None = None) -> tuple[Image, Mask]:
    """A copy of the frame with one to three blocks of text, and the pixels of their letters (outlines included).

    fonts: TrueType files to choose from beside the two that are always there (Pillow's and OpenCV's); by default the machine's.
    """
    known = system_fonts() if fonts is None else tuple(fonts)
    picture, letters = image.copy(), np.zeros(image.shape[:2], np.uint8)
    for _ in range(rng.integers(1, 4)):
        height = image.shape[0]
        size = max(9, round(float(np.exp(rng.uniform(np.log(0.018), np.log(0.055)))) * height))
        write = _writer(int(rng.integers(len(known) + 3)) if known else int(rng.integers(3)), known, size, rng)
        x, y = int(rng.uniform(0, 0.75) * image.shape[1]), int(rng.uniform(0.01, 0.9) * height)
        colour = COLOURS[rng.integers(len(COLOURS))]
        edge = (0, 0, 0) if rng.random() < 0.35 else None
        for line in range(rng.integers(1, 5)):
            picture, letters = write(picture, letters, _text(rng), (x, y + round(line * 1.3 * size)), colour, edge)
    return picture, letters > 48


Writer = Callable[[Image, Mask, str, tuple[int, int], tuple[int, int, int], tuple[int, int, int] | None], tuple[Image, Mask]]


def _writer(number: int, fonts: Sequence[str], size: int, rng: np.random.Generator) -> Writer:
    if number == len(fonts) or (number > len(fonts) and rng.random() < 0.5):
        face = int(rng.choice([cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_PLAIN, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX]))
        return lambda *given: _write_opencv(face, size, *given)
    font = ImageFont.truetype(fonts[number], size) if number < len(fonts) else ImageFont.load_default(size)
    assert isinstance(font, FreeTypeFont)
    return lambda *given: _write_pillow(font, *given)


def _write_pillow(font: FreeTypeFont, picture, letters, text, place, colour, edge) -> tuple[Image, Mask]:
    canvas, marks = PIL.fromarray(picture), PIL.fromarray(letters)
    stroke = 1 if edge else 0
    ImageDraw.Draw(canvas).text(place, text, fill=colour, font=font, stroke_width=stroke, stroke_fill=edge)
    ImageDraw.Draw(marks).text(place, text, fill=255, font=font, stroke_width=stroke, stroke_fill=255)
    return np.asarray(canvas).copy(), np.asarray(marks).copy()


def _write_opencv(face: int, size: int, picture, letters, text, place, colour, edge) -> tuple[Image, Mask]:
    (_, height), _ = cv2.getTextSize("A0", face, 1.0, 1)
    scale, thick = size * 0.72 / max(1, height), max(1, round(size / 14))
    at = (place[0], place[1] + size)
    if edge:
        cv2.putText(picture, text, at, face, scale, edge, thick + 2, cv2.LINE_AA)
    cv2.putText(picture, text, at, face, scale, colour, thick, cv2.LINE_AA)
    cv2.putText(letters, text, at, face, scale, 255, thick + (2 if edge else 0), cv2.LINE_AA)
    return picture, letters


def _text(rng: np.random.Generator) -> str:
    day, month, year = rng.integers(1, 29), rng.integers(1, 13), rng.integers(2001, 2030)
    clock = f"{rng.integers(24):02d}:{rng.integers(60):02d}:{rng.integers(60):02d}"
    word = "".join(rng.choice(list(LETTERS), rng.integers(3, 9)))
    number = str(rng.integers(10, 10**9))
    name = word.capitalize()
    kinds = (
        f"{day:02d}/{month:02d}/{year}",
        f"{year}-{month:02d}-{day:02d}",
        clock,
        f"{day:02d}.{month:02d}.{year} {clock}",
        f"Name: {word}",
        f"ID:{number}",
        word,
        name,
        number,
        f"{name}, {LETTERS[rng.integers(26)]}.",
        f"Sex: {'MF'[rng.integers(2)]} Age: {rng.integers(18, 99)}",
        "Ce:A3 Cm:1",
        f"D.O.B. {day:02d}/{month:02d}/{year}",
        f"{rng.integers(1000)}/{rng.integers(1000)}",
        f"Dr. {name}",
        "SCV---1",
        "Eh:A1 NR:--",
    )
    return str(kinds[rng.integers(len(kinds))])
