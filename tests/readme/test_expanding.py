"""Every block of the README that makes or uses the expanded set runs, and so does its Python example."""

import subprocess
import sys

import pytest

from tests.readme.commands import blocks, run_all, shrink, write_inputs

EXPANDED = "expanded/"


@pytest.mark.slow
def test_what_expands_or_uses_it(tmp_path):
    write_inputs(tmp_path)
    chosen = [text for text in blocks("sh") if EXPANDED in text]
    assert len(chosen) >= 4
    run_all(chosen, tmp_path)
    (example,) = blocks("python")
    done = subprocess.run([sys.executable, "-c", shrink(example)], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-1500:]
    assert (tmp_path / "expanded" / "report.html").stat().st_size > 50_000
