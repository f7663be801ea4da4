import numpy as np
import pytest

from polypforge.core.errors import UserError
from polypforge.core.types import Case
from polypforge.masks.shapes import box_mask
from polypforge.quality.gates import GATES, Gatekeeper, Rule, Subject, register_gate
from polypforge.quality.gates.score_log import ScoreLog
from polypforge.quality.gates.settings import GateSettings, read_gates

LESION = box_mask((20, 20, 60, 60), (100, 100))


@pytest.fixture
def redness():
    @register_gate("redness", keep="at most", reason="redder than any real lesion")
    def redness(subject):
        return float(subject.case.image[subject.lesion][:, 0].mean())

    yield redness
    del GATES["redness"]


def reds(*values):
    return [Subject.real(Case(str(v), np.full((100, 100, 3), v, np.uint8), LESION), LESION) for v in values]


def test_a_users_gate_takes_its_threshold_from_real_lesions(redness):
    keeper = Gatekeeper([Rule("redness", rejected_real=0.1)])
    assert keeper.uncalibrated == ["redness"] and keeper.verdicts(reds(255))[0].kept
    keeper.calibrate(keeper.scores(reds(*range(100, 200))))
    assert 188 <= keeper.thresholds["redness"] <= 191 and not keeper.uncalibrated
    good, bad = keeper.verdicts(reds(150, 250))
    assert good.kept and not bad.kept and bad.reason == "redder than any real lesion" and bad.failed == ("redness",)
    share = np.mean([v.kept for v in keeper.verdicts(reds(*range(100, 200)))])
    assert 0.88 <= share <= 0.92


def test_a_name_is_taken_once(redness):
    with pytest.raises(ValueError, match="already"):
        register_gate("seam_colour", keep="at most", reason="")(lambda subject: 0.0)
    with pytest.raises(ValueError, match="at least"):
        register_gate("other", keep="between", reason="")


def test_rules_are_checked():
    with pytest.raises(UserError, match="no gate 'beauty'"):
        Rule("beauty")
    with pytest.raises(UserError, match=r"threshold is 1.2, but its score lies in 0..1"):
        Rule("label_agreement", 1.2)
    with pytest.raises(UserError, match="rejected_real is 2"):
        Rule("seam_colour", rejected_real=2)


@pytest.mark.parametrize("name", ["starter", "boxes"])
def test_shipped_settings_are_read(name):
    settings = read_gates(name, **({"detectors": ("somewhere",)} if name == "boxes" else {}))
    assert len(settings.gates) > 5
    again = settings.with_thresholds({"seam_colour": 20})
    assert {r.name: r.fixed for r in again.gates}["seam_colour"] == 20
    with pytest.raises(UserError, match="no gate 'label'"):
        settings.with_thresholds({"label": 0.5})


def test_models_that_no_gate_would_ask_are_refused():
    with pytest.raises(UserError, match="no gate of 'starter' asks detectors, so somewhere would judge nothing"):
        read_gates("starter", detectors=("somewhere",))
    with pytest.raises(UserError, match="no gate of 'none' asks judges"):
        read_gates("none", judges=("one",))
    assert read_gates("none", labels=True, judges=("one",)).judges == ("one",)  # it moves labels
    with pytest.raises(UserError, match="'boxes' has no judge, who alone could refine"):
        read_gates("boxes", labels=True, detectors=("somewhere",))


def test_settings_that_make_no_sense_are_refused(tmp_path):
    with pytest.raises(ValueError, match="need a judge"):
        GateSettings((Rule("label_agreement"),), judges=())
    with pytest.raises(ValueError, match="named twice"):
        GateSettings((Rule("in_view"), Rule("in_view")))
    with pytest.raises(ValueError, match="no gate"):
        GateSettings(())
    file = tmp_path / "mine.yaml"
    file.write_text("gates: {name: in_view}\n")
    with pytest.raises(UserError, match="must be a list"):
        read_gates(file)
    file.write_text("gates:\n  - in_view\n  - {name: visible, limit: 3}\n")
    with pytest.raises(UserError, match="unknown key 'limit'"):
        read_gates(file)
    file.write_text("gates:\n  - in_view\n  - {name: visible, threshold: 3}\nrepeats: null\n")
    assert [r.name for r in read_gates(file).gates] == ["lesion_drawn", "in_view", "visible"]  # what isn't there can't be judged
    assert read_gates(file).gates[2].threshold == 3 and read_gates(file).repeats is None


def test_scores_are_found_again_until_their_gate_changes(tmp_path):
    log = ScoreLog(tmp_path, {"a": "1", "b": "1"})
    assert log.missing("x") == {"a", "b"}
    view = np.arange(4, dtype=np.float32).reshape(2, 2)
    log.add("x", {"a": 0.5, "b": None}, view)
    log.save()
    again = ScoreLog(tmp_path, {"a": "1", "b": "2"})
    assert again.missing("x") == {"b"} and again.scores("x") == {"a": 0.5}
    assert (again.view("x") == view).all() and again.view("y") is None
