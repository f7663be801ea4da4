"""A run's folder takes up the same command alone."""

import os
import subprocess
import sys

import pytest

from polypforge.core.errors import UserError
from polypforge.workflows.run_folder import _HELD, FILES, LOCK, claim, resumes


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


def test_two_processes_do_not_work_in_one_folder(tmp_path):
    run = tmp_path / "run"
    claim(run, "generate", {"seed": 0})
    claim(run, "generate", {"seed": 0})  # this process may
    ask = "import sys; from pathlib import Path; from polypforge.workflows.run_folder import claim; claim(Path(sys.argv[1]), 'generate', {'seed': 0})"
    other = subprocess.run([sys.executable, "-c", ask, run], capture_output=True, text=True, check=False)
    assert "another process is at work in" in other.stderr
    _HELD.pop(run.resolve() / LOCK).release()
    assert subprocess.run([sys.executable, "-c", ask, run], check=False).returncode == 0


def test_a_name_that_cannot_be_told_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not UTF-8"):
        claim(tmp_path / os.fsdecode(b"out\xff"), "expand", {})
