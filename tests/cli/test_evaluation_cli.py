"""Misuse of `downstream` on the command line is one sentence and exit code 2."""

import pytest

from tests.command_line import polypforge


@pytest.mark.parametrize(("words", "said"), [
    (["downstream", "--train", "D", "--out", "O"], "give a plan"), (["downstream", "compare", "--train", "D", "--out", "O"], "needs --synthetic"),
    (["downstream", "fair", "--synthetic", "S", "--train", "D", "--out", "O"], "no supply `given`"),
    (["downstream", "nonsense", "--train", "D", "--out", "O"], "is no plan"), (["evaluate", "D", "S", "--out", "O"], "D"),
])  # fmt: skip
def test_misuse_is_said(words, said, capsys, tmp_path):
    assert polypforge(*words, cwd=tmp_path) == 2 and said in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "O").exists()
