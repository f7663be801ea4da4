"""What the README points to is there, and set-up names no host."""

import re

from tests.readme.commands import README, ROOT


def test_links_and_pictures_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_no_registry_host_is_named():
    for name in ("constraints.txt", "pyproject.toml", "Makefile", "README.md"):
        assert not re.search(r"https?://|--index-url|--find-links", (ROOT / name).read_text())
