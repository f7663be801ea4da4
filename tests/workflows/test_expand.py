"""`expand` with tiny untrained models: what is tested is the line, not the beauty of its results."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image as PIL

import polypforge
from polypforge.core.errors import UserError
from polypforge.core.images import write_png
from polypforge.core.types import Request
from polypforge.data.folder import write_data_set
from polypforge.masks.shapes import polygon_mask
from polypforge.phantom.render import render
from polypforge.workflows import expand as expand_module
from polypforge.workflows.generate import generate_cases
from polypforge.workflows.plan import plan_requests


@pytest.fixture
def models(tiny_forge, tiny_segmenter, tmp_path):
    tiny_forge.save_pretrained(tmp_path / "forge")
    tiny_segmenter.save_pretrained(tmp_path / "judge")
    return {"model": str(tmp_path / "forge"), "judges": [str(tmp_path / "judge")]}


@pytest.fixture
def lenient(tmp_path):
    """Untrained networks draw no lesion that a judge would keep: keep everything that has any label."""
    rules = {"lesion_drawn": 0.01, "own_outline": 1.0, "removed": 1.0, "label_agreement": 0.0}
    file = tmp_path / "lenient.yaml"
    file.write_text("repeats: null\ngates:\n" + "".join(f"  - {{name: {k}, threshold: {v}}}\n" for k, v in rules.items()))
    return {"gates": file}


def check_result(out, result, source, num):
    assert str(out.parent) not in result.report.read_text()  # paths name people and places
    rows = [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]
    synthetic = [r for r in rows if json.loads(r["provenance"]).get("synthetic")]
    assert len(synthetic) == result.accepted == num
    assert len(rows) - len(synthetic) == result.real
    by_name = {c.name: c for c in polypforge.load_dataset(source)}
    for row in synthetic:
        provenance = json.loads(row["provenance"])
        request = Request.from_json(provenance["request"])
        assert request.id == provenance["id"] and provenance["gates"]["label_agreement"] >= 0
        case = next(c for c in polypforge.load_dataset(out) if c.name.endswith(request.id))
        background = by_name[request.background]
        if not request.parent:
            region = polygon_mask(list(request.region), case.size)
            assert (case.image[~region] == background.image[~region]).all()
            assert (case.mask[~region] == background.mask[~region]).all()
        text = PIL.open(out / row["image_file_name"]).text
        assert text["synthetic"] == "true"
    return rows


def test_the_whole_line(phantom_folder, models, lenient, tmp_path):
    out = tmp_path / "out"
    result = polypforge.expand(phantom_folder, out, 5, **models, **lenient)
    check_result(out, result, phantom_folder, 5)
    page = result.report.read_text()
    assert "<script" not in page and not re.findall(r'src="(?!data:)', page)
    assert str(result.accepted) in page and "not be used for diagnosis" in page


def test_nothing_is_drawn_where_an_old_lesion_can_still_be_seen(phantom_folder, models, lenient, tmp_path):
    out, thresholds = tmp_path / "out", {"removed": 0.0}
    result = polypforge.expand(phantom_folder, out, 6, **models, **lenient, thresholds=thresholds)
    check_result(out, result, phantom_folder, 6)
    made = [json.loads(line) for line in (out / "work" / "requests.jsonl").read_text().splitlines()]
    assert any(r["label"] == "normal" for r in made) and not any(r["parent"] for r in made if r["label"] == "polyp")
    assert any("removed" in reason for reason in result.reasons)
    assert "old lesion removed" in result.report.read_text()


def test_what_an_audit_removed_is_made_up_for(phantom_folder, models, lenient, tmp_path):
    out = tmp_path / "out"
    polypforge.expand(phantom_folder, out, 4, **models, **lenient)
    rows = [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]
    copy = next(r for r in rows if json.loads(r["provenance"]).get("synthetic"))
    (out / "removed.jsonl").write_text(json.dumps(copy) + "\n")
    again = polypforge.expand(phantom_folder, out, 4, **models, **lenient)
    assert copy not in check_result(out, again, phantom_folder, 4)


def test_the_same_command_resumes_after_a_kill(phantom_folder, models, lenient, tmp_path, monkeypatch):
    out, original, calls = tmp_path / "out", expand_module.generate, []

    def killed(recipe, requests, *rest):
        calls.append(1)
        original(recipe, requests[:2], *rest)
        raise KeyboardInterrupt

    monkeypatch.setattr(expand_module, "generate", killed)
    with pytest.raises(KeyboardInterrupt):
        polypforge.expand(phantom_folder, out, 4, **models, **lenient)
    assert not (out / "metadata.jsonl").exists()
    monkeypatch.setattr(expand_module, "generate", original)
    (rows,) = (out / "work").glob("generated-*/rows")
    before = {p.name: p.stat().st_mtime_ns for p in rows.iterdir()}
    assert len(before) == 2
    result = polypforge.expand(phantom_folder, out, 4, **models, **lenient)
    check_result(out, result, phantom_folder, 4)
    assert all((rows / n).stat().st_mtime_ns == t for n, t in before.items())


def test_a_folder_of_another_run_is_refused(phantom_folder, models, lenient, tmp_path):
    out = tmp_path / "out"
    polypforge.expand(phantom_folder, out, 2, **models, **lenient)
    with pytest.raises(UserError, match="num = 2, not 3"):
        polypforge.expand(phantom_folder, out, 3, **models, **lenient)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.docx").write_text("x")
    with pytest.raises(UserError, match="choose another output folder"):
        polypforge.expand(phantom_folder, tmp_path / "full", 2, **models, **lenient)
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["thesis.docx"]


def test_held_out_cases_are_never_backgrounds(models, lenient, tmp_path):
    data = tmp_path / "data"
    for i in range(10):
        case = render(i, 160, polyps=1)
        write_png(data / "images" / f"{i}.png", case.image)
        write_png(data / "masks" / f"{i}.png", case.mask)
    (data / "test.txt").write_text("0.png\n1.png\n2.png\n")
    out = tmp_path / "out"
    polypforge.expand(data, out, 6, **models, **lenient)
    rows = [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]
    used = {json.loads(r["provenance"])["request"]["background"] for r in rows if "request" in r["provenance"]}
    assert used and not used & {"0", "1", "2"}
    splits = {r["image_file_name"]: r["split"] for r in rows}
    assert splits["images/0.png"] == "test"


def test_what_the_gate_rejects_is_counted_and_never_written(phantom_folder, models, tmp_path):
    result = polypforge.expand(phantom_folder, tmp_path / "out", 1, **models, thresholds={"label_agreement": 1.0}, synthetic_only=True)
    assert result.accepted == 0 and result.made == 6 and sum(result.reasons.values()) == 6
    assert (tmp_path / "out" / "metadata.jsonl").read_text() == ""
    assert "Only 0 of 1" in result.report.read_text()


@pytest.mark.slow
def test_fine_tuning_changes_the_weights_and_is_not_repeated(phantom_folder, models, lenient, tmp_path):
    out = tmp_path / "out"
    result = polypforge.expand(phantom_folder, out, 2, budget_seconds=2.0, **models, **lenient)
    rows = [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]
    weights = {json.loads(r["provenance"]).get("weights") for r in rows} - {None}
    assert result.accepted == 2 and len(weights) == 1 and weights != {json.loads((out / "run.json").read_text())["settings"]["weights"]}
    steps = (out / "work" / "finetune" / "metrics.jsonl").read_text()
    polypforge.expand(phantom_folder, out, 2, budget_seconds=2.0, **models, **lenient)
    assert (out / "work" / "finetune" / "metrics.jsonl").read_text() == steps


def bad_folders(root):
    def pair(name, image, mask):
        write_png(root / name / "images" / "a.png", image)
        write_png(root / name / "masks" / "a.png", mask)
        return root / name

    good = render(3, 160, polyps=1)
    (root / "empty").mkdir()
    yield root / "empty", "holds no images"
    yield root / "missing", "no such folder"
    yield pair("one", good.image, good.mask), "at least 4"
    half = pair("half", good.image, good.mask)
    write_png(half / "images" / "b.png", render(4, 160).image)
    yield half, "has no partner"
    yield pair("pixel", good.image[:1, :1], good.mask[:1, :1]), "at least 64"
    text = pair("text", good.image, good.mask)
    (text / "images" / "a.png").write_text("hello")
    yield text, "not an image"
    yield pair("sizes", good.image, good.mask[:100]), "at one size"


def test_bad_data_is_one_sentence_and_nothing_is_written(models, tmp_path):
    (tmp_path / "bad").mkdir()
    for number, (folder, words) in enumerate(bad_folders(tmp_path / "bad")):
        out = tmp_path / f"out{number}"
        with pytest.raises(UserError) as caught:
            polypforge.expand(folder, out, 3, **models)
        assert words in str(caught.value) and "\n" not in str(caught.value)
        assert not (out / "metadata.jsonl").exists() and not (out / "images").exists()


def test_data_without_lesions_to_learn_from_leave_nothing_behind(models, tmp_path):
    frames = [render(i, 160, polyps=1) for i in range(5)]
    for name, cases, words in (
        ("empty", [replace(c, mask=np.zeros_like(c.mask), boxes=(), label="normal") for c in frames], "no training case shows a lesion"),
        ("held", [replace(c, split="test") for c in frames], "all are held out"),
    ):
        write_data_set(tmp_path / name, [replace(c, name=f"f{k}") for k, c in enumerate(cases)])
        with pytest.raises(UserError, match=words):
            polypforge.expand(tmp_path / name, tmp_path / "out", 3, **models)
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "change",
    [{"num": 0}, {"num": -3}, {"thresholds": {"label_agreement": 1.5}}, {"batch_size": 0}, {"model": "./none"}, {"device": "abacus"}],
)
def test_bad_options(phantom_folder, models, tmp_path, change):
    options = {"num": 3, **models, **change}
    with pytest.raises(UserError):
        polypforge.expand(phantom_folder, tmp_path / "out", **options)


def test_bad_files_can_be_left_out(models, lenient, tmp_path):
    data = tmp_path / "data"
    for i in range(8):
        case = render(i, 160, polyps=1)
        write_png(data / "images" / f"{i}.png", case.image)
        write_png(data / "masks" / f"{i}.png", case.mask)
    (data / "images" / "torn.png").write_text("x")
    write_png(data / "masks" / "torn.png", np.zeros((160, 160), bool))
    with pytest.raises(UserError, match="--skip-bad"):
        polypforge.expand(data, tmp_path / "a", 2, **models, **lenient)
    result = polypforge.expand(data, tmp_path / "b", 2, skip_bad=True, **models, **lenient)
    assert result.real == 8 and "torn" in result.report.read_text()


def test_relative_paths_and_text_work(phantom_folder, models, lenient, tmp_path, monkeypatch):
    monkeypatch.chdir(phantom_folder.parent)
    result = polypforge.expand(phantom_folder.name, str(tmp_path / "out"), 2, **models, **lenient)
    assert result.accepted == 2 and len(polypforge.load_dataset(str(tmp_path / "out"))) == 2 + result.real


def test_results_are_not_taken_for_data(phantom_folder, models, lenient, tmp_path):
    with pytest.raises(UserError, match="inside each other"):
        polypforge.expand(phantom_folder, phantom_folder / "out", 2, **models, **lenient)
    polypforge.expand(phantom_folder, tmp_path / "one", 2, **models, **lenient)
    again = polypforge.expand(tmp_path / "one", tmp_path / "two", 2, **models, **lenient)
    rows = [json.loads(line) for line in (tmp_path / "two" / "metadata.jsonl").read_text().splitlines()]
    used = {json.loads(r["provenance"])["request"]["background"] for r in rows if "request" in r["provenance"]}
    assert again.accepted == 2 and not any(name.startswith("synthetic") for name in used)


def test_a_refused_folder_can_be_used_with_skip_bad(models, lenient, tmp_path):
    data, out = tmp_path / "data", tmp_path / "out"
    for i in range(6):
        case = render(i, 160, polyps=1)
        write_png(data / "images" / f"{i}.png", case.image)
        write_png(data / "masks" / f"{i}.png", case.mask)
    (data / "images" / "x.png").write_text("x")
    with pytest.raises(UserError, match="--skip-bad"):
        polypforge.expand(data, out, 1, **models, **lenient)
    assert not out.exists()
    assert polypforge.expand(data, out, 1, skip_bad=True, **models, **lenient).accepted == 1


def test_near_duplicates_of_held_out_cases_are_not_used(models, lenient, tmp_path):
    data = tmp_path / "data"
    for i in range(7):
        case = render(40 + i, 256, polyps=1)
        write_png(data / "images" / f"f{i}.png", case.image)
        write_png(data / "masks" / f"f{i}.png", case.mask)
    twin = render(40, 256, polyps=1)
    write_png(data / "images" / "held.png", np.ascontiguousarray(twin.image[6:, 4:]))
    write_png(data / "masks" / "held.png", twin.mask[6:, 4:])
    (data / "test.txt").write_text("held.png\n")
    result = polypforge.expand(data, tmp_path / "out", 3, **models, **lenient)
    assert result.real == 7 and "near-duplicate of a held-out case" in result.report.read_text()


def test_multi_class_and_box_sets_are_refused_in_words(models, tmp_path):
    from polypforge.core.types import Case
    from polypforge.data.folder import write_data_set

    frames = [render(i, 160, polyps=1) for i in range(5)]
    write_data_set(tmp_path / "c", [Case(f.name, f.image, f.mask, classes={"a": f.mask, "b": f.mask & False}) for f in frames])
    with pytest.raises(UserError, match="several classes.*data import c --class a"):
        polypforge.expand(tmp_path / "c", tmp_path / "o1", 1, **models)
    with pytest.raises(UserError, match="several classes"):
        generate_cases(tmp_path / "c", tmp_path / "o3", model=models["model"], num=1)
    with pytest.raises(UserError, match="several classes"):
        plan_requests(tmp_path / "c", tmp_path / "o4.jsonl", num=1)
    write_data_set(tmp_path / "b", [Case(f.name, f.image, None, boxes=f.boxes) for f in frames])
    with pytest.raises(UserError, match="boxes but no masks"):
        polypforge.expand(tmp_path / "b", tmp_path / "o2", 1, **models)
