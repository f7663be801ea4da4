import tarfile
from dataclasses import replace

import numpy as np
import pytest
from datasets import load_dataset

from polypforge.core.errors import UserError
from polypforge.core.types import NORMAL
from polypforge.data.folder import write_data_set
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
    assert [len(read[name]) for name in ("train", "validation")] == [4, 1]
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


def test_cases_with_boxes_alone_beside_masks_are_refused(tmp_path, phantoms):
    polyps = [c for c in phantoms if c.boxes][:2]
    write_data_set(tmp_path / "set", [replace(polyps[0], mask=None), polyps[1]])
    with pytest.raises(UserError, match="1 of 2 cases have no mask"):
        pack_data(tmp_path / "set", tmp_path / "packed", "webdataset")
    assert not (tmp_path / "packed").exists()
    row = load_dataset(str(_packed(tmp_path)), split="train", cache_dir=str(tmp_path / "cache"))[0]
    assert row["mask"] is None and row["boxes"] != "[]"


def _packed(tmp_path):
    pack_data(tmp_path / "set", tmp_path / "table", "parquet")
    return tmp_path / "table"


@pytest.mark.parametrize(("kind", "per_shard", "words"), [("zip", 10, "webdataset or parquet"), ("parquet", 0, "at least one case")])
def test_bad_options_get_one_sentence(folder, tmp_path, kind, per_shard, words):
    with pytest.raises(UserError, match=words):
        pack_data(folder[0], tmp_path / "packed", kind, per_shard)
