"""A planner for an opened data set and what a recipe needs."""

from __future__ import annotations

from polypforge.core.seeding import numpy_rng
from polypforge.proposals.census import Lesion, measure_lesions
from polypforge.proposals.plan import PlanConfig, Planner
from polypforge.proposals.whole import FreePlanner, MaskPlanner
from polypforge.recipes import Recipe
from polypforge.workflows.opened import Opened

REFERENCES = 150  # lesions that are measured to know the data's sizes and colours
WITHOUT_REMOVAL = PlanConfig(replace=2 / 3, add=1 / 3, move=0.0)

AnyPlanner = Planner | MaskPlanner | FreePlanner


def make_planner(opened: Opened, load, seed: int, recipe: Recipe, config: PlanConfig | None = None) -> AnyPlanner:
    """Backgrounds and masks are those of the training cases; sizes and colours come from up to REFERENCES of their own lesions."""
    names = [c.name for c in opened.cases("train")]
    references: list[Lesion] = []
    for pick in numpy_rng(seed, "references").permutation(len(names)):
        references += measure_lesions(load(names[pick]))
        if len(references) >= REFERENCES:
            break
    if "background" in recipe.needs:
        config = config or (PlanConfig() if recipe.removes else WITHOUT_REMOVAL)
        return Planner(names, load, references, seed, config, shapes="mask" in recipe.needs)
    if "mask" in recipe.needs:
        return MaskPlanner(names, load, references, seed)
    return FreePlanner(references, seed)
