"""The command line, in this process: to start another one takes longer than most commands do."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from unittest.mock import patch

import pytest

from polypforge.cli.main import main


def polypforge(*words: object, cwd: Path | None = None) -> int | str | None:
    """Exit code of `polypforge WORDS` in the folder `cwd`. A Ray that it starts ends with it, as with a process: later tests start their own."""
    had_ray = _has_ray()
    try:
        with (
            patch.object(sys, "argv", ["polypforge", *map(str, words)]),
            contextlib.chdir(cwd or Path.cwd()),
            pytest.raises(SystemExit) as ended,
        ):
            main()
    finally:
        if _has_ray() and not had_ray:
            sys.modules["ray"].shutdown()
    return ended.value.code


def _has_ray() -> bool:
    return "ray" in sys.modules and sys.modules["ray"].is_initialized()
