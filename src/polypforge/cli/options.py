"""Options that several commands share, and how results are printed."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

import typer

from polypforge.core.errors import UserError

Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="The same seed gives the same result.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Offline = Annotated[bool, typer.Option("--offline", help="Never touch the network.")]
JsonOut = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave files out that can't be used, instead of stopping.")]
BatchSize = Annotated[int, typer.Option(help="Images that the networks see at once.")]
Steps = Annotated[int | None, typer.Option(help="Steps of the sampler in place of the recipe's own: fewer are faster; docs/forge.md.")]
GateFile = Annotated[str, typer.Option(help="Gates: starter, boxes, none, or a YAML file; docs/gates.md.")]
Judges = Annotated[
    list[str] | None, typer.Option(help="A judge in place of the file's: run, folder, hub id, starter:NAME; may be repeated.")
]
Thresholds = Annotated[list[str] | None, typer.Option(help="Another threshold for one gate: label_agreement=0.8; may be repeated.")]
Engine = Annotated[str, typer.Option(help="local, or ray: worker processes on a cluster (RAY_ADDRESS) or on this machine.")]
Workers = Annotated[int | None, typer.Option(help="Workers of --engine ray; default: one for each GPU, or for each core.")]
Layout = Annotated[str, typer.Option(help="Layout of the data; `polypforge data import --help` lists them.")]

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def duration(text: str | None) -> float | None:
    """Seconds of "90s", "15m" or "2h"."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh])", text.strip())
    if not match or float(match[1]) <= 0:
        raise UserError(f"--budget {text}: write it as 90s, 15m or 2h.")
    return float(match[1]) * _UNITS[match[2]]


def thresholds(texts: list[str] | None) -> dict[str, float]:
    """{"label_agreement": 0.8} of ["label_agreement=0.8"]."""
    found = {}
    for text in texts or ():
        name, _, value = text.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            raise UserError(f"--threshold {text}: write it as gate=number, for example label_agreement=0.8.") from None
    return found


def emit(result: dict[str, Any], as_json: bool, text: str) -> None:
    """The result on stdout: JSON for programs, or a line for people."""
    print(json.dumps(result, indent=2, ensure_ascii=False, default=str) if as_json else text)
