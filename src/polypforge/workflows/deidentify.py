"""Burnt-in text and inset boxes, found and taken out: on import when asked, and always before a generator learns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from polypforge.core.errors import UserError
from polypforge.core.images import read_mask, write_png
from polypforge.core.types import Case, Image, Mask
from polypforge.data.field_of_view import inset_area
from polypforge.data.overlays import overlay_text
from polypforge.features.frames import frame_key
from polypforge.models.locate import locate, weights_hash
from polypforge.models.overlay_finder import OverlayFinder
from polypforge.workflows.each import shown

FINDER = "starter:overlay_finder"
MODES = ("inpaint", "mask")
INPAINT_RADIUS_PX = 4


class Deidentifier:
    """Takes text out of frames. finder: the network that finds it (run, folder, hub id, starter:NAME). cache: folder that keeps what was
    found, by the frame's pixels and the finder's weights."""

    def __init__(self, finder: str = FINDER, cache: Path | None = None, offline: bool = False) -> None:
        folder = locate(finder, offline)
        self.finder = OverlayFinder.load_pretrained(folder).eval()
        self.cache = cache / weights_hash(folder) if cache else None

    def text(self, image: Image) -> Mask:
        """(H, W) bool: letters that the network finds, and lines of them that plain image processing does."""
        path = self.cache / f"{frame_key(image)}.png" if self.cache else None
        if path and path.is_file():
            return read_mask(path)
        found = self.finder.find(image) | overlay_text(image)
        if path:
            write_png(path, found)
        return found

    def clean(self, case: Case, mode: str = "inpaint") -> Case:
        """The case without text, and without what the inset box shows; `hidden` says which pixels were replaced.

        mode: "inpaint" continues the surroundings over the letters (Telea 2004), "mask" blackens them. An inset box is blackened in
        either: what lies behind it is not known. Raises UserError for another mode.
        """
        if mode not in MODES:
            raise UserError(f"text can be removed by {' or '.join(MODES)}, not by '{mode}'.")
        text, inset = self.text(case.image), inset_area(case.image)
        if not (text.any() or inset.any()):
            return case
        image = case.image.copy()
        if mode == "inpaint" and text.any():
            image = cv2.inpaint(image, text.astype(np.uint8) * 255, INPAINT_RADIUS_PX, cv2.INPAINT_TELEA)
        else:
            image[text] = 0
        image[inset] = 0
        return replace(case, image=image, hidden=text | inset)


def without_text(cases: Sequence[Case], cache: Path | None = None) -> list[Case]:
    """Every case without its text, for a generator to learn from: what is never shown can't be learned."""
    cleaner = Deidentifier(cache=cache)
    return [cleaner.clean(case) for case in shown("looking for burnt-in text", cases, len(cases))]
