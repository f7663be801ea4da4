"""A planner for an opened data set."""

from __future__ import annotations

from polypforge.core.seeding import numpy_rng
from polypforge.core.types import Attributes
from polypforge.proposals.plan import PlanConfig, Planner, measure_lesions
from polypforge.workflows.opened import Opened

REFERENCES = 150  # lesions that are measured to know the data's sizes and colours


def make_planner(opened: Opened, load, seed: int, config: PlanConfig | None = None) -> Planner:
    """Backgrounds are the training frames; sizes and colours come from up to REFERENCES of their own lesions."""
    names = [c.name for c in opened.cases("train")]
    references: list[Attributes] = []
    for pick in numpy_rng(seed, "references").permutation(len(names)):
        references += measure_lesions(load(names[pick]))
        if len(references) >= REFERENCES:
            break
    return Planner(names, load, references, seed, config or PlanConfig())
