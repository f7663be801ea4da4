"""Every block of the README that makes or uses the expanded set runs, and so does its Python example."""

import pytest

from tests.readme.commands import blocks, python, run_all, shrink, write_inputs

EXPANDED = "expanded/"


@pytest.mark.slow
def test_what_expands_or_uses_it(tmp_path):
    write_inputs(tmp_path)
    chosen = [text for text in blocks("sh") if EXPANDED in text]
    assert len(chosen) >= 4
    run_all(chosen, tmp_path)
    (example,) = blocks("python")
    python(["-c", shrink(example)], tmp_path)
    assert (tmp_path / "expanded" / "report.html").stat().st_size > 50_000
