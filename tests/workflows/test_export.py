from dataclasses import replace

import numpy as np
import pytest
from PIL import Image as PIL

from polypforge.core.errors import UserError
from polypforge.core.types import Case
from polypforge.data.folder import read_data_set, write_data_set
from polypforge.data.layouts import open_source
from polypforge.workflows.data import import_data
from polypforge.workflows.export_cases import loadable, plain_name


def test_names_that_hugging_face_takes_for_splits_are_changed():
    assert [plain_name(n) for n in ("test_1", "a-train", "val", "case.dev.3")] == ["testx_1", "a-trainx", "valx", "case.devx.3"]
    assert [plain_name(n) for n in ("test1", "9val", "training2")] == ["testx1", "9valx", "trainingx2"]
    assert [plain_name(n) for n in ("latest_1", "trainings", "cju0roawv")] == ["latest_1", "trainings", "cju0roawv"]


def test_hugging_face_loads_an_import_whose_names_end_in_numbers(phantoms, tmp_path):
    import datasets

    write_data_set(
        tmp_path / "data",
        [replace(c, name=f"{word}{k}") for k, (c, word) in enumerate(zip(phantoms, ("test", "train", "img", "val"), strict=False))],
    )
    import_data(tmp_path / "data", tmp_path / "out")
    loaded = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(loaded) == 4 and {"image", "mask", "boxes", "provenance"} <= set(loaded.column_names)


def test_a_bad_file_is_refused_before_anything_is_written_or_left_out(phantoms, tmp_path):
    write_data_set(tmp_path / "data", phantoms[:3])
    bad = sorted((tmp_path / "data" / "images").iterdir())[-1]
    bad.write_bytes(bad.read_bytes()[:400])
    source = open_source(tmp_path / "data")
    with pytest.raises(UserError, match="1 files can't be used: .*--skip-bad"):
        loadable(source, False)
    assert [c.name for c in loadable(source, True)] == [c.name for c in source.cases if c.image_path != bad]


def test_a_synthetic_picture_still_says_so_after_import(phantoms, tmp_path):
    write_data_set(tmp_path / "data", [replace(c, provenance={"synthetic": True}) for c in phantoms[:2]])
    import_data(tmp_path / "data", tmp_path / "out")
    pictures = sorted((tmp_path / "out" / "images").iterdir())
    assert len(pictures) == 2 and all(PIL.open(p).text["synthetic"] == "true" for p in pictures)


def test_one_class_of_several_becomes_the_lesion(phantoms, tmp_path):
    lesion, normal = (next(c for c in phantoms if c.mask.any() == wanted) for wanted in (True, False))
    cup = lesion.mask & (np.arange(lesion.mask.shape[1]) < np.argwhere(lesion.mask)[:, 1].mean())
    both = [
        Case("both", lesion.image, lesion.mask, classes={"disc": lesion.mask, "cup": cup}),
        Case("disc-alone", lesion.image[::-1], lesion.mask[::-1], classes={"disc": lesion.mask[::-1]}),
        Case("nothing", normal.image, normal.mask),
    ]
    write_data_set(tmp_path / "data", both)
    import_data(tmp_path / "data", tmp_path / "cups", only="cup")
    cases = {c.name: c for c in read_data_set(tmp_path / "cups")}
    assert (cases["both"].mask == cup).all() and not cases["both"].classes and cases["both"].label == "polyp"
    assert all(cases[n].label == "normal" and not cases[n].boxes and not cases[n].mask.any() for n in ("disc-alone", "nothing"))
    with pytest.raises(UserError, match="no class 'rim': it has cup, disc"):
        import_data(tmp_path / "data", tmp_path / "rims", only="rim")
    write_data_set(tmp_path / "mixed", [*both, Case("vague", lesion.image, lesion.mask)])
    with pytest.raises(UserError, match="vague.png: its lesions' class isn't said"):
        import_data(tmp_path / "mixed", tmp_path / "out", only="cup")
    write_data_set(tmp_path / "told", [*both, Case("vague", lesion.image, None, label="polyp")])
    with pytest.raises(UserError, match="vague.png: its lesions' class isn't said"):
        import_data(tmp_path / "told", tmp_path / "out", only="cup")
