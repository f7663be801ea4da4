"""Places that are known beforehand: requests of `polypforge propose`, masks that a person drew, boxes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from polypforge.core.errors import UserError
from polypforge.core.files import read_json
from polypforge.core.images import image_files, read_mask
from polypforge.core.seeding import numpy_rng
from polypforge.core.types import Mask, Request
from polypforge.masks.pseudo import inscribed_polygon
from polypforge.masks.shapes import components, loosened
from polypforge.proposals.places import LEAST_AREA_PX, MARGIN, region_polygon
from polypforge.proposals.proposal import Proposal

LEAST_SIDE_PX = 4  # of a box

Sizes = Mapping[str, Callable[[], tuple[int, int]]]  # (height, width) of each training frame, read when it is asked for


def proposals_of(requests: Iterable[Request], path: Path, sizes: Sizes) -> dict[str, list[Proposal]]:
    """The places of requests that were read from `path`, by frame, in their order. Raises UserError."""
    found: dict[str, list[Proposal]] = {}
    for number, request in enumerate(requests, 1):
        height, width = _size(sizes, request.background, path)
        inside = all(0 <= x < width and 0 <= y < height for x, y in (*request.region, *request.lesion))
        if not request.region or not inside:
            raise UserError(f"{path}, request {number}: its region must have corners within the frame of {width}x{height}.")
        found.setdefault(request.background, []).append(Proposal(request.region, 1.0, request.lesion, "given"))
    if not found:
        raise UserError(f"{path} holds no proposal.")
    return found


def read_drawn(folder: Path, sizes: Sizes) -> dict[str, list[Proposal]]:
    """A lesion for each part of each mask in `folder`; a mask has its frame's name and size. Raises UserError."""
    files = image_files(folder) if folder.is_dir() else []
    if not files:
        raise UserError(f"{folder} holds no masks: put there one PNG for each frame, with the frame's name.")
    by_stem = {Path(name).name: name for name in sizes}
    found: dict[str, list[Proposal]] = {}
    for path in files:
        name = by_stem.get(path.stem, path.stem)
        height, width = _size(sizes, name, path)
        mask = read_mask(path)
        if mask.shape != (height, width):
            raise UserError(f"{path} is {mask.shape[1]}x{mask.shape[0]} but its frame {width}x{height}: draw it at the frame's size.")
        parts = components(mask, LEAST_AREA_PX)
        if not parts:
            raise UserError(f"{path} shows no lesion of {LEAST_AREA_PX} px or more: draw one, or remove the file.")
        found[name] = [_around(part, "drawn") for part in parts]
    return found


def read_boxes(path: Path, sizes: Sizes) -> dict[str, list[Proposal]]:
    """A lesion in each box of a JSON object {frame: [[x0, y0, x1, y1], ...]}: a convex outline that touches all sides. Raises UserError."""
    listed = read_json(path)
    if not isinstance(listed, dict) or not listed or not all(isinstance(boxes, list) for boxes in listed.values()):
        raise UserError(f'{path} must hold {{"frame": [[x0, y0, x1, y1], ...]}} with at least one frame.')
    found: dict[str, list[Proposal]] = {}
    for name, boxes in listed.items():
        height, width = _size(sizes, name, path)
        for number, box in enumerate(boxes):
            numbers = isinstance(box, list) and len(box) == 4 and all(type(v) in (int, float) for v in box)
            if not numbers or not (0 <= box[0] < box[2] <= width and 0 <= box[1] < box[3] <= height):
                raise UserError(f"{path}: box {number + 1} of '{name}' must be x0 < x1 and y0 < y1 within {width}x{height}, not {box}.")
            x0, y0, x1, y1 = (round(v) for v in box)
            if min(x1 - x0, y1 - y0) < LEAST_SIDE_PX:
                raise UserError(
                    f"{path}: box {number + 1} of '{name}' ({box}) is less than {LEAST_SIDE_PX} px wide or high: boxes are in pixels, "
                    "not in shares of the frame."
                )
            outline = inscribed_polygon((x0, y0, x1, y1), (height, width), numpy_rng("box outline", name, number))
            found.setdefault(name, []).append(_around(outline, "box"))
    return found


def _size(sizes: Sizes, name: str, path: Path) -> tuple[int, int]:
    if name not in sizes:
        raise UserError(f"{path}: the data has no training frame '{name}'.")
    return sizes[name]()


def _around(lesion: Mask, source: str) -> Proposal:
    return Proposal(region_polygon(loosened(lesion, MARGIN)), 1.0, region_polygon(lesion), source)
