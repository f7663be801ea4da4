import json
import os

import numpy as np
import pytest
from PIL import Image as PIL

from polypforge.core.errors import UserError
from polypforge.core.files import read_jsonl, write_jsonl
from polypforge.core.types import Case
from polypforge.data.folder import read_data_set, write_data_set
from polypforge.data.layouts import open_source


def test_round_trip_is_exact(phantom_folder, phantoms):
    back = list(read_data_set(phantom_folder))
    assert [c.name for c in back] == [c.name for c in phantoms]
    for a, b in zip(back, phantoms, strict=True):
        assert (a.image == b.image).all() and (a.mask == b.mask).all()
        assert a.boxes == b.boxes and a.label == b.label and a.group == b.group
        assert a.provenance == json.loads(json.dumps(b.provenance))


def test_hugging_face_loads_it_as_it_is(phantom_folder, phantoms, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    rows = datasets.load_dataset("imagefolder", data_dir=str(phantom_folder), split="train", cache_dir=str(tmp_path))
    assert len(rows) == len(phantoms)
    first = rows[0]
    assert (np.asarray(first["image"]) == phantoms[0].image).all()
    assert set(np.unique(np.asarray(first["mask"]))) <= {0, 255}
    assert first["label"] == phantoms[0].label


def test_class_masks_survive(tmp_path):
    image = np.zeros((80, 80, 3), np.uint8)
    disc = np.zeros((80, 80), bool)
    disc[20:60, 20:60] = True
    cup = np.zeros_like(disc)
    cup[30:50, 30:50] = True
    write_data_set(tmp_path / "d", [Case("eye", image, disc, classes={"disc": disc, "cup": cup})])
    back = next(iter(open_source(tmp_path / "d")))
    assert (back.classes["cup"] == cup).all() and (back.classes["disc"] == disc).all() and (back.mask == disc).all()


def test_a_class_that_a_row_leaves_open_is_no_class(tmp_path):
    """pandas and `datasets` write merged rows with nulls."""
    image, lesion = np.zeros((80, 80, 3), np.uint8), np.zeros((80, 80), bool)
    lesion[20:60, 20:60] = True
    write_data_set(tmp_path / "d", [Case("a", image, lesion), Case("b", image, lesion, classes={"ad": lesion})])
    rows = read_jsonl(tmp_path / "d" / "metadata.jsonl")
    write_jsonl(tmp_path / "d" / "metadata.jsonl", [{"mask_ad_file_name": None, "mask_hp_file_name": None} | row for row in rows])
    first, second = open_source(tmp_path / "d")
    assert first.label == "polyp" and (first.mask == lesion).all() and not first.classes
    assert set(second.classes) == {"ad"} and (second.mask == lesion).all()


def test_the_file_of_a_synthetic_case_says_so(tmp_path):
    image = np.zeros((80, 80, 3), np.uint8)
    write_data_set(tmp_path / "d", [Case("made", image, provenance={"synthetic": True, "seed": 3}), Case("real", image)])
    texts = [PIL.open(tmp_path / "d" / "images" / f"{name}.png").text for name in ("made", "real")]
    assert texts[0]["synthetic"] == "true" and json.loads(texts[0]["polypforge"])["seed"] == 3 and texts[1] == {}


def test_it_does_not_overwrite(phantom_folder, phantoms):
    with pytest.raises(UserError, match="already holds"):
        write_data_set(phantom_folder, phantoms[:1])


def test_a_manifest_that_escapes_is_refused(tmp_path):
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"image_file_name": "../../etc/passwd"}) + "\n")
    with pytest.raises(UserError, match="outside"):
        read_data_set(tmp_path)


def test_a_manifest_without_images_is_refused(tmp_path):
    (tmp_path / "metadata.jsonl").write_text('{"file": "a.png"}\n')
    with pytest.raises(UserError, match="image_file_name"):
        read_data_set(tmp_path)


def test_a_read_only_folder_is_one_sentence(tmp_path, phantoms):
    if os.geteuid() == 0:
        (tmp_path / "d").write_text("a file where a folder should be")
        with pytest.raises(UserError, match="can't be written"):
            write_data_set(tmp_path / "d" / "x", phantoms[:1])
        return
    (tmp_path / "d").mkdir(mode=0o500)
    with pytest.raises(UserError, match="can't be written"):
        write_data_set(tmp_path / "d", phantoms[:1])


@pytest.mark.parametrize("key", ["mask_../../../e_file_name", "mask_a/b_file_name"])
def test_class_names_cannot_lead_out_of_the_folder(tmp_path, key):
    row = {"image_file_name": "images/a.png", "mask_file_name": None, key: "masks/a.png"}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row) + "\n")
    assert read_data_set(tmp_path).cases[0].read_masks is None


def test_values_of_the_wrong_type_are_named(tmp_path):
    (tmp_path / "metadata.jsonl").write_text('{"image_file_name": "a.png", "boxes": [[1, 2]]}\n')
    with pytest.raises(UserError, match="line 1 has a value of the wrong type"):
        read_data_set(tmp_path)
