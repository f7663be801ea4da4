"""Where progress and notices go: stderr, so that stdout holds results only."""

from rich.console import Console

console = Console(stderr=True, highlight=False, soft_wrap=True)
