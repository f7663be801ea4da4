import json

import numpy as np
import pytest
import torch
from PIL import Image as PIL

from polypforge.core.errors import UserError
from polypforge.core.types import Request
from polypforge.data.layouts import open_source
from polypforge.generation.runner import generate, waves
from polypforge.generation.writer import CaseStore, read_requests, write_requests
from polypforge.masks.shapes import polygon_mask
from polypforge.models.memory import Room
from polypforge.workflows.generate import take_shard

REGION = ((50, 50), (110, 55), (105, 115), (55, 110))


@pytest.fixture
def setting(tiny_forge, polyps):
    by_name = {c.name: c for c in polyps}
    requests = [Request(n, "polyp", REGION, seed=i) for i, n in enumerate(list(by_name)[:4])]
    removal = Request(requests[0].background, "normal", REGION, seed=9)
    child = Request(removal.background, "polyp", REGION, seed=10, parent=removal.id)
    return tiny_forge, [*requests, child, removal], by_name.__getitem__


def images(folder):
    return {p.name: p.read_bytes() for p in sorted((folder / "images").iterdir())}


def test_all_cases_are_written_with_provenance(setting, tmp_path):
    recipe, requests, load = setting
    store = CaseStore(tmp_path)
    assert generate(recipe, requests, load, store, {"recipe": "forge", "weights": "abc"}, Room(3)) == 6
    assert store.finish(requests) == 5  # the removal is a step on the way, no case
    for case in open_source(tmp_path):
        assert case.provenance["synthetic"] and case.provenance["weights"] == "abc"
        assert Request.from_json(case.provenance["request"]).id == case.provenance["id"] == case.name
        text = PIL.open(tmp_path / "images" / f"{case.name}.png").text
        assert json.loads(text["polypforge"])["id"] == case.name


def test_a_child_starts_from_its_parents_result(setting, tmp_path):
    recipe, requests, load = setting
    store = CaseStore(tmp_path)
    generate(recipe, requests, load, store, {}, Room(8))
    child, removal = requests[-2], requests[-1]
    outer = Request(removal.background, "polyp", ((60, 60), (80, 60), (80, 80)), seed=11, parent=removal.id)
    generate(recipe, [outer, removal], load, store, {}, Room(8))
    outside = ~polygon_mask(list(outer.region), store.load(outer.id).size)
    assert (store.load(outer.id).image[outside] == store.load(removal.id).image[outside]).all()
    assert (store.load(child.id).image != store.load(removal.id).image).any()


class Killed(Exception):
    pass


@pytest.mark.parametrize("after", [0, 1, 2])
def test_killed_at_any_moment_the_rest_is_finished_and_nothing_differs(setting, tmp_path, after, monkeypatch):
    recipe, requests, load = setting
    whole = CaseStore(tmp_path / "whole")
    generate(recipe, requests, load, whole, {}, Room(2))

    store = CaseStore(tmp_path / "killed")
    write, calls = store.write, []

    def torn(case, request, intermediate):
        calls.append(request.id)
        if len(calls) > after:
            (store.folder / "images").mkdir(parents=True, exist_ok=True)
            (store.folder / "images" / ".partial-x.png").write_bytes(b"torn")
            raise Killed
        write(case, request, intermediate)

    monkeypatch.setattr(store, "write", torn)
    with pytest.raises(Killed):
        generate(recipe, requests, load, store, {}, Room(2))
    again = CaseStore(tmp_path / "killed")
    done = again.done()
    assert len(done) == after
    assert generate(recipe, requests, load, again, {}, Room(2)) == len(requests) - after
    again.finish(requests)
    whole.finish(requests)
    one, two = images(tmp_path / "whole"), images(tmp_path / "killed")
    assert set(one) == set(two)
    rows = [json.loads(line)["image_file_name"] for line in (tmp_path / "killed" / "metadata.jsonl").read_text().splitlines()]
    assert len(rows) == len(set(rows)) == 5
    for request in requests:
        a, b = whole.load(request.id), again.load(request.id)
        assert np.abs(a.image.astype(int) - b.image).max() <= 12


def test_shards_make_the_same_cases_as_one_run(setting, tmp_path):
    requests = setting[1]
    ordered = sorted(requests, key=lambda r: bool(r.parent))
    parts = [take_shard(ordered, k, 2) for k in (1, 2)]
    finals = [{r.id for r in part if r.label == "polyp"} for part in parts]
    assert not finals[0] & finals[1] and len(finals[0] | finals[1]) == 5
    assert all(r.parent in {q.id for q in part} for part in parts for r in part if r.parent)


def test_waves_put_parents_first_and_name_missing_ones():
    parent = Request("a", "normal", REGION, 1)
    child = Request("a", "polyp", REGION, 2, parent=parent.id)
    assert list(waves([child, parent], set())) == [[parent], [child]]
    assert list(waves([child], {parent.id})) == [[child]]
    with pytest.raises(UserError, match="waits for its parent"):
        list(waves([child], set()))


def test_requests_file_round_trip_and_errors(tmp_path):
    requests = [Request("a", "polyp", REGION, i) for i in range(3)]
    write_requests(tmp_path / "r.jsonl", requests)
    assert read_requests(tmp_path / "r.jsonl") == requests
    (tmp_path / "r.jsonl").write_text('{"background": "a"}\n')
    with pytest.raises(UserError, match="request 1"):
        read_requests(tmp_path / "r.jsonl")
    (tmp_path / "r.jsonl").write_text('{"background": "a", "label": "cat", "region": [[0,0],[1,1],[2,0]], "seed": 1}\n')
    with pytest.raises(UserError, match="polyp or normal"):
        read_requests(tmp_path / "r.jsonl")
    for seed in (2**63, -1, "true"):
        (tmp_path / "r.jsonl").write_text(f'{{"background": "a", "label": "polyp", "region": [[0,0],[1,1],[2,0]], "seed": {seed}}}\n')
        with pytest.raises(UserError, match="seed is an integer from 0"):
            read_requests(tmp_path / "r.jsonl")


@pytest.mark.parametrize(("change", "said"), [
    ({"region": "[[1e400,0],[1,1],[2,0]]"}, "not valid"), ({"region": "[[10000000000,0],[1,1],[2,0]]"}, "outside of any picture"),
    ({"background": '["a"]'}, "are texts"), ({"background": '"\\ud800"'}, "not valid"), ({"prompt": "5"}, "are texts"), ({"parent": "7"}, "are texts"),
    ({"attributes": "null"}, "attributes a mapping"), ({"seed": "9" * 5000}, "not valid JSON"),
])  # fmt: skip
def test_hostile_requests_are_one_sentence(tmp_path, change, said):
    row = {"background": '"a"', "label": '"polyp"', "region": "[[0,0],[1,1],[2,0]]", "seed": "1"} | change
    (tmp_path / "r.jsonl").write_text("{" + ", ".join(f'"{k}": {v}' for k, v in row.items()) + "}\n")
    with pytest.raises(UserError, match=said):
        read_requests(tmp_path / "r.jsonl")


def test_frames_are_read_in_turn_and_reading_ahead_changes_nothing(setting, tmp_path, monkeypatch):
    recipe, requests, load = setting
    requests = [*requests, *(Request(r.background, "polyp", REGION, seed=20 + i) for i, r in enumerate(requests[:4]))]
    read = []

    def noted(name):
        read.append(name)
        return load(name)

    generate(recipe, requests, noted, CaseStore(tmp_path / "here"), {}, Room(2))
    assert read == sorted(read), "those of one frame follow each other"
    monkeypatch.setattr("polypforge.generation.runner._on_gpu", lambda recipe: True)
    generate(recipe, requests, load, CaseStore(tmp_path / "ahead"), {}, Room(2))
    assert images(tmp_path / "here") == images(tmp_path / "ahead")


@pytest.mark.parametrize("fitting", [1, 2])
def test_a_batch_that_does_not_fit_is_halved(setting, tmp_path, monkeypatch, capsys, fitting):
    recipe, requests, load = setting
    whole, sizes = recipe.generate, []

    def small_device(jobs):
        sizes.append(len(jobs))
        if len(jobs) > fitting:
            raise torch.OutOfMemoryError
        return whole(jobs)

    monkeypatch.setattr(recipe, "generate", small_device)
    assert generate(recipe, requests, load, CaseStore(tmp_path), {}, Room(4)) == len(requests)
    assert sizes[:2] == [4, 2] and max(s for s in sizes if s <= fitting) == fitting and len(CaseStore(tmp_path).done()) == len(requests)
    assert "Out of memory with 4 images" in capsys.readouterr().err


def test_a_device_without_room_for_one_image_is_named(setting, tmp_path, monkeypatch):
    recipe, requests, load = setting

    def full(jobs):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(recipe, "generate", full)
    with pytest.raises(UserError, match="too little memory for a single image"):
        generate(recipe, requests, load, CaseStore(tmp_path), {}, Room(4))


def test_a_shared_store_leaves_what_others_are_writing(tmp_path):
    unfinished = tmp_path / "images" / ".partial-x"
    unfinished.parent.mkdir()
    unfinished.touch()
    CaseStore(tmp_path, shared=True)
    assert unfinished.exists()
    CaseStore(tmp_path)
    assert not unfinished.exists()
