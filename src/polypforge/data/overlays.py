"""What an endoscope's processor draws over the frame: text and dates, the inset box of the scope's position."""

from __future__ import annotations

import cv2
import numpy as np

from polypforge.core.images import brightest_channel, darkest_channel, shrunk_size
from polypforge.core.types import Image, Mask
from polypforge.data.field_of_view import inset_box

WORK_PX = 640  # longer side at which text is looked for


def overlay_text(image: Image) -> Mask:
    """(H, W) bool: boxes around lines of burnt-in text.

    Letters are thin, bright, nearly grey and stand in rows of similar height; wet highlights are as bright but not in rows.
    """
    height, width = image.shape[:2]
    small = cv2.resize(image, shrunk_size(image.shape, WORK_PX)[1], interpolation=cv2.INTER_AREA)
    grey = darkest_channel(small)
    thin = cv2.morphologyEx(grey, cv2.MORPH_TOPHAT, np.ones((9, 9), np.uint8))
    dull = brightest_channel(small) - grey < 100
    strokes = ((thin > 38) & dull).astype(np.uint8)
    count, _, stats, centres = cv2.connectedComponentsWithStats(strokes, connectivity=8)
    letters = [(*stats[i][:4], centres[i][1]) for i in range(1, count) if _like_letters(*stats[i][2:])]
    found = np.zeros(grey.shape, bool)
    for line in _lines(letters):
        x0, y0 = min(c[0] for c in line), min(c[1] for c in line)
        x1, y1 = max(c[0] + c[2] for c in line), max(c[1] + c[3] for c in line)
        found[max(0, y0 - 2) : y1 + 2, max(0, x0 - 2) : x1 + 2] = True
    return cv2.resize(found.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST).astype(bool)


def _like_letters(width: int, height: int, area: int) -> bool:
    """One letter, or a run of letters that touch: as high as a letter and, when wide, full of gaps."""
    if not 4 <= height <= 22 or area < 5:
        return False
    return width <= 26 or (width <= 14 * height and area < 0.7 * width * height)


def _lines(letters: list[tuple]) -> list[list[tuple]]:
    """Runs of at least three letters in two parts or more, side by side, of like height and on one base line."""
    letters = sorted(letters)
    free = set(range(len(letters)))
    lines = []
    for start in range(len(letters)):
        if start not in free:
            continue
        line, last = [start], letters[start]
        for i in range(start + 1, len(letters)):
            x, y, _, h, _ = letters[i]
            gap = x - (last[0] + last[2])
            if gap > 2.2 * last[3]:
                break
            aligned = abs((y + h) - (last[1] + last[3])) <= 2 and abs(h - last[3]) <= max(2, 0.2 * last[3])
            if i in free and gap >= -1 and aligned:
                line.append(i)
                last = letters[i]
        count = sum(max(1.0, letters[i][2] / max(1, letters[i][3])) for i in line)
        if len(line) >= 2 and count >= 3:
            free -= set(line)
            lines.append([letters[i] for i in line])
    return lines


def has_inset_box(image: Image) -> bool:
    """True when a coloured inset, or a black rectangle cut out of a lower corner of the field of view, is there."""
    scale = 256 / max(image.shape[:2])
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return bool(inset_box(small).any()) or _black_corner_box(small)


def _black_corner_box(small: Image) -> bool:
    """A dark corner block whose inner edges are straight, axis-parallel steps (the octagon's corners are slanted)."""
    height, width = small.shape[:2]
    dark = cv2.medianBlur(brightest_channel(small), 5) < 28
    corners = {"lower left": dark[::-1, :], "lower right": dark[::-1, ::-1], "upper left": dark, "upper right": dark[:, ::-1]}
    for view in corners.values():
        depth = np.argmin(np.vstack([view, np.zeros((1, width), bool)]), 0)  # rows of dark from the corner, by column
        inner = depth[3 : width // 2]
        level = float(np.median(inner[: max(6, width // 12)]))
        if not 0.12 * height < level < 0.6 * height:
            continue
        flat = np.abs(inner - level) <= 2
        run = int(np.argmin(flat)) if not flat.all() else len(flat)
        drop = inner[run : run + 4]
        if run > 0.1 * width and len(drop) and drop.min() < 0.55 * level:
            return True
    return False
