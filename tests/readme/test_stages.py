"""Every other block of the README runs by itself."""

import pytest

from tests.readme.commands import blocks, run_all, write_inputs
from tests.readme.test_expanding import EXPANDED


@pytest.mark.slow
def test_what_stands_by_itself(tmp_path):
    write_inputs(tmp_path)
    chosen = [text for text in blocks("sh") if EXPANDED not in text]
    assert len(chosen) >= 4
    run_all(chosen, tmp_path)
