"""The folder of a run: it remembers its settings, so that the same command resumes it and another one is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from polypforge.core.errors import UserError
from polypforge.core.files import read_json, write_json

RUN_FILE = "run.json"


def claim(folder: Path, command: str, settings: dict[str, Any]) -> bool:
    """Take `folder` for a run of `command` with `settings`. True when it holds that very run already, to be resumed.

    Raises UserError when the folder holds something else, or a run with other settings, naming the first that differs.
    """
    path = folder / RUN_FILE
    if path.exists():
        stored = read_json(path)
        if stored.get("command") != command:
            raise UserError(f"{folder} holds a run of `polypforge {stored.get('command')}`: choose another output folder.")
        for key, value in settings.items():
            if stored["settings"].get(key) != value:
                raise UserError(
                    f"{folder} holds a run with {key} = {stored['settings'].get(key)!r}, not {value!r}: "
                    "repeat that command to resume it, or choose another output folder."
                )
        return True
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is no run of `polypforge {command}`: choose another output folder.")
    write_json(path, {"command": command, "settings": settings})
    return False


def versions() -> dict[str, str]:
    """Versions that matter for reproducing a run."""
    from importlib.metadata import version

    import polypforge

    found = {"polypforge": polypforge.__version__}
    return found | {name: version(name) for name in ("torch", "diffusers", "numpy", "opencv-python-headless")}
