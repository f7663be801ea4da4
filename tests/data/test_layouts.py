"""Each layout is written as its publisher lays it out, then read."""

import json
import os

import numpy as np
import pytest
from PIL import Image as PIL

from polypforge.core.errors import UserError
from polypforge.data.checks import check
from polypforge.data.layouts import open_source

IMAGE = np.random.default_rng(0).integers(30, 220, (96, 128, 3), np.uint8)
MASK = np.zeros((96, 128), np.uint8)
MASK[20:50, 40:90] = 255
BOX = (40, 20, 90, 50)


def put(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.fromarray(array).save(path)


PAIRS = {
    "kvasir": ("images/a.png", "masks/a.png"),
    "hyperkvasir": ("segmented-images/images/a.png", "segmented-images/masks/a.png"),
    "clinicdb": ("Original/1.tif", "Ground Truth/1.tif"),
    "etis": ("ETIS-LaribPolypDB/12.tif", "Ground Truth/p12.tif"),
    "polypgen": ("data_C1/images_C1/x.png", "data_C1/masks_C1/x_mask.png"),
}


@pytest.mark.parametrize("layout", PAIRS)
def test_pairs(tmp_path, layout):
    image, mask = PAIRS[layout]
    put(tmp_path / image, IMAGE)
    put(tmp_path / mask, MASK)
    source = open_source(tmp_path)
    case = next(iter(source))
    assert len(source) == 1 and not source.unpaired
    assert (case.mask == (MASK > 0)).all() and case.boxes == (BOX,) and case.label == "polyp"


def test_equal_names_in_two_centres_do_not_collide(tmp_path):
    for centre in ("C1", "C2"):
        put(tmp_path / f"data_{centre}/images_{centre}/x.png", IMAGE)
        put(tmp_path / f"data_{centre}/masks_{centre}/x_mask.png", MASK if centre == "C1" else MASK * 0)
    cases = {c.name: c for c in open_source(tmp_path)}
    assert len(cases) == 2
    assert sorted(c.label for c in cases.values()) == ["normal", "polyp"]


def test_files_without_partner_are_listed(tmp_path):
    put(tmp_path / "images/a.png", IMAGE)
    put(tmp_path / "images/b.png", IMAGE)
    put(tmp_path / "masks/a.png", MASK)
    put(tmp_path / "masks/c.png", MASK)
    source = open_source(tmp_path)
    assert len(source) == 1 and sorted(p.name for p in source.unpaired) == ["b.png", "c.png"]


def test_two_masks_for_one_image_are_refused(tmp_path):
    put(tmp_path / "images/a.png", IMAGE)
    put(tmp_path / "masks/a.png", MASK)
    put(tmp_path / "masks/a_mask.png", MASK)
    with pytest.raises(UserError, match="has 2 masks"):
        open_source(tmp_path)


def test_kvasir_json(tmp_path):
    put(tmp_path / "images/a.png", IMAGE)
    box = {"label": "polyp", "xmin": 40, "ymin": 20, "xmax": 90, "ymax": 50}
    (tmp_path / "kavsir_bboxes.json").write_text(json.dumps({"a": {"height": 96, "width": 128, "bbox": [box]}}))
    case = next(iter(open_source(tmp_path)))
    assert case.boxes == (BOX,) and case.mask is None


def test_coco(tmp_path):
    put(tmp_path / "train2017/a.png", IMAGE)
    put(tmp_path / "train2017/b.png", IMAGE)
    images = [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}]
    notes = [{"id": 7, "image_id": 1, "bbox": [40, 20, 50, 30], "category_id": 1}]
    (tmp_path / "instances.json").write_text(json.dumps({"images": images, "annotations": notes, "categories": []}))
    cases = {c.name: c for c in open_source(tmp_path)}
    assert cases["a"].boxes == (BOX,) and cases["b"].label == "normal"


def test_yolo(tmp_path):
    put(tmp_path / "images/a.png", IMAGE)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_text(f"0 {65 / 128} {35 / 96} {50 / 128} {30 / 96}\n")
    assert next(iter(open_source(tmp_path))).boxes == (BOX,)
    (tmp_path / "labels/a.txt").write_text("0 0.5 0.5\n")
    with pytest.raises(UserError, match="five numbers"):
        open_source(tmp_path)


def test_ldpolypvideo(tmp_path):
    put(tmp_path / "Images/3/0001.png", IMAGE)
    put(tmp_path / "Images/3/0002.png", IMAGE)
    (tmp_path / "Annotations/3").mkdir(parents=True)
    (tmp_path / "Annotations/3/0001.txt").write_text("1\n40 20 90 50\n")
    (tmp_path / "Annotations/3/0002.txt").write_text("0\n")
    cases = list(open_source(tmp_path))
    assert cases[0].boxes == (BOX,) and cases[0].group == cases[1].group == "video-3" and cases[1].label == "normal"
    (tmp_path / "Annotations/3/0002.txt").write_text("2\n1 1 5 5\n")
    with pytest.raises(UserError, match="number of boxes"):
        open_source(tmp_path)


def test_refuge_cup_and_disc(tmp_path):
    grey = np.full((96, 128), 255, np.uint8)
    grey[20:60, 30:80] = 128
    grey[30:50, 45:65] = 0
    put(tmp_path / "images/a.png", IMAGE)
    put(tmp_path / "masks/a.bmp", grey)
    case = next(iter(open_source(tmp_path, "refuge2")))
    assert case.classes["disc"].sum() == 40 * 50 and case.classes["cup"].sum() == 20 * 20
    assert not (case.classes["cup"] & ~case.classes["disc"]).any()


def test_neopolyp_colours(tmp_path):
    colour = np.zeros((96, 128, 3), np.uint8)
    colour[10:30, 10:30, 0] = 250
    colour[50:70, 60:90, 1] = 240
    put(tmp_path / "train/train/a.png", IMAGE)
    put(tmp_path / "train_gt/train_gt/a.png", colour)
    case = next(iter(open_source(tmp_path)))
    assert case.classes["neoplastic"].sum() == 400 and case.classes["non_neoplastic"].sum() == 600
    assert case.mask.sum() == 1000
    assert open_source(tmp_path).cases[0].class_names == ("neoplastic", "non_neoplastic")


def test_normal_frames_must_be_said(tmp_path):
    put(tmp_path / "a.png", IMAGE)
    with pytest.raises(UserError, match="--layout normal"):
        open_source(tmp_path)
    assert next(iter(open_source(tmp_path, "normal"))).label == "normal"


def test_lists_give_splits_and_wrong_names_are_named(tmp_path):
    for name in "abc":
        put(tmp_path / f"images/{name}.png", IMAGE)
        put(tmp_path / f"masks/{name}.png", MASK)
    (tmp_path / "test.txt").write_text("b.png\n")
    assert {c.name: c.split for c in open_source(tmp_path).cases} == {"a": "train", "b": "test", "c": "train"}
    (tmp_path / "test.txt").write_text("zzz.png\n")
    with pytest.raises(UserError, match="zzz"):
        open_source(tmp_path)


def test_empty_and_missing_folders(tmp_path):
    with pytest.raises(UserError, match="holds no images"):
        open_source(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        open_source(tmp_path / "none")
    with pytest.raises(UserError, match="unknown layout"):
        open_source(tmp_path, "dicom")


@pytest.mark.real
def test_real_sets_open(real_data):
    kvasir = open_source(real_data / "kvasir-seg")
    assert len(kvasir) == 800 and sum(c.split == "test" for c in kvasir.cases) == 160
    polypgen = open_source(real_data / "polypgen")
    assert len(polypgen) == 992 and sum(c.split == "test" for c in polypgen.cases) == 208
    assert sum(c.label == "normal" for c in polypgen.cases) == 120


def test_folders_named_by_split_give_splits(tmp_path):
    for split, name in (("train", "a"), ("validation", "b"), ("test", "c")):
        put(tmp_path / split / "images" / f"{name}.png", IMAGE)
        put(tmp_path / split / "masks" / f"{name}.png", MASK)
    assert {c.name: c.split for c in open_source(tmp_path).cases} == {"a": "train", "b": "val", "c": "test"}


def test_image_and_mask_folders_may_hold_the_splits(tmp_path):
    for split, name in (("train", "a"), ("val", "b"), ("test", "c")):
        put(tmp_path / "images" / split / f"{name}.png", IMAGE)
        put(tmp_path / "masks" / split / f"{name}.png", MASK)
    source = open_source(tmp_path)
    assert {c.name: c.split for c in source.cases} == {"a": "train", "b": "val", "c": "test"} and not source.unpaired


def test_names_that_are_not_utf8_are_said(tmp_path):
    for part, array in (("images", IMAGE), ("masks", MASK)):
        put(tmp_path / part / "polyp.png", array)
        (tmp_path / part / "polyp.png").rename(tmp_path / part / os.fsdecode(b"M\xfcller.png"))
    with pytest.raises(UserError, match=r"M�ller.png is not UTF-8") as said:
        open_source(tmp_path)
    str(said.value).encode()  # can be printed
    next((tmp_path / "masks").iterdir()).unlink()
    put(tmp_path / "images" / "other.png", IMAGE)
    put(tmp_path / "masks" / "other.png", MASK)
    with pytest.raises(UserError, match=r"M�ller.png is not UTF-8"):  # without its mask, too
        open_source(tmp_path)


def test_a_list_that_fits_several_cases_is_refused(tmp_path):
    for video in "01":
        put(tmp_path / f"Images/{video}/1.png", IMAGE)
        (tmp_path / f"Annotations/{video}").mkdir(parents=True)
        (tmp_path / f"Annotations/{video}/1.txt").write_text("0\n")
    (tmp_path / "test.txt").write_text("1.png\n")
    with pytest.raises(UserError, match="which 2 cases have"):
        open_source(tmp_path)
    (tmp_path / "test.txt").write_text("Images_1_1\n")
    assert {c.name: c.split for c in open_source(tmp_path).cases} == {"Images_0_1": "train", "Images_1_1": "test"}


def test_one_damaged_frame_does_not_hide_the_others(tmp_path):
    put(tmp_path / "images/a.png", IMAGE)
    (tmp_path / "images/b.png").write_bytes(b"no picture")
    (tmp_path / "labels").mkdir()
    for name in "ab":
        (tmp_path / f"labels/{name}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    cases = {c.name: c for c in open_source(tmp_path).cases}
    assert cases["a"].boxes and not cases["b"].boxes
    with pytest.raises(UserError, match="b.png"):
        cases["b"].load()


@pytest.mark.parametrize("bad", ["0 0.5 0.5 0 0.2", "0 60 40 20 20"])
def test_one_bad_box_does_not_hide_the_other_frames(tmp_path, bad):
    for name, line in {"a": "0 0.5 0.5 0.2 0.2", "b": bad}.items():
        put(tmp_path / f"images/{name}.png", IMAGE)
        (tmp_path / "labels").mkdir(exist_ok=True)
        (tmp_path / f"labels/{name}.txt").write_text(line + "\n")
    source = open_source(tmp_path)
    report = check(source)
    assert report.usable == ["a"] and "b.txt, line 1" in report.of("unreadable")[0].message
    with pytest.raises(UserError, match="b.txt, line 1"):
        list(source)


def test_a_box_that_leaves_its_picture_is_a_fault(tmp_path):
    put(tmp_path / "a.png", IMAGE)
    height, width = IMAGE.shape[:2]
    for corner, usable in ((width, ["a"]), (width + 50, [])):
        (tmp_path / "boxes.json").write_text(json.dumps({"a": {"bbox": [{"xmin": 4, "ymin": 4, "xmax": corner, "ymax": height}]}}))
        report = check(open_source(tmp_path))
        assert report.usable == usable
    assert f"leaves its {width}x{height} pixels" in report.findings[0].message


@pytest.mark.parametrize("text", ["0 0.5 nan 0.1 0.2", "0 inf 0.5 0.1 0.2", "zero 0 0 0 0"])
def test_what_is_no_number_is_said(tmp_path, text):
    put(tmp_path / "images/a.png", IMAGE)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_text(text)
    with pytest.raises(UserError, match="must hold numbers only"):
        open_source(tmp_path)


def test_one_bad_coco_box_does_not_hide_the_other_frames(tmp_path):
    images, notes = [], []
    for k, width in enumerate((50, 0)):
        put(tmp_path / f"{k}.png", IMAGE)
        images.append({"id": k, "file_name": f"{k}.png"})
        notes.append({"id": k, "image_id": k, "bbox": [40, 20, width, 30]})
    (tmp_path / "instances.json").write_text(json.dumps({"images": images, "annotations": notes}))
    assert check(open_source(tmp_path)).usable == ["0"]


def test_annotations_that_are_no_boxes_are_said(tmp_path):
    put(tmp_path / "a.png", IMAGE)
    notes = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"id": 7, "image_id": 1, "bbox": []}]}
    (tmp_path / "instances.json").write_text(json.dumps(notes))
    with pytest.raises(UserError, match="not laid out as its format asks"):
        open_source(tmp_path)


def test_equal_stems_in_split_folders_keep_their_own_boxes(tmp_path):
    for split, centre in (("train", 0.3), ("val", 0.6)):
        put(tmp_path / "images" / split / "1.png", IMAGE)
        (tmp_path / "labels" / split).mkdir(parents=True)
        (tmp_path / "labels" / split / "1.txt").write_text(f"0 {centre} 0.5 0.2 0.2\n")
    cases = {c.split: c for c in open_source(tmp_path)}
    assert cases["train"].boxes[0][0] < 40 < cases["val"].boxes[0][0]


def test_nested_image_and_mask_folders_pair(tmp_path):
    for patient in ("p1", "p2"):
        put(tmp_path / "images" / patient / "1.png", IMAGE)
        put(tmp_path / "masks" / patient / "1.png", MASK)
    assert len(open_source(tmp_path)) == 2


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("cases.csv", "file,label\na,polyp\n", "no column 'name'"),
        ("cases.csv", "name,split\na,Train\n", "has the split 'Train'"),
        ("test.txt", "b.png\n", "names 'b.png'"),
        ("cases.csv", b"name,label\na,l\xe9sion\n", "no UTF-8 text"),
    ],
)
def test_bad_lists_are_named(tmp_path, name, text, words):
    put(tmp_path / "images/a.png", IMAGE)
    put(tmp_path / "masks/a.png", MASK)
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=words):
        open_source(tmp_path)


def test_spreadsheet_csv_with_a_byte_order_mark(tmp_path):
    put(tmp_path / "images/a.png", IMAGE)
    put(tmp_path / "masks/a.png", MASK)
    (tmp_path / "cases.csv").write_bytes(b"\xef\xbb\xbfname,patient\na,p7\n")
    assert open_source(str(tmp_path)).cases[0].group == "p7"


def test_malformed_coco_is_one_sentence(tmp_path):
    put(tmp_path / "a.png", IMAGE)
    (tmp_path / "i.json").write_text(json.dumps({"images": [{"id": 1}], "annotations": []}))
    with pytest.raises(UserError, match="not laid out"):
        open_source(tmp_path)


@pytest.mark.parametrize("where", ["normal/n.png", "Negative/images/n.png", "negatives/day 1/n.png"])
def test_folders_named_normal_need_no_masks(tmp_path, where):
    put(tmp_path / "images/a.png", IMAGE)
    put(tmp_path / "masks/a.png", MASK)
    put(tmp_path / where, IMAGE)
    source = open_source(tmp_path)
    shown = {c.name: c for c in source}
    assert not source.unpaired and sorted(c.label for c in shown.values()) == ["normal", "polyp"] and shown["n"].mask is None
    report = check(source)
    assert report.lesions == ["a"] and len(report.usable) == 2


def test_masks_of_a_normal_folder_are_masks(tmp_path):
    put(tmp_path / "images/normal/a.png", IMAGE)
    put(tmp_path / "masks/normal/a.png", MASK * 0)
    put(tmp_path / "images/polyp/b.png", IMAGE)
    put(tmp_path / "masks/polyp/b.png", MASK)
    source = open_source(tmp_path)
    assert len(source) == 2 and not source.unpaired and all(c.read_masks for c in source.cases)


def test_a_table_may_say_which_frames_show_nothing(tmp_path):
    for name in "abc":
        put(tmp_path / f"images/{name}.png", IMAGE)
    put(tmp_path / "masks/a.png", MASK)
    put(tmp_path / "masks/d.png", MASK)
    (tmp_path / "cases.csv").write_text("name,label,patient\na,polyp,1\nb, Normal,2\nc,,3\nd,normal,4\n")
    source = open_source(tmp_path)
    assert {c.name: c.label for c in source.cases} == {"a": "polyp", "b": "normal"} and source.cases[1].group == "2"
    assert sorted(p.name for p in source.unpaired) == ["c.png", "d.png"]  # a mask is no frame
    assert "folder named normal/" in check(source).of("unpaired")[0].message


def test_a_label_without_a_place_is_no_background(tmp_path):
    put(tmp_path / "images/a.png", IMAGE)
    row = {"image_file_name": "images/a.png", "mask_file_name": None, "boxes": [], "label": "polyp"}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row | {"label": "NORMAL"}) + "\n")
    with pytest.raises(UserError):
        open_source(tmp_path)  # two cases of one name
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row) + "\n")
    report = check(open_source(tmp_path))
    assert not report.usable and "no mask or box says where" in report.of("unmarked")[0].message
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row | {"label": "Normal"}) + "\n")
    assert not check(open_source(tmp_path)).findings or check(open_source(tmp_path)).usable


def boxed(tmp_path, kinds):
    """A COCO set of one picture with a box of each class."""
    put(tmp_path / "images/a.png", IMAGE)
    notes = [{"id": k, "image_id": 1, "bbox": [40 + k, 20, 50, 30], "category_id": k} for k in range(len(kinds))]
    categories = [{"id": k, "name": name} for k, name in enumerate(kinds)]
    content = {"images": [{"id": 1, "file_name": "images/a.png"}], "annotations": notes, "categories": categories}
    (tmp_path / "instances.json").write_text(json.dumps(content))
    return open_source(tmp_path)


def test_of_several_classes_of_boxes_one_is_taken(tmp_path):
    source = boxed(tmp_path, ["polyp", "instrument"])
    assert source.class_names == ["instrument", "polyp"] and len(source.cases[0].boxes) == 2
    assert source.of_class("polyp").cases[0].load().boxes == (BOX,)
    with pytest.raises(UserError, match="no class 'snare'"):
        source.of_class("snare")
    yolo = tmp_path / "yolo"
    put(yolo / "images/a.png", IMAGE)
    (yolo / "labels").mkdir()
    box = f"{65 / 128} {35 / 96} {50 / 128} {30 / 96}"
    (yolo / "labels/a.txt").write_text(f"\ufeff0 {box}\r\n7 0.5 0.5 0.2 0.2\r\n", encoding="utf-8")  # as some editors save it
    assert open_source(yolo).class_names == ["0", "7"]
    only = open_source(yolo).of_class("0").cases[0]
    assert only.load().boxes == (BOX,) and only.load().label == "polyp"
    none = boxed(tmp_path / "other", ["instrument"]).of_class("instrument")
    assert len(none.cases[0].boxes) == 1


def test_videos_of_one_number_in_two_parts_keep_their_own_boxes(tmp_path):
    for part, line in (("TrainValid", "40 20 90 50"), ("Test", "1 1 9 9")):
        put(tmp_path / part / "Images/1" / f"{part}.png", IMAGE)
        (tmp_path / part / "Annotations/1").mkdir(parents=True)
        (tmp_path / part / "Annotations/1" / f"{part}.txt").write_text(f"1\n{line}\n")
    cases = {c.name: c for c in open_source(tmp_path).cases}
    assert cases["TrainValid"].boxes == (BOX,) and cases["Test"].boxes == ((1, 1, 9, 9),)
    assert cases["TrainValid"].group != cases["Test"].group


def test_what_was_deleted_into_a_hidden_folder_stays_deleted(tmp_path):
    for folder in ("", ".Trash-1000/files/", ".backup/"):
        put(tmp_path / folder / "images" / f"a{len(folder)}.png", IMAGE)
        put(tmp_path / folder / "masks" / f"a{len(folder)}.png", MASK)
    (tmp_path / ".x").mkdir()
    (tmp_path / ".x/settings.json").write_text("{")
    assert [c.name for c in open_source(tmp_path).cases] == ["a0"]


@pytest.mark.parametrize(
    "folders", [("TrainDataset", "TestDataset/CVC-300"), ("training", "testing"), ("train2017", "Test_2018"), ("dev", "test")]
)
def test_split_folders_by_their_usual_names(tmp_path, folders):
    for k, folder in enumerate(folders):
        put(tmp_path / folder / "images" / f"a{k}.png", IMAGE)
        put(tmp_path / folder / "masks" / f"a{k}.png", MASK)
    splits = {c.name: c.split for c in open_source(tmp_path).cases}
    assert splits == {"a0": "val" if folders[0] == "dev" else "train", "a1": "test"}


@pytest.mark.parametrize("head", ["name, split,Patient", "NAME,Split, patient", "name,split,patient"])
def test_columns_are_known_however_they_are_spaced_or_written(tmp_path, head):
    for name in ("a", "b"):
        put(tmp_path / "images" / f"{name}.png", IMAGE)
        put(tmp_path / "masks" / f"{name}.png", MASK)
    (tmp_path / "cases.csv").write_text(f"{head}\na, test , p1\nb,train,p2\n")
    assert [(c.split, c.group) for c in open_source(tmp_path).cases] == [("test", "p1"), ("train", "p2")]


def test_a_list_of_training_cases_alone_must_name_all(tmp_path):
    for name in ("a", "frame 1 "):
        put(tmp_path / "images" / f"{name}.png", IMAGE)
        put(tmp_path / "masks" / f"{name}.png", MASK)
    (tmp_path / "train.txt").write_text("a\r\n")
    with pytest.raises(UserError, match=r"nothing says what the 1 others are for \('frame 1 ' ...\)"):
        open_source(tmp_path)
    (tmp_path / "test.txt").write_text("frame 1 \n")  # a name as `data split` writes it
    assert {c.name: c.split for c in open_source(tmp_path).cases} == {"a": "train", "frame 1 ": "test"}
