"""A run's folder takes up the same command alone."""

import os

import pytest

from polypforge.core.errors import UserError
from polypforge.workflows.run_folder import FILES, claim, resumes


@pytest.mark.parametrize("text", ["[]", "null", '{"command": "expand"}'])
def test_a_damaged_record_of_a_run_is_said(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(UserError, match=r"must hold a JSON object|num = None"):
        resumes(tmp_path, "expand", {"num": 3})


def test_the_same_settings_resume_and_any_other_are_refused(tmp_path):
    run = tmp_path / "run"
    claim(run, "generate", {"seed": 0, "boxes": (1, 2), "steps": 4, FILES: "aa"})
    assert resumes(run, "generate", {"seed": 0, "boxes": [1, 2], "steps": 4, FILES: "aa"})
    for other, words in (
        ({"seed": 1, "boxes": [1, 2], "steps": 4, FILES: "aa"}, "seed = 0, not 1"),
        ({"seed": 0, "boxes": [1, 2], FILES: "aa"}, "steps = 4, not None"),  # an option left out
        ({"seed": 0, "boxes": [1, 2], "steps": 4, FILES: "aa", "shard": "1/2"}, "shard = None, not '1/2'"),
        ({"seed": 0, "boxes": [1, 2], "steps": 4, FILES: "bb"}, "on other data"),
        ({"seed": 1, "boxes": [1, 2], "steps": 4, FILES: "bb"}, "seed = 0"),  # said first: it is easier to mend
    ):
        with pytest.raises(UserError, match=words):
            resumes(run, "generate", other)
    with pytest.raises(UserError, match="polypforge generate"):
        resumes(run, "expand", {})
    assert not resumes(tmp_path / "free", "generate", {})


def test_a_name_that_cannot_be_told_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not UTF-8"):
        claim(tmp_path / os.fsdecode(b"out\xff"), "expand", {})
