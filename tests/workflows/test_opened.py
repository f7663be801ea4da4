"""What is learned from of a folder with many frames without lesion."""

import pytest

from polypforge.core.errors import UserError
from polypforge.data.folder import write_data_set
from polypforge.phantom.render import render
from polypforge.workflows.opened import open_checked


def test_of_many_frames_without_lesion_a_part_from_all_scenes_is_learned(tmp_path, monkeypatch):
    monkeypatch.setattr("polypforge.workflows.opened.LEAST_NORMAL", 6)
    frames = [render(k, 64, polyps=0) for k in range(20)] + [render(k, 64, polyps=1) for k in range(100, 104)]
    for k, frame in enumerate(frames):
        frame.name, frame.split = f"c{k}", "train" if k else "val"
        frame.group = "video" if k < 14 else f"g{k}"
    frames[0].group = "other"
    write_data_set(tmp_path / "data", frames)
    opened = open_checked(tmp_path / "data")
    assert len(opened.lesions("train")) == 4 and not opened.lesions("val")
    monkeypatch.setattr("polypforge.workflows.opened.NORMAL_PER_LESION", 2)
    learned = opened.to_learn("train", 0)
    bare = [c for c in learned if not c.lesion]
    assert len(bare) == 8 and len(learned) == 12 and learned == [c for c in opened.cases("train") if c in learned]
    assert {c.group for c in bare} >= {f"g{k}" for k in range(14, 20)}
    assert opened.to_learn("train", 0) == learned != opened.to_learn("train", 1)
    assert opened.scenes()["c3"] == opened.scenes()["c4"] != opened.scenes()["c15"]
    cached = open_checked(tmp_path / "data", cache=tmp_path / "check.json")
    again = open_checked(tmp_path / "data", cache=tmp_path / "check.json")
    assert [c.lesion for c in again.source.cases] == [c.lesion for c in cached.source.cases]


def test_one_lesion_among_many_frames_is_too_little(tmp_path):
    frames = [render(k, 64, polyps=int(k == 0)) for k in range(8)]
    write_data_set(tmp_path / "data", frames)
    with pytest.raises(UserError, match="shows a lesion in 1 of its 8 cases"):
        open_checked(tmp_path / "data")
