import json
import subprocess
import sys
import time

import pytest

from polypforge import __version__
from polypforge.cli.options import duration
from polypforge.core.errors import UserError
from polypforge.core.images import write_png
from polypforge.data.layouts import open_source
from polypforge.phantom.render import render
from tests.command_line import polypforge

COMMANDS = [
    [],
    ["demo"],
    ["expand"],
    ["train"],
    ["generate"],
    ["gate"],
    ["evaluate"],
    ["bench"],
    ["starter"],
    ["data"],
    ["data", "check"],
    ["data", "import"],
    ["data", "split"],
]


def test_help_imports_nothing_heavy_and_every_command_has_it():
    code = "import sys, polypforge.cli.main; print([m for m in ('torch', 'diffusers', 'cv2', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
    fastest = 9.0
    for command in COMMANDS:
        started = time.monotonic()
        done = subprocess.run([sys.executable, "-m", "polypforge", *command, "--help"], capture_output=True, text=True, timeout=300)
        fastest = min(fastest, time.monotonic() - started)
        assert done.returncode == 0 and "Usage" in done.stdout
    assert fastest < 1.0


@pytest.mark.parametrize(
    "arguments",
    [
        ["expand", "nowhere", "--out", "o", "--num", "3"],
        ["expand", "nowhere", "--out", "o", "--num", "0"],
        ["expand", "nowhere"],
        ["expand", "nowhere", "--out", "o", "--num", "three"],
        ["expand", "nowhere", "--out", "o", "--num", "3", "--budget", "soon"],
        ["generate", "--data", "nowhere", "--out", "o"],
        ["generate", "--data", "nowhere", "--out", "o", "--num", "3", "--shard", "3/2"],
        ["gate", "nowhere"],
        ["train", "nothing", "--out", "o"],
        ["data", "check", "nowhere"],
        ["bench", "--out", "o", "--only", "flying"],
        ["bench", "--out", "o", "--rounds", "1"],
        ["bench", "--out", "o", "--only", "sampling", "--model", "starter:window_segmenter"],
        ["evaluate", "nowhere", "elsewhere", "--out", "o", "--engine", "slurm"],
        ["gate", "nowhere", "--workers", "2"],
        ["expand", "nowhere", "--out", "o", "--num", "3", "--batch-size", "0"],
        ["references", "nowhere", "--out", "o", "--batch-size", "0"],
        ["expand", "nowhere", "--out", "o", "--num", "3", "--recipe", "copy_paste", "--budget", "5m"],
        ["train", "copy_paste", "--out", "o", "--budget", "5m"],
        ["starter", "--data", "nowhere", "--out", "o", "--budget-share", "nan"],
        ["train", "forge", "--out", "o", "--set", "training.seed=2020-13-45"],
        ["data", "check", "a" * 300],
        ["nonsense"],
    ],
)
def test_mistakes_are_one_sentence_and_exit_code_2(arguments, tmp_path, capsys):
    assert polypforge(*arguments, cwd=tmp_path) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said and said.strip().startswith("polypforge:")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def kvasir_like(tmp_path):
    root = tmp_path / "kvasir like"
    for i in range(6):
        case = render(i, 160, polyps=1)
        write_png(root / "images" / f"bild ä{i}.png", case.image)
        write_png(root / "masks" / f"bild ä{i}.png", case.mask)
    return root


def test_the_version_is_told(capsys):
    assert polypforge("--version") == 0
    assert capsys.readouterr().out.strip() == __version__


def test_check_import_split(kvasir_like, tmp_path, capsys):
    assert polypforge("data", "check", kvasir_like, "--json", "--overlays", tmp_path / "overlays") == 0
    report = json.loads(capsys.readouterr().out)
    assert len(report["usable"]) == 6
    assert len(list((tmp_path / "overlays").iterdir())) == 6
    assert polypforge("data", "import", kvasir_like, "--out", tmp_path / "set") == 0
    assert polypforge("data", "import", kvasir_like, "--out", tmp_path / "set") == 2
    assert polypforge("data", "import", kvasir_like, "--out", tmp_path / "cups", "--class", "cup") == 2
    assert not (tmp_path / "cups").exists()
    assert len(open_source(tmp_path / "set")) == 6
    capsys.readouterr()
    assert polypforge("data", "split", tmp_path / "set", "--json") == 0
    first = json.loads(capsys.readouterr().out)
    assert first["crossing"] == 0 and sum(first["counts"].values()) == 6
    before = {c.name: c.split for c in open_source(tmp_path / "set").cases}
    assert polypforge("data", "split", tmp_path / "set", "--seed", "5") == 0
    assert {c.name: c.split for c in open_source(tmp_path / "set").cases} == before


def test_the_folder_one_is_in_is_not_replaced(kvasir_like, tmp_path, monkeypatch, capsys):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert polypforge("data", "import", kvasir_like, "--out", ".") == 2 and "name a new one" in capsys.readouterr().err


def test_pictures_that_a_data_set_does_not_list_are_told(kvasir_like, tmp_path, capsys):
    assert polypforge("data", "import", kvasir_like, "--out", tmp_path / "set") == 0
    assert polypforge("data", "check", tmp_path / "set") == 0 and "nothing sees them" not in capsys.readouterr().err
    write_png(tmp_path / "set" / "images" / "late.png", render(0, 160).image)
    assert polypforge("data", "check", tmp_path / "set") == 0
    assert "1 pictures in" in (told := capsys.readouterr().err.replace("\n", " ")) and "late.png" in told


def test_files_that_come_later_are_split_as_the_first_ones_were(kvasir_like):
    """Also with the lists in the folder itself, where what no list names is read as `train`."""
    half = ("data", "split", kvasir_like, "--out", kvasir_like, "--shares", "0.5,0.25,0.25")
    assert polypforge(*half) == 0
    before = {c.name: c.split for c in open_source(kvasir_like).cases}
    for i in range(10, 24):
        case = render(i, 160, polyps=1)
        write_png(kvasir_like / "images" / f"{i}.png", case.image)
        write_png(kvasir_like / "masks" / f"{i}.png", case.mask)
    assert polypforge(*half) == 0
    after = {c.name: c.split for c in open_source(kvasir_like).cases}
    assert before.items() <= after.items()
    late = [split for name, split in after.items() if name not in before]
    assert late.count("train") < len(late) and late.count("test") > 0


def test_lists_keep_what_cannot_be_read_and_overlays_overwrite_nothing(kvasir_like, tmp_path, capsys):
    names = sorted(p.stem for p in (kvasir_like / "images").iterdir())
    (kvasir_like / "test.txt").write_text("\n".join(names[:2]) + "\n", encoding="utf-8")
    whole = (kvasir_like / "images" / f"{names[0]}.png").read_bytes()
    (kvasir_like / "images" / f"{names[0]}.png").write_bytes(whole[:500])
    assert polypforge("data", "split", kvasir_like, "--out", kvasir_like, "--shares", "0.8,0.1,0.1") == 0
    assert names[0] in capsys.readouterr().err
    assert set((kvasir_like / "test.txt").read_text(encoding="utf-8").split("\n")) >= set(names[:2])
    assert polypforge("data", "split", kvasir_like, "--out", kvasir_like, "--shares", "nan,0.5,0.5") == 2
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.png").touch()
    assert polypforge("data", "check", kvasir_like, "--overlays", tmp_path / "mine") == 2


def test_check_says_by_its_exit_code_that_files_are_bad(kvasir_like, capsys):
    (kvasir_like / "images" / "torn.png").write_text("x")
    write_png(kvasir_like / "masks" / "torn.png", render(0, 160).mask)
    assert polypforge("data", "check", kvasir_like) == 1 and "torn.png" in capsys.readouterr().out


def test_durations():
    assert (duration("90s"), duration("15m"), duration("1.5h"), duration(None)) == (90, 900, 5400, None)
    for text in ("15", "m", "-3m", "0s", "1d"):
        with pytest.raises(UserError):
            duration(text)
