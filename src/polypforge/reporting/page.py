"""The report: one HTML page that needs no other file and runs no script."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from polypforge.core.files import write_text


@dataclass
class Picture:
    uri: str
    caption: str


@dataclass
class Page:
    """What the page shows; every text is escaped, only `charts` are inserted as they are (they are made by `charts`)."""

    title: str
    lead: str
    numbers: list[dict[str, str]]
    warnings: list[str] = field(default_factory=list)
    accepted: list[Picture] = field(default_factory=list)
    rejected: list[Picture] = field(default_factory=list)
    reasons: list[dict[str, Any]] = field(default_factory=list)
    charts: list[str] = field(default_factory=list)
    neighbours: list[Picture] = field(default_factory=list)
    neighbours_text: str = ""
    findings: list[dict[str, Any]] = field(default_factory=list)
    loading: str = ""
    settings: list[dict[str, str]] = field(default_factory=list)


def write_page(path: Path, page: Page) -> None:
    template = (files("polypforge.reporting") / "page.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    write_text(path, environment.from_string(template).render(**vars(page)))
