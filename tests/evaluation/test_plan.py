"""Plans: shipped ones are whole, bad ones are refused by key, cells are counted."""

import pytest

from polypforge.core.config import from_dict, read_yaml
from polypforge.core.errors import UserError
from polypforge.evaluation.plan import CHOOSING, plan_from, read_plan, shipped_plan, shipped_plans, supplies_of
from polypforge.evaluation.tasks import task_of
from polypforge.quality.gates.settings import read_gates
from polypforge.recipes import recipe_class
from polypforge.workflows.downstream.cell import settings
from polypforge.workflows.trainables import shipped_config

SMALL = {
    "title": "t", "baseline": "real", "arms": {"real": {}, "more": {"synthetic": "made", "amounts": [0.25, 0.5], "choose": True}},
    "supplies": {"made": {"recipe": "copy_paste"}}, "networks": {"a": {}}, "training": {"max_steps": 5}, "sizes": [4, 8], "draws": 2, "seeds": 3,
}  # fmt: skip


@pytest.mark.parametrize("name", shipped_plans())
def test_shipped_plans_name_only_what_exists(name):
    plan = read_plan(name, ("supplies.given.folder=somewhere",) if name == "compare" else ())
    task = task_of(plan.task)
    assert plan.title and plan.question and plan.first_cells()
    for arm in plan.arms:
        for network in plan.networks:
            from_dict(task.Network.config_class, plan.network_of(network, arm))
        assert settings(plan.training_of(arm), 100, 0).max_steps
    for supply in plan.supplies.values():
        assert supply.folder == "" or name == "compare"
        recipe_class(supply.recipe)
        read_gates(supply.gates)


def test_every_arm_gets_the_same_steps_and_seeds():
    plan = plan_from(SMALL, "here")
    cells = plan.first_cells()
    assert len(cells) == 2 * (2 * 3 + 2) and plan.count_later() == 2 * 2 * 3
    later = plan.later_cells({("a", 4, "more"): 0.5, ("a", 8, "more"): 0.25})
    assert [(c.size, c.draw, c.seed, c.amount) for c in later] == [
        (n, d, s, a) for n, a in ((4, 0.5), (8, 0.25)) for d in (0, 1) for s in (0, 1, 2)
    ]
    assert len({plan.cell_id(c) for c in cells + later}) == len(cells) + 12
    choosing = {(c.draw, c.seed) for c in cells if c.arm == "more"}
    assert choosing == {(0, CHOOSING)} and not choosing & {(c.draw, c.seed) for c in later}  # luck in choosing doesn't count


def test_a_cell_is_known_by_all_that_describes_it():
    plan = plan_from(SMALL, "here")
    cell = next(c for c in plan.first_cells() if c.arm == "more")
    grown = plan_from(SMALL | {"sizes": [4, 8, 16], "seeds": 5}, "here")
    assert grown.cell_id(cell) == plan.cell_id(cell)
    longer = plan_from(SMALL | {"training": {"max_steps": 6}}, "here")
    other = plan_from(SMALL | {"supplies": {"made": {"recipe": "copy_paste", "per_real": 3.0}}}, "here")
    assert len({p.cell_id(cell) for p in (plan, longer, other)}) == 3


def test_an_arm_may_set_out_from_weights_of_its_own_with_steps_of_its_own():
    own = {"real": {}, "more": SMALL["arms"]["more"] | {"network": {"weights": "start"}, "training": {"max_steps": 2}}}
    plan, changed = plan_from(SMALL, "here"), plan_from(SMALL | {"arms": own, "training": {"max_steps": 5, "batch_size": 4}}, "here")
    assert changed.network_of("a", "more") == {"weights": "start"} and changed.network_of("a", "real") == {}
    assert changed.training_of("more") == {"max_steps": 2, "batch_size": 4} and changed.training_of("real")["max_steps"] == 5
    changed = plan_from(SMALL | {"arms": own}, "here")
    for cell in plan.first_cells():
        assert (plan.cell_id(cell) == changed.cell_id(cell)) == (cell.arm == "real")


def test_the_phantom_start_counts_its_own_steps():
    plan = read_plan("phantom_start")
    start = read_yaml(shipped_config("lesion_segmenter"))["training"]["max_steps"]
    assert plan.training_of("phantoms")["max_steps"] + start == plan.training_of("strong")["max_steps"]


@pytest.mark.parametrize(("change", "said"), [
    ({"baseline": "nothing"}, "is no arm"), ({"arms": {"real": {"synthetic": "none"}}}, "supplies doesn't describe"), ({"sizes": []}, "at least 1"),
    ({"arms": {"real": {"augment": "wild"}}}, "augment is one of"), ({"arms": {"real": {"real": 0.0}}}, "learns from"), ({"surprise": 1}, "unknown key 'surprise'"),
    ({"arms": {"real": {"choose": True}}}, "no amount to choose"), ({"supplies": {"../made": {}, "made": {}}}, "becomes a folder"),
    ({"arms": {"real": {}, "more": {"synthetic": "made", "amounts": [2]}}}, "between 0 and 1"), ({"supplies": {"made": {"recipe": "folder"}}}, "need their folder"),
    ({"arms": {"real": {}, "more": {"synthetic": "made", "sizes": [5]}}}, "for sizes"), ({"baseline": "more", "arms": {"more": {"synthetic": "made", "amounts": [0.1, 0.2]}}}, "baseline has one"),
    ({"task": "sorting"}, "segmentation or detection"), ({"networks": [1]}, "networks must be a mapping"), ({"draws": 0}, "at least 1"),
    ({"networks": {"a": 5}}, "a must be a mapping"), ({"seeds": 2.5}, "seeds must be of type int"), ({"question": 5}, "question must be of type str"),
    ({"published": [5]}, "published must be a mapping"), ({"sizes": 16}, "sizes must be a list"), ({"sizes": [16, 16]}, "no size comes twice"),
    ({"arms": {"real": {}, "more": {"synthetic": "made", "amounts": [0.5, 0.5]}}}, "no amount comes twice"), ({"supplies": {"made": {"per_real": float("inf")}}}, "positive"),
    ({"arms": {"real": {}, "more": {"synthetic": "made", "mode": "pool", "amounts": [float("nan")]}}}, "not negative"),
    ({"sizes": [8], "arms": {"real": {}, "few": {"real": 0.01}}}, "less than one"), ({"supplies": {"made": {"steps": 0}}}, "steps are positive"),
])  # fmt: skip
def test_bad_plans_are_refused(change, said):
    with pytest.raises(UserError, match=said):
        plan_from(SMALL | change, "here")


@pytest.mark.parametrize(("arm", "said"), [
    ({"mode": "pool", "amounts": [1, 5]}, "takes 40 synthetic cases beside 8 labelled ones, but supply 'made' makes 16"),
    ({"mode": "pool", "amounts": [1000]}, "takes 1000"), ({"mode": "replace", "amounts": [3]}, "takes 24"), ({"real": 0.01}, "less than one"),
])  # fmt: skip
def test_more_than_is_made_is_not_silently_less(arm, said):
    with pytest.raises(UserError, match=said):
        plan_from(SMALL | {"sizes": [8], "arms": {"real": {}, "more": {"synthetic": "made", **arm}}}, "here")
    plan_from(SMALL | {"sizes": [8], "arms": {"real": {}, "more": {"synthetic": "made", "mode": "pool", "amounts": [2]}}}, "here")


def test_an_arm_may_count_in_epochs_where_the_plan_counts_steps():
    plan = plan_from(SMALL | {"training": {"max_steps": 1000}, "arms": {"real": {}, "long": {"training": {"epochs": 5}}}}, "here")
    assert settings(plan.training_of("long"), 16, 0).max_steps < 100 and settings(plan.training_of("real"), 16, 0).max_steps == 1000


def test_supplies_are_known_before_their_folder_is(tmp_path):
    (tmp_path / "mine.yaml").write_text(shipped_plan("compare").read_text())
    assert supplies_of(tmp_path / "mine.yaml") == {"given"} and "given" not in supplies_of("fair")


def test_an_unknown_plan_names_those_there_are(tmp_path):
    with pytest.raises(UserError, match="fair"):
        read_plan(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="'title' is missing"):
        plan_from({"arms": {}}, "here")


def test_epochs_stand_for_steps_and_give_way_to_them():
    assert settings({"epochs": 3, "batch_size": 8}, 100, 1).max_steps == 38 and settings({"max_steps": 7}, 100, 1).max_steps == 7
    assert settings({"max_steps": 7, "epochs": 50}, 100, 1).max_steps == 7
    with pytest.raises(UserError, match="epochs must be"):
        settings({"epochs": "many"}, 100, 1)


def test_encoders_can_start_from_nothing_as_the_docs_say():
    assert read_plan("cond_polyp_diff", ("networks.UNet++.weights=",)).networks["UNet++"]["weights"] == ""
