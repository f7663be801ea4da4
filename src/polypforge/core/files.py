"""Files appear whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

from polypforge.core.errors import UserError

_UMASK = os.umask(0)  # the only way to ask for it is to set it
os.umask(_UMASK)


def visible(root: Path, pattern: str) -> list[Path]:
    """Files and folders below `root` whose name fits, sorted; what is hidden, or lies in a hidden folder, is passed over."""
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [f for f in folders if not f.startswith(".")]
        found += [Path(folder) / n for n in (*folders, *names) if not n.startswith(".") and fnmatch(n, pattern)]
    return sorted(found)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the same folder; renames it to `path` when the block ends well, else removes it.

    Raises UserError when the folder can't be written or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".partial-", suffix=path.suffix, dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise UserError(f"{path.parent} can't be written ({error.strerror}): choose another output folder or free some space.") from error
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o666 & ~_UMASK)  # temporary files are for their owner alone
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path} can't be written ({error.strerror or error}): choose another output folder or free some space.") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: Path, content: bytes) -> None:
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # some editors put a mark in front
    except FileNotFoundError:
        raise UserError(f"{path}: no such file.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error}.") from error
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror}).") from error


def read_json(path: Path) -> Any:
    try:
        return json.loads(_text_of(path))
    except (ValueError, RecursionError) as error:  # also an integer of thousands of digits, and thousands of brackets
        raise UserError(f"{path} is not valid JSON ({error}): mend it, or where a command here wrote it restore it.") from error


def read_json_object(path: Path) -> dict[str, Any]:
    found = read_json(path)
    if not isinstance(found, dict):
        raise UserError(f"{path} must hold a JSON object: mend it, or where a command here wrote it restore it.")
    return found


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """All rows; blank lines are passed over. A line that is not a JSON object is an error that names it."""
    rows = []
    for number, line in enumerate(_text_of(path).split("\n"), 1):  # splitlines would also break inside texts, at U+2028 and its like
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number}, is not valid JSON ({error}): mend or remove the line.") from error
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}, must be a JSON object.")
        rows.append(row)
    return rows


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_of(path: Path) -> str:
    """`sha256_of`, read once in each process as long as size and change time stay the same. A copy of a file keeps its content, not its
    change time: so this tells whether data are the same."""
    try:
        known = path.stat()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file.") from None
    return _content(path, known.st_size, known.st_mtime_ns)


@cache
def _content(path: Path, size: int, changed_ns: int) -> str:
    return sha256_of(path)


def inside(folder: Path, relative: str) -> Path:
    """`folder / relative`, refused when it would leave `folder` (absolute paths, `..`, links)."""
    path = (folder / relative).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise UserError(f"{relative!r} points outside {folder}: file names in a manifest must stay inside its folder.")
    return path


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Yields a temporary folder beside `target`; when the block ends well it takes the place of `target`, else it goes."""
    partial = target.parent / f".partial-{target.name}-{os.getpid()}"
    aside = target.parent / f".old-{target.name}-{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{target.parent} can't be written ({error.strerror}): choose another output folder or free some space.") from error
    try:
        yield partial
        if target.exists():
            os.replace(target, aside)
        os.replace(partial, target)
    finally:
        if aside.exists() and not target.exists():  # the exchange was cut short: the old one stays
            os.replace(aside, target)
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(partial, ignore_errors=True)
