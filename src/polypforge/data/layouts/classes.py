"""Masks that tell several classes apart by grey level or colour."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from polypforge.core.errors import UserError
from polypforge.core.images import read_grey, read_image
from polypforge.core.types import Mask
from polypforge.data.layouts.pairs import pair_files, unique_names
from polypforge.data.source import Source, SourceCase


def refuge_classes(path: Path) -> dict[str, Mask]:
    """REFUGE2: 0 is the cup, 128 the rest of the disc, 255 background. The disc includes the cup."""
    grey = read_grey(path)
    return {"disc": grey < 192, "cup": grey < 64}


def neopolyp_classes(path: Path) -> dict[str, Mask]:
    """BKAI-IGH NeoPolyp: red is neoplastic, green non-neoplastic. JPEG noise is settled by the stronger channel."""
    rgb = read_image(path).astype(np.int16)
    red, green = rgb[..., 0], rgb[..., 1]
    lit = rgb.max(-1) >= 128
    return {"neoplastic": lit & (red >= green), "non_neoplastic": lit & (green > red)}


def _read(root: Path, layout: str, classes: Callable[[Path], dict[str, Mask]], class_names: tuple[str, ...]) -> Source:
    pairs, alone = pair_files(root)
    if not pairs:
        raise UserError(f"{root} holds no image with a mask: {layout} needs an image folder and a mask folder.")
    names = unique_names([image for image, _ in pairs], root)
    cases = [SourceCase(names[i], i, partial(classes, m), (m,), class_names) for i, m in pairs]
    return Source(root, layout, cases, alone)


def read_refuge(root: Path) -> Source:
    return _read(root, "refuge2", refuge_classes, ("disc", "cup"))


def read_neopolyp(root: Path) -> Source:
    return _read(root, "neopolyp", neopolyp_classes, ("neoplastic", "non_neoplastic"))
