"""Judging drawn cases: all windows of a judge in one batch, against one case at a time."""

from __future__ import annotations

from polypforge.core.types import Case, Request
from polypforge.models.locate import locate
from polypforge.quality.gates import Subject
from polypforge.quality.gates.gatekeeper import label_gates
from polypforge.quality.judges import load_judge
from polypforge.workflows.bench.contest import Contest, Side
from polypforge.workflows.bench.setting import Setting

CASES = 16


def gating(setting: Setting) -> Contest:
    jobs = setting.jobs(CASES)
    cases = setting.recipe.generate(jobs)
    judge = load_judge(locate("starter:window_segmenter")).to(setting.device)
    keeper = label_gates(judge)

    def judged(drawn: list[tuple[Case, Request]]) -> None:
        keeper.verdicts([Subject.synthetic(c, r) for c, r in drawn])  # new ones each time: they remember what was looked up

    def one_by_one() -> None:
        for pair in pairs:
            judged([pair])

    pairs = [(c, j.request) for c, j in zip(cases, jobs, strict=True)]
    return Contest(
        "gating",
        f"a case of {setting.side_px} px through the gates on drawing and label",
        [
            Side(f"batches of {CASES}", lambda: judged(pairs), CASES),
            Side("one at a time", one_by_one, CASES),
        ],
        "the same judge, the same precision",
    )
