import tarfile
from dataclasses import replace

import numpy as np
import pytest
from datasets import load_dataset
from PIL import Image as PIL

from polypforge.core.errors import UserError
from polypforge.core.files import read_jsonl, write_jsonl
from polypforge.core.images import png_bytes, write_png
from polypforge.core.types import NORMAL
from polypforge.data.folder import METADATA, write_case, write_data_set
from polypforge.workflows.pack import pack_data


@pytest.fixture
def folder(tmp_path, phantoms):
    """Five cases of two splits, one of them normal and without a mask."""
    cases = [replace(c, name=f"case-{i}", split="val" if i == 4 else "train", provenance={"n": i}) for i, c in enumerate(phantoms[:5])]
    cases[0] = replace(cases[0], mask=None, boxes=(), label=NORMAL)
    write_data_set(tmp_path / "set", cases)
    return tmp_path / "set", cases


@pytest.mark.parametrize("kind", ["webdataset", "parquet"])
def test_datasets_reads_what_was_packed(folder, tmp_path, kind):
    data, cases = folder
    result = pack_data(data, tmp_path / "packed", kind, per_shard=2)
    assert (result["cases"], result["shards"], result["written"]) == (5, 3, 3)
    read = load_dataset(str(tmp_path / "packed"), cache_dir=str(tmp_path / "cache"))
    assert [len(read[name]) for name in ("train", "val")] == [4, 1]
    for row, case in zip(read["train"], cases, strict=False):
        known = row["json"] if kind == "webdataset" else row
        image, mask = (row["image.png"], row["mask.png"]) if kind == "webdataset" else (row["image"], row["mask"])
        assert known["name"] == case.name and known["label"] == case.label and str(case.provenance["n"]) in known["provenance"]
        assert (np.asarray(image) == case.image).all()
        wanted = case.mask if case.mask is not None else np.zeros(case.size, bool)
        assert ((np.asarray(mask) > 0) == wanted).all()


@pytest.mark.parametrize("kind", ["webdataset", "parquet"])
def test_an_interrupted_packing_goes_on_and_gives_the_same_bytes(folder, tmp_path, kind):
    data, _ = folder
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    pack_data(data, whole, kind, per_shard=2)
    pack_data(data, torn, kind, per_shard=2)
    shards = sorted((torn / "data").iterdir())
    shards[1].unlink()
    assert pack_data(data, torn, kind, per_shard=2)["written"] == 1
    assert [p.read_bytes() for p in shards] == [p.read_bytes() for p in sorted((whole / "data").iterdir())]
    with pytest.raises(UserError, match="per_shard = 2"):
        pack_data(data, torn, kind, per_shard=3)


def test_shards_name_neither_user_nor_time(folder, tmp_path):
    data, _ = folder
    pack_data(data, tmp_path / "packed", "webdataset")
    with tarfile.open(next((tmp_path / "packed" / "data").glob("train*.tar"))) as archive:
        assert {(m.uid, m.uname, m.mtime) for m in archive.getmembers()} == {(0, "", 0)}


def test_cases_with_boxes_alone_beside_masks_are_null_in_parquet_and_refused_in_webdataset(tmp_path, phantoms):
    """The boxed one first, and alone in its shard."""
    polyps = [c for c in phantoms if c.boxes][:2]
    write_data_set(tmp_path / "set", [replace(polyps[0], mask=None), polyps[1]])
    with pytest.raises(UserError, match=f"'{polyps[0].name}' has no mask"):
        pack_data(tmp_path / "set", tmp_path / "packed", "webdataset")
    assert not (tmp_path / "packed").exists()
    pack_data(tmp_path / "set", tmp_path / "table", "parquet", per_shard=1)
    rows = load_dataset(str(tmp_path / "table"), split="train", cache_dir=str(tmp_path / "cache"))
    assert rows[0]["mask"] is None and rows[0]["boxes"] != "[]" and (np.asarray(rows[1]["mask"]) > 0).sum() == polyps[1].mask.sum()


@pytest.mark.parametrize("kind", ["webdataset", "parquet"])
def test_classes_are_columns_and_an_absent_class_is_empty(tmp_path, phantoms, kind):
    cup = phantoms[1].mask & (np.arange(160) < 80)
    both = replace(phantoms[1], classes={"disc": phantoms[1].mask, "cup": cup})
    without, black = replace(phantoms[0], mask=None, boxes=(), label=NORMAL), np.zeros((160, 160), bool)
    write_data_set(tmp_path / "set", [both, without, replace(without, name="black", mask=black)])
    pack_data(tmp_path / "set", tmp_path / "packed", kind)
    rows = load_dataset(str(tmp_path / "packed"), split="train", cache_dir=str(tmp_path / "cache"))
    name = "mask_cup.png" if kind == "webdataset" else "mask_cup"
    assert [(np.asarray(r[name]) > 0).sum() for r in rows] == [cup.sum(), 0, 0]


def test_a_new_split_needs_a_new_folder_and_unsplit_cases_stay_out(folder, tmp_path):
    data, _ = folder
    pack_data(data, tmp_path / "packed")
    rows = read_jsonl(data / METADATA)
    write_jsonl(data / METADATA, [row | {"split": "" if i == 0 else "test" if i == 1 else row["split"]} for i, row in enumerate(rows)])
    with pytest.raises(UserError, match="state ="):
        pack_data(data, tmp_path / "packed")
    assert pack_data(data, tmp_path / "again") == {"cases": 4, "left_out": 1, "shards": 3, "written": 3, "out": str(tmp_path / "again")}
    read = load_dataset(str(tmp_path / "again"), cache_dir=str(tmp_path / "cache"))
    assert [r["json"]["name"] for r in read["test"]] == ["case-1"] and len(read["train"]) == 2


@pytest.mark.parametrize("kind", ["webdataset", "parquet"])
def test_classes_told_apart_in_one_file_are_packed_one_by_one(tmp_path, phantoms, kind):
    colour = np.zeros_like(phantoms[1].image)
    colour[10:30, 10:30, 0], colour[50:70, 60:90, 1] = 250, 240
    for name, pixels in (("train/train/a.png", phantoms[1].image), ("train_gt/train_gt/a.png", colour)):
        (tmp_path / "neo" / name).parent.mkdir(parents=True)
        PIL.fromarray(pixels).save(tmp_path / "neo" / name)
    pack_data(tmp_path / "neo", tmp_path / "packed", kind)
    row = load_dataset(str(tmp_path / "packed"), split="train", cache_dir=str(tmp_path / "cache"))[0]
    areas = {
        n: np.asarray(row[n] if n in row else row[f"{n}.png"]).astype(bool).sum()
        for n in ("mask", "mask_neoplastic", "mask_non_neoplastic")
    }
    assert areas == {"mask": 1000, "mask_neoplastic": 400, "mask_non_neoplastic": 600}


def test_a_synthetic_picture_still_says_so(tmp_path, phantoms):
    folder = tmp_path / "set"
    case = replace(phantoms[1], provenance={"synthetic": True})
    write_jsonl(folder / METADATA, [write_case(folder, case)])
    pack_data(folder, tmp_path / "packed")
    with tarfile.open(next((tmp_path / "packed" / "data").iterdir())) as archive:
        assert PIL.open(archive.extractfile("000000000.image.png")).text["synthetic"] == "true"


def test_a_real_file_that_carries_words_is_refused(tmp_path, phantoms):
    folder = tmp_path / "set"
    write_jsonl(folder / METADATA, [write_case(folder, phantoms[1], png_bytes(phantoms[1].image, {"Patient": "someone"}))])
    with pytest.raises(UserError, match="carries metadata"):
        pack_data(folder, tmp_path / "packed")
    assert not (tmp_path / "packed").exists()


def test_what_the_check_calls_bad_is_not_packed(tmp_path, phantoms):
    for part in ("images", "masks"):
        for k, case in enumerate(phantoms[:3]):
            write_png(tmp_path / "set" / part / f"{k}.png", case.image if part == "images" else case.mask)
    (tmp_path / "set" / "masks" / "2.png").unlink()
    with pytest.raises(UserError, match="2.png has no partner"):
        pack_data(tmp_path / "set", tmp_path / "packed")
    write_png(tmp_path / "set" / "masks" / "2.png", phantoms[2].mask[:-8])
    with pytest.raises(UserError, match="2.png is .* but its image"):
        pack_data(tmp_path / "set", tmp_path / "packed")
    assert not (tmp_path / "packed").exists()


@pytest.mark.parametrize(("kind", "per_shard", "words"), [("zip", 10, "webdataset or parquet"), ("parquet", 0, "at least one case")])
def test_bad_options_get_one_sentence(folder, tmp_path, kind, per_shard, words):
    with pytest.raises(UserError, match=words):
        pack_data(folder[0], tmp_path / "packed", kind, per_shard)
