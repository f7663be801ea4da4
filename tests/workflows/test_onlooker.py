"""Cases that are looked at while others are drawn."""

import threading

import pytest

from polypforge.generation.writer import CaseStore, read_requests
from polypforge.models.memory import NoRoom
from polypforge.quality.gates.score_log import ScoreLog
from polypforge.quality.gates.settings import read_gates
from polypforge.workflows import onlooker
from polypforge.workflows.gating import Gating, Look
from polypforge.workflows.generate import generate_cases
from polypforge.workflows.onlooker import Onlooker


def numbers(verdict):
    return {name: -1.0 if score is None else score for name, score in verdict.scores.items()}


@pytest.fixture
def shown(tiny_forge, tiny_segmenter, phantom_folder, tmp_path):
    tiny_forge.save_pretrained(tmp_path / "forge")
    tiny_segmenter.save_pretrained(tmp_path / "judge")
    generate_cases(phantom_folder, tmp_path / "made", model=str(tmp_path / "forge"), num=7)
    store, requests = CaseStore(tmp_path / "made"), read_requests(tmp_path / "made" / "requests.jsonl")
    gating = Gating(read_gates("starter", judges=(str(tmp_path / "judge"),)), "cpu")
    return gating, store, requests, [store.load(r.id) for r in requests]


def test_the_log_ends_with_the_scores_that_judging_afterwards_gives(shown, tmp_path, monkeypatch):
    gating, store, requests, cases = shown
    log, after = gating.log(tmp_path / "beside"), gating.log(tmp_path / "after")
    monkeypatch.setattr(onlooker, "BATCH", 2)
    monkeypatch.setattr(onlooker, "MOST_WAITING", 1)
    with Onlooker(gating, log) as eyes:
        for start in range(0, len(requests), 3):
            eyes.show(requests[start : start + 3], cases[start : start + 3])
    assert {n for r in requests for n in log.missing(r.id)} <= {"copied"}
    looked: list[Look] = []
    verdicts = gating.judge(requests, store, after)
    again = gating.judge(requests, store, log, spread=lambda looks: looked.extend(looks) or [])
    assert looked == [] and set(again) == set(verdicts) == {r.id for r in requests}
    for id, verdict in verdicts.items():
        assert again[id].kept == verdict.kept and again[id].failed == verdict.failed
        assert numbers(again[id]) == pytest.approx(numbers(verdict), rel=1e-4, abs=1e-5)


def test_what_goes_wrong_in_a_gate_is_raised(shown, tmp_path, monkeypatch):
    gating, _, requests, cases = shown
    monkeypatch.setattr(gating, "look_at", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError), Onlooker(gating, ScoreLog(tmp_path, {"removed": "x"})) as eyes:
        eyes.show(requests, cases)


def test_where_judges_have_no_room_beside_the_network_they_look_later(shown, tmp_path, monkeypatch):
    gating, store, requests, cases = shown
    log, asked = gating.log(tmp_path / "log"), []

    def full(look, cases, room):
        asked.append(look)
        raise NoRoom("full")

    monkeypatch.setattr(onlooker, "BATCH", 1)
    monkeypatch.setattr(onlooker, "MOST_WAITING", 0)
    with monkeypatch.context() as within, Onlooker(gating, log) as eyes:
        within.setattr(gating, "look_at", full)
        for request, case in zip(requests, cases, strict=True):
            eyes.show([request], [case])
    assert len(asked) == 1
    assert set(gating.judge(requests, store, log)) == {r.id for r in requests}


def test_what_was_seen_before_an_interruption_is_known_after_it(shown, tmp_path, monkeypatch):
    gating, _, requests, cases = shown
    monkeypatch.setattr(onlooker, "BATCH", 2)
    monkeypatch.setattr(onlooker, "MOST_WAITING", 0)
    with pytest.raises(KeyboardInterrupt), Onlooker(gating, gating.log(tmp_path)) as eyes:
        eyes.show(requests[:2], cases[:2])
        raise KeyboardInterrupt
    later = gating.log(tmp_path)
    assert [bool(later.scores(r.id)) for r in requests[:3]] == [True, True, False]


def test_an_interruption_waits_for_no_case_that_was_not_begun(shown, tmp_path, monkeypatch):
    gating, _, requests, cases = shown
    monkeypatch.setattr(onlooker, "BATCH", 1)
    monkeypatch.setattr(onlooker, "MOST_WAITING", 9)
    begun, go = [], threading.Event()

    def slow(look, cases, room):
        begun.append(look)
        go.wait(60)
        return []

    monkeypatch.setattr(gating, "look_at", slow)
    with pytest.raises(KeyboardInterrupt), Onlooker(gating, ScoreLog(tmp_path, {"removed": "x"})) as eyes:
        for request, case in zip(requests[:4], cases[:4], strict=True):
            eyes.show([request], [case])
        threading.Timer(0.2, go.set).start()
        raise KeyboardInterrupt
    assert len(begun) == 1
