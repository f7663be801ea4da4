"""Memory that runs out: how PyTorch says so, and work in batches that fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from polypforge.core.console import console
from polypforge.core.errors import UserError

T = TypeVar("T")
U = TypeVar("U")


class NoRoom(UserError):
    """Not even a single item fits the device."""


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether `error` says that a GPU or this machine has no more memory. PyTorch has a class for GPUs alone."""
    on_cpu = isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    return on_cpu or isinstance(error, torch.OutOfMemoryError | MemoryError)


def free_memory(tried: int) -> int:
    """Call it when the error of a batch of `tried` items is gone, which held on to what had filled the memory: says, and returns, how many
    to go on with. Raises NoRoom where there is nothing to halve."""
    if tried == 1:
        raise NoRoom("the device has too little memory for a single image: use --device cpu, or a smaller model.")
    torch.cuda.empty_cache()
    console.print(f"Out of memory with {tried} images at once: going on with {tried // 2}.")
    return tried // 2


@dataclass
class Room:
    """How many items a device works on at once: halved when they turn out to be too many, and remembered."""

    most: int

    def run(self, work: Callable[[Sequence[T]], Sequence[U]], items: Sequence[T]) -> list[U]:
        """`work`, which gives one result an item, on all of them. Raises NoRoom when a single one doesn't fit."""
        done: list[U] = []
        while len(done) < len(items):
            part = items[len(done) : len(done) + self.most]
            try:
                done.extend(work(part))
                continue
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            self.most = free_memory(len(part))
        return done
