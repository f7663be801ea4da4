from dataclasses import replace

from PIL import Image as PIL

from polypforge.data.folder import write_data_set
from polypforge.workflows.data import import_data
from polypforge.workflows.export_cases import plain_name


def test_names_that_hugging_face_takes_for_splits_are_changed():
    assert [plain_name(n) for n in ("test_1", "a-train", "val", "case.dev.3")] == ["testx_1", "a-trainx", "valx", "case.devx.3"]
    assert [plain_name(n) for n in ("latest_1", "training2", "cju0roawv")] == ["latest_1", "training2", "cju0roawv"]


def test_a_synthetic_picture_still_says_so_after_import(phantoms, tmp_path):
    write_data_set(tmp_path / "data", [replace(c, provenance={"synthetic": True}) for c in phantoms[:2]])
    import_data(tmp_path / "data", tmp_path / "out")
    pictures = sorted((tmp_path / "out" / "images").iterdir())
    assert len(pictures) == 2 and all(PIL.open(p).text["synthetic"] == "true" for p in pictures)
