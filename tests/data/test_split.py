from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polypforge.core.errors import UserError
from polypforge.data.source import SourceCase
from polypforge.data.split import crossing, split_cases

SHARES = {"train": 0.7, "val": 0.15, "test": 0.15}


def cases(count, group=lambda i: "", split=lambda i: ""):
    return [SourceCase(f"c{i}", Path(f"c{i}.png"), group=group(i), split=split(i)) for i in range(count)]


links_of = st.lists(st.tuples(st.integers(0, 39), st.integers(0, 39)), max_size=30).map(
    lambda p: [(f"c{a}", f"c{b}") for a, b in p if a != b]
)


@settings(max_examples=50, deadline=None)
@given(links_of)
def test_nothing_that_belongs_together_is_parted(links):
    split = split_cases(cases(40, group=lambda i: f"g{i // 3}"), links, SHARES)
    assert crossing(split, cases(40, group=lambda i: f"g{i // 3}"), links) == 0 and not split.left_out
    assert len(split.of) == 40
    for i in range(0, 39, 3):
        assert len({split.of[f"c{j}"] for j in range(i, min(i + 3, 40))}) == 1


@settings(max_examples=30, deadline=None)
@given(links_of, st.integers(1, 39))
def test_splits_stay_when_files_are_added(links, count):
    before = split_cases(cases(count), [p for p in links if all(int(n[1:]) < count for n in p)], SHARES)
    grown = split_cases(cases(40, split=lambda i: before.of.get(f"c{i}", "")), links, SHARES) if _consistent(before, links) else None
    if grown is not None:
        assert all(grown.of[name] == kind for name, kind in before.of.items())
        assert crossing(grown, cases(40), links) == 0


def _consistent(split, links):
    return all(split.of[a] == split.of[b] for a, b in links if a in split.of and b in split.of)


def test_shares_hold_on_average():
    counts = split_cases(cases(2000), [], SHARES).counts()
    assert abs(counts["train"] / 2000 - 0.7) < 0.04 and abs(counts["test"] / 2000 - 0.15) < 0.03


def test_a_new_case_that_ties_two_splits_is_left_out():
    old = cases(2, split=lambda i: ("train", "test")[i])
    new = [SourceCase("bridge", Path("b.png"))]
    split = split_cases(old + new, [("c0", "bridge"), ("bridge", "c1")], SHARES)
    assert split.left_out == ("bridge",) and "bridge" not in split.of


def test_old_cases_that_contradict_each_other_are_an_error():
    with pytest.raises(UserError, match="different splits"):
        split_cases(cases(2, split=lambda i: ("train", "test")[i]), [("c0", "c1")], SHARES)


def test_bad_shares():
    with pytest.raises(UserError, match="sum to 1"):
        split_cases(cases(3), [], {"train": 0.5, "test": 0.6})


def test_a_group_follows_its_linked_member():
    """T is a test case; new Y is linked to it; X1 and X2 are of Y's patient: all of them go to test."""
    everyone = [SourceCase("T", Path("T"), split="test"), *(SourceCase(n, Path(n), group="p") for n in ("Y", "X1", "X2"))]
    split = split_cases(everyone, [("T", "Y")], SHARES)
    assert set(split.of.values()) == {"test"} and crossing(split, everyone, [("T", "Y")]) == 0


def test_crossing_sees_groups_too():
    from polypforge.data.split import Split

    pair = cases(2, group=lambda i: "same")
    assert crossing(Split({"c0": "train", "c1": "test"}, ()), pair, []) == 1
