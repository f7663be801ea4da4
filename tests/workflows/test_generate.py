"""`generate`: what resumes, and what is refused."""

import shutil
from dataclasses import replace

import pytest

from polypforge.core.errors import UserError
from polypforge.core.images import read_image, write_png
from polypforge.core.types import POLYP, Request
from polypforge.data.folder import write_data_set
from polypforge.data.layouts import open_source
from polypforge.generation.writer import write_requests
from polypforge.workflows.expand import expand
from polypforge.workflows.generate import generate_cases


def test_copied_data_resume_and_changed_data_are_refused(tiny_forge, polyps, tmp_path):
    write_data_set(tmp_path / "data", polyps[:4])
    tiny_forge.save_pretrained(tmp_path / "model")
    options = {"model": str(tmp_path / "model"), "num": 2, "device": "cpu"}
    made = generate_cases(tmp_path / "data", tmp_path / "out", **options)["made"]
    assert made >= 2
    shutil.move(tmp_path / "data", tmp_path / "before")
    shutil.copytree(tmp_path / "before", tmp_path / "data", copy_function=shutil.copyfile)  # other file times
    assert generate_cases(tmp_path / "data", tmp_path / "out", **options)["made"] == 0
    with pytest.raises(UserError, match="steps = None, not 2"):
        generate_cases(tmp_path / "data", tmp_path / "out", **options, steps=2)
    picture = next((tmp_path / "data" / "images").iterdir())
    write_png(picture, read_image(picture)[:, ::-1].copy())
    with pytest.raises(UserError, match="other data"):
        generate_cases(tmp_path / "data", tmp_path / "out", **options)
    with pytest.raises(UserError, match="--batch-size is 0"):
        generate_cases(tmp_path / "data", tmp_path / "new", **options, batch_size=0)


def test_cases_tell_of_their_model_by_name_alone(tiny_forge, polyps, tmp_path):
    tiny_forge.save_pretrained(tmp_path / "jane" / "mine")
    write_data_set(tmp_path / "data", polyps)
    generate_cases(tmp_path / "data", tmp_path / "out", model=str(tmp_path / "jane" / "mine"), num=1, device="cpu")
    assert {c.provenance["model"] for c in open_source(tmp_path / "out")} == {"mine"}


def test_requests_are_part_of_a_run_and_leave_held_out_frames_alone(tiny_forge, polyps, tmp_path):
    cases = [replace(c, split="test" if k == 3 else "train") for k, c in enumerate(polyps[:4])]
    write_data_set(tmp_path / "data", cases)
    tiny_forge.save_pretrained(tmp_path / "model")
    region = ((20, 20), (70, 20), (70, 70), (20, 70))
    asked = [Request(c.name, POLYP, region, seed=k) for k, c in enumerate(cases)]
    options = {"model": str(tmp_path / "model"), "requests_file": tmp_path / "asked.jsonl", "device": "cpu"}
    write_requests(tmp_path / "asked.jsonl", asked)
    with pytest.raises(UserError, match="request 4 .* is held out"):
        generate_cases(tmp_path / "data", tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
    write_requests(tmp_path / "asked.jsonl", asked[:1])
    assert generate_cases(tmp_path / "data", tmp_path / "out", **options)["cases"] == 1
    write_requests(tmp_path / "asked.jsonl", asked[:2])
    with pytest.raises(UserError, match="a run with asked"):
        generate_cases(tmp_path / "data", tmp_path / "out", **options)


def test_what_can_not_be_drawn_is_said_before_anything_is(tiny_forge, polyps, tmp_path):
    write_data_set(tmp_path / "data", polyps[:4])
    tiny_forge.save_pretrained(tmp_path / "model")
    region, away = ((20, 20), (70, 20), (70, 70), (20, 70)), ((2000, 2000), (2010, 2000), (2010, 2010))
    good = Request(polyps[0].name, POLYP, region, seed=1)
    options = {"model": str(tmp_path / "model"), "requests_file": tmp_path / "asked.jsonl", "device": "cpu"}
    for bad, words in (
        (Request(polyps[1].name, POLYP, away, seed=2), "request 2 .* outside the field of view"),
        (Request("", POLYP, region, seed=3), "request 2 .* names no background"),
        (Request("stranger", POLYP, region, seed=4), "request 2 .*'stranger' is not in"),
        (Request(polyps[1].name, POLYP, region, seed=5, parent="zzz"), "request 2 .* parent zzz is not among"),
    ):
        write_requests(tmp_path / "asked.jsonl", [good, bad])
        with pytest.raises(UserError, match=words):
            generate_cases(tmp_path / "data", tmp_path / "out", **options)
        assert not (tmp_path / "out").exists()


def test_a_plan_is_found_once(tiny_forge, polyps, tmp_path, monkeypatch):
    write_data_set(tmp_path / "data", polyps[:4])
    tiny_forge.save_pretrained(tmp_path / "model")
    options = {"model": str(tmp_path / "model"), "num": 3, "device": "cpu"}
    first = generate_cases(tmp_path / "data", tmp_path / "out", **options)
    shutil.rmtree(tmp_path / "out" / "rows")
    monkeypatch.setattr("polypforge.workflows.generate.make_planner", lambda *_: pytest.fail("it is known already"))
    assert generate_cases(tmp_path / "data", tmp_path / "out", **options)["made"] == first["made"]


def test_synthetic_cases_alone_are_nothing_to_expand(polyps, tmp_path):
    made = [replace(c, name=f"made-{k}", provenance={"synthetic": True}) for k, c in enumerate(polyps[:4])]
    write_data_set(tmp_path / "data", made)
    with pytest.raises(UserError, match="0 case\\(s\\) left to learn from"):
        expand(tmp_path / "data", tmp_path / "out", 2, device="cpu")
    assert not (tmp_path / "out").exists()
