"""One function over many items, on all cores and with a progress bar, for work that OpenCV, faiss and files do beside Python."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import cv2
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from polypforge.core.console import console

T = TypeVar("T")
R = TypeVar("R")


def each(what: str, function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """function of every item, in order, on as many threads as OpenCV may use. `what` stands beside the bar."""
    pool = ThreadPoolExecutor(max(1, cv2.getNumThreads()))
    try:
        return list(shown(what, pool.map(function, items), len(items)))
    finally:
        pool.shutdown(cancel_futures=True)


def shown(what: str, items: Iterable[T], total: int | None = None) -> Iterator[T]:
    """The items, with a bar that follows them."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        yield from bar.track(items, total=total)
