"""What contests are run on: phantom frames, so that everybody's figures are of the same."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from polypforge.core.types import Case, Request
from polypforge.data.folder import read_data_set, write_data_set
from polypforge.data.source import Source
from polypforge.models.locate import locate
from polypforge.phantom.render import render
from polypforge.proposals.census import measure_lesions
from polypforge.proposals.plan import PlanConfig, Planner
from polypforge.recipes import Job, Recipe, load_recipe

FRAMES = 32


@dataclass
class Setting:
    """scratch: a folder for files, gone afterwards. side_px: of the frames. batch_size: ours. model: of the contests that need one."""

    scratch: Path
    side_px: int
    batch_size: int
    model: str
    device: torch.device

    @cached_property
    def frames(self) -> list[Case]:
        """Each with a lesion."""
        return frames_of(self.side_px)

    @cached_property
    def source(self) -> Source:
        """The frames as files."""
        write_data_set(self.scratch / "frames", self.frames)
        return read_data_set(self.scratch / "frames")

    @cached_property
    def recipe(self) -> Recipe:
        return load_recipe(locate(self.model)).to(self.device)

    def jobs(self, count: int, frames: list[Case] | None = None) -> list[Job]:
        """The first `count` requests that a planner has for the frames."""
        by_name = {c.name: c for c in frames or self.frames}
        planner = Planner(
            sorted(by_name), by_name.__getitem__, [a for c in by_name.values() for a in measure_lesions(c)], 0, PlanConfig(0.5, 0.5, 0.0)
        )
        requests: list[Request] = []
        while len(requests) < count:
            requests += planner.requests(len(requests))
        return [Job(r, by_name[r.background]) for r in requests[:count]]


def frames_of(side_px: int, count: int = FRAMES) -> list[Case]:
    """Phantom frames that show a lesion."""
    found: list[Case] = []
    seed = 70_000
    while len(found) < count:
        case = render(seed, side_px, polyps=1)
        seed += 1
        if case.mask is not None and case.mask.any():
            found.append(case)
    return found
