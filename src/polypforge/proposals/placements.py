"""Places that are known beforehand: proposals of `polypforge propose`, masks that a person drew, boxes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from polypforge.core.errors import UserError
from polypforge.core.files import read_json, read_jsonl
from polypforge.core.images import image_files, read_mask
from polypforge.core.types import Mask
from polypforge.masks.pseudo import inscribed_polygon
from polypforge.masks.shapes import components
from polypforge.proposals.places import loosened, region_polygon
from polypforge.proposals.proposal import Proposal

MARGIN = 0.12
LEAST_AREA_PX = 30


def read_proposals(path: Path) -> dict[str, list[Proposal]]:
    """Proposals by frame, best first, from the JSONL of `polypforge propose`. Raises UserError naming the line."""
    found: dict[str, list[Proposal]] = {}
    for number, row in enumerate(read_jsonl(path), 1):
        try:
            region, lesion = (tuple((int(x), int(y)) for x, y in row.get(k, ())) for k in ("region", "lesion"))
            proposal = Proposal(
                region, float(row.get("score", 0)), lesion, str(row.get("source", "")), None, str(row.get("reference", "")),
                {str(k): float(v) for k, v in row.get("attributes", {}).items()},
            )  # fmt: skip
            found.setdefault(str(row["background"]), []).append(proposal)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}, line {number} is no proposal ({error}): write it with `polypforge propose`.") from error
    if not found:
        raise UserError(f"{path} holds no proposal.")
    return found


def read_drawn(folder: Path, sizes: Mapping[str, tuple[int, int]]) -> dict[str, list[Proposal]]:
    """A lesion for each part of each mask in `folder`; a mask has its frame's name and size. sizes: (height, width) by frame."""
    files = image_files(folder) if folder.is_dir() else []
    if not files:
        raise UserError(f"{folder} holds no masks: put there one PNG for each frame, with the frame's name.")
    found: dict[str, list[Proposal]] = {}
    for path in files:
        name = next((n for n in sizes if Path(n).name == path.stem), None)
        if name is None:
            raise UserError(f"{path}: the data has no training frame '{path.stem}' that this mask could be for.")
        mask = read_mask(path)
        if mask.shape != sizes[name]:
            here, there = f"{mask.shape[1]}x{mask.shape[0]}", f"{sizes[name][1]}x{sizes[name][0]}"
            raise UserError(f"{path} is {here} but its frame {there}: draw it at the frame's size.")
        if not mask.any():
            raise UserError(f"{path} is empty: draw a lesion, or remove the file.")
        found[name] = [_around(part, "drawn") for part in components(mask, LEAST_AREA_PX)]
    return found


def read_boxes(path: Path, sizes: Mapping[str, tuple[int, int]]) -> dict[str, list[Proposal]]:
    """A lesion in each box of a JSON object {frame: [[x0, y0, x1, y1], ...]}: a convex outline that touches all sides."""
    listed = read_json(path)
    if not isinstance(listed, dict) or not listed:
        raise UserError(f'{path} must hold {{"frame": [[x0, y0, x1, y1], ...]}} with at least one frame.')
    found: dict[str, list[Proposal]] = {}
    for name, boxes in listed.items():
        if name not in sizes:
            raise UserError(f"{path}: the data has no training frame '{name}'.")
        height, width = sizes[name]
        for number, box in enumerate(boxes):
            if len(box) != 4 or not (0 <= box[0] < box[2] <= width and 0 <= box[1] < box[3] <= height):
                raise UserError(f"{path}: box {number + 1} of '{name}' must be x0 < x1 and y0 < y1 within {width}x{height}, not {box}.")
            rng = np.random.default_rng(number)
            outline = inscribed_polygon((int(box[0]), int(box[1]), int(box[2]), int(box[3])), (height, width), rng)
            found.setdefault(name, []).append(_around(outline, "box"))
    return found


def _around(lesion: Mask, source: str) -> Proposal:
    return Proposal(region_polygon(loosened(lesion, MARGIN)), 1.0, region_polygon(lesion), source)
