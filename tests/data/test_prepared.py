"""Which cases training looks at."""

import numpy as np
import pytest

from polypforge.data.prepared import draw_case, prepare
from polypforge.phantom.render import render


@pytest.fixture(scope="module")
def frames():
    return [prepare(render(k, 96, polyps=p)) for p in (0, 1) for k in range(500, 504)]


@pytest.mark.parametrize(("normal", "lesions", "share", "expected"), [
    (100, 10, 0.25, 0.25), (1, 9, 0.25, 0.1), (100, 10, 0.0, 0.0), (10, 0, 0.25, 1.0), (0, 5, 0.25, 0.0), (30, 10, 1.0, 0.75),
])  # fmt: skip
def test_frames_without_lesion_come_in_their_share_at_most(frames, normal, lesions, share, expected):
    bare, shown = next(f for f in frames if not f.boxes), next(f for f in frames if f.boxes)
    pool, rng = [bare] * normal + [shown] * lesions, np.random.default_rng(0)
    drawn = [draw_case(pool, rng, share) for _ in range(2000)]
    assert np.mean([not d.boxes for d in drawn]) == pytest.approx(expected, abs=0.035)


def test_all_cases_are_drawn(frames):
    rng = np.random.default_rng(0)
    assert {id(draw_case(frames, rng)) for _ in range(300)} == {id(f) for f in frames}
