"""The folder of a run: it remembers its settings, so that the same command resumes it and another one is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from polypforge.core.errors import UserError
from polypforge.core.files import read_json_object, write_json
from polypforge.generation.writer import read_requests

RUN_FILE = "run.json"
LOCK = ".lock"  # held by the process that works in the folder
FILES = "files"  # the setting that holds the state of the data, see `workflows.opened.files_of`


def resumes(folder: Path, command: str, settings: dict[str, Any]) -> bool:
    """True when `folder` holds this very run already, False when it is free. Writes nothing.

    Raises UserError when the folder holds something else, or a run with other settings, naming one that differs.
    """
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        raise UserError("the name of the output folder is not UTF-8: choose another one.") from None
    path = folder / RUN_FILE
    if path.exists():
        stored = read_json_object(path)
        if stored.get("command") != command:
            raise UserError(f"{folder} holds a run of `polypforge {stored.get('command')}`: choose another output folder.")
        given, known = json.loads(json.dumps(settings)), stored.get("settings") or {}  # as stored: tuples are lists there
        for key in sorted(given.keys() | known.keys(), key=lambda key: key == FILES):
            if known.get(key) == given.get(key):
                continue
            if key == FILES:
                raise UserError(f"{folder} holds a run on other data: files were added, changed or lost since. Choose another folder.")
            raise UserError(
                f"{folder} holds a run with {key} = {known.get(key)!r}, not {given.get(key)!r}: "
                "repeat that command to resume it, or choose another output folder."
            )
        return True
    if folder.exists() and (not folder.is_dir() or any(p.name != LOCK for p in folder.iterdir())):
        raise UserError(f"{folder} exists and is no run of `polypforge {command}`: choose another output folder.")
    return False


_HELD: dict[Path, FileLock] = {}  # by this process, till it ends


def claim(folder: Path, command: str, settings: dict[str, Any]) -> None:
    """Take `folder` for a run. Raises UserError as `resumes` does, and while another process is at work there."""
    going_on = resumes(folder, command, settings)
    lock = folder.resolve() / LOCK
    if lock not in _HELD:
        held = FileLock(lock, thread_local=False)
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            held.acquire(timeout=0)
        except Timeout:
            raise UserError(f"another process is at work in {folder}: wait for it, or choose another output folder.") from None
        except OSError as error:
            raise UserError(f"{folder} can't be written ({error.strerror}): choose another output folder.") from error
        _HELD[lock] = held
    if not going_on:
        write_json(folder / RUN_FILE, {"command": command, "settings": settings})


def refuse_occupied(out: Path) -> None:
    """A new data set, or a set of pictures, goes to a folder of its own."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not empty: choose a new folder.")
    if out.resolve() == Path.cwd():
        raise UserError(f"{out} is the folder that this command runs in, which can't be replaced: name a new one.")


def refuse_other_file(out: Path, data: Path) -> None:
    """A list of requests goes to a new file, or takes the place of another list, and never lies among the data."""
    if out.resolve().is_relative_to(data.resolve()):
        raise UserError(f"{out} would lie among the data in {data}: choose another place for the list.")
    if out.exists():
        try:
            read_requests(out)
        except UserError:
            raise UserError(f"{out} exists and is no list of requests: choose another file.") from None


def refuse_nesting(data: Path, out: Path) -> None:
    """A result inside its own data would be read as data the next time."""
    data, out = data.resolve(), out.resolve()
    if out.is_relative_to(data) or data.is_relative_to(out):
        raise UserError(f"{out} and {data} lie inside each other: choose an output folder beside the data.")


def versions() -> dict[str, str]:
    """Versions that matter for reproducing a run."""
    from importlib.metadata import version

    import polypforge

    found = {"polypforge": polypforge.__version__}
    return found | {name: version(name) for name in ("torch", "diffusers", "numpy", "opencv-python-headless")}
