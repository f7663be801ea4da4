"""The training data as the audit sees it: lesions or frames by name, with the groups of cases that show one scene."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from polypforge.core.types import Case, Image, Mask
from polypforge.masks.shapes import box_mask, components
from polypforge.quality.audit.copies import CopyIndex, Match, View, frame_view, lesion_view

LEAST_LESION_PX = 60


@dataclass(frozen=True)
class Origin:
    """Where a training picture comes from: case, number of its lesion (0 for a frame), group of cases that belong together."""

    case: str
    number: int
    group: str


class TrainingPictures:
    """An index with the origin of each picture. `groups`: case name -> group; a case is never compared with its own group."""

    def __init__(self, pictures: Iterable[tuple[Origin, View]]) -> None:
        """Raises ValueError for no picture."""
        origins, views = [], []
        for origin, view in pictures:
            origins.append(origin)
            views.append(view)
        self.origins: list[Origin] = origins
        self._index = CopyIndex(views)
        self._members: dict[str, list[int]] = {}
        for number, origin in enumerate(origins):
            self._members.setdefault(origin.group, []).append(number)

    def __len__(self) -> int:
        return len(self.origins)

    def view(self, number: int) -> View:
        return self._index.views[number]

    def nearest(self, view: View, group: str = "") -> Match:
        """The most similar training picture that is not of `group`."""
        return self._index.nearest(view, self._members.get(group, ()))


def lesions_of(case: Case) -> Sequence[Mask]:
    """Lesions large enough to be recognised; of a case with boxes alone, the boxes."""
    if case.mask is None:
        return [box_mask(box, case.size) for box in case.boxes]
    return components(case.mask, LEAST_LESION_PX)


def lesion_pictures(case: Case, group: str) -> list[tuple[Origin, View]]:
    """Every lesion of a training case."""
    return [(Origin(case.name, number, group), lesion_view(case.image, mask)) for number, mask in enumerate(lesions_of(case))]


def frame_pictures(case: Case, group: str) -> list[tuple[Origin, View]]:
    """The whole frame."""
    return [(Origin(case.name, 0, group), frame_view(case.image))]


def match_lesion(training: TrainingPictures, image: Image, lesion: Mask, group: str = "") -> Match:
    return training.nearest(lesion_view(image, lesion), group)
