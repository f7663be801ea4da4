import os
import subprocess
import sys

import pytest

from polypforge.core.errors import UserError
from polypforge.core.files import content_of, inside, read_json, read_jsonl, whole_file, whole_folder, write_jsonl


def test_a_failed_write_leaves_the_old_file_and_no_partial(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), whole_file(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_files_are_as_private_as_the_process_asks(tmp_path):
    """The umask is read once, at the start: another process shows it."""
    ask = "import os; os.umask(0o077)\nfrom pathlib import Path\nfrom polypforge.core.files import write_text\nwrite_text(Path('a'), 'b')"
    subprocess.run([sys.executable, "-c", ask], cwd=tmp_path, check=True)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError), whole_folder(tmp_path / "f") as folder:
        (folder / "x").write_text("1")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with whole_folder(tmp_path / "f") as folder:
        (folder / "x").write_text("1")
    assert (tmp_path / "f" / "x").read_text() == "1"


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../secret"])
def test_manifests_cannot_point_outside(tmp_path, name):
    with pytest.raises(UserError, match="outside"):
        inside(tmp_path, name)


def test_links_that_leave_the_folder_are_refused(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "link").symlink_to(tmp_path)
    with pytest.raises(UserError):
        inside(tmp_path / "data", "link/x")


def test_content_outlives_copying_and_tells_a_change_of_equal_size(tmp_path):
    (tmp_path / "a").write_bytes(b"frame 1")
    first = content_of(tmp_path / "a")
    os.utime(tmp_path / "a", ns=(1, 1))
    assert content_of(tmp_path / "a") == first
    (tmp_path / "a").write_bytes(b"frame 2")
    assert content_of(tmp_path / "a") != first


def test_bad_json_line_is_named(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"a": 1}\n\n{oops}\n')
    with pytest.raises(UserError, match="line 3"):
        read_jsonl(path)
    rows = [{"a": 1}, {"b": "ü"}, {"c": "two\u2028lines\x85"}]
    write_jsonl(path, rows)
    assert read_jsonl(path) == rows
    for read in (read_jsonl, read_json):
        with pytest.raises(UserError, match="can't be read"):
            read(tmp_path)


def test_a_mark_before_the_text_and_too_many_brackets(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + b'{"a": 1}\r\n')
    assert read_jsonl(tmp_path / "a.jsonl") == [{"a": 1}]
    (tmp_path / "a.jsonl").write_text("[" * 100_000)
    with pytest.raises(UserError, match="line 1, is not valid JSON"):
        read_jsonl(tmp_path / "a.jsonl")
    with pytest.raises(UserError, match="mend it"):
        read_json(tmp_path / "a.jsonl")


def test_unwritable_folder_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="can't be written"), whole_file(tmp_path / "file" / "below"):
        pass
