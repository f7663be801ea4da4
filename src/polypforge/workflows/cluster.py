"""Shards of work on a Ray cluster: workers that keep their networks loaded, and a shard handed on when its worker dies.

The cluster is the one that RAY_ADDRESS names, or this machine. All machines must see the data and the output under the same paths.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from polypforge.core.errors import UserError

ENGINES = ("local", "ray")
RETRIES = 3  # a shard that has killed so many workers is at fault itself
PATIENCE_S = 300  # for the first worker to start, on a cluster that others use, too

LATE_S = 90  # for what other machines wrote to be seen here


class Worker(Protocol):
    """Made once in each process, from arguments that can be pickled and from `device`, "cuda" or "cpu"."""

    def run(self, shard: Any) -> Any: ...


def refuse_engine(engine: str, workers: int | None) -> None:
    """Raises UserError for an unknown engine, and for workers that nothing asked for."""
    if engine not in ENGINES:
        raise UserError(f"--engine {engine}: choose {' or '.join(ENGINES)}.")
    if workers is not None and (engine == "local" or workers < 1):
        raise UserError("--workers is a number from 1 on and belongs to --engine ray.")
    if engine == "ray" and importlib.util.find_spec("ray") is None:
        raise UserError("--engine ray needs Ray: pip install 'polypforge[ray]'.")


def wait_until_seen(missing: Callable[[], int], what: str, folder: Path) -> None:
    """Until nothing that workers wrote is missing any more: shared disks take their time. Raises UserError after LATE_S."""
    until = time.monotonic() + LATE_S
    while count := missing():
        if time.monotonic() > until:
            raise UserError(f"{count} {what} that workers wrote can't be seen in {folder}: repeat the command.")
        time.sleep(1)


def places(device: str) -> int:
    """How many workers the cluster has room for: one for each GPU, where they are to use them, or for each core."""
    return _room(*_nodes(_ray(), device))


def _room(nodes: Sequence[dict[str, float]], gpu: bool) -> int:
    return sum(int(node.get("GPU" if gpu else "CPU", 0)) for node in nodes)


def _nodes(ray: Any, device: str) -> tuple[list[dict[str, float]], bool]:
    """What each machine has, and whether workers use GPUs: where they are asked to, or with "auto" where there are any."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return nodes, device.startswith("cuda") or (device == "auto" and any(node.get("GPU", 0) >= 1 for node in nodes))


def on_cluster(
    make: Callable[..., Worker], arguments: tuple, shards: Sequence[Any], workers: int | None = None, device: str = "auto"
) -> Iterator[Any]:
    """What `make(*arguments, device).run(shard)` gave, in the order in which shards end.

    workers: how many at a time, at most one a shard; by default one for each GPU, or for each core. device: "auto" means GPUs where the
    cluster has any. When a worker dies, or its machine, its shard goes to the next one that is free, and another is started where there is
    room. Raises UserError when the cluster has no room for so many workers, when none can start, when a shard has killed more than RETRIES
    of them, and what a worker raises.
    """
    if not shards:
        return
    ray = _ray()
    nodes, gpu = _nodes(ray, device)
    cpus, room = [int(node.get("CPU", 0)) for node in nodes], _room(nodes, gpu)
    count = min(workers or max(1, room), len(shards))
    if count > room:
        raise UserError(f"the cluster has {room} {'GPUs' if gpu else 'cores'} for {count} workers: ask for fewer with --workers.")
    if gpu:
        cores = max(1, min((int(node.get("CPU", 0) // node["GPU"]) for node in nodes if node.get("GPU", 0) >= 1), default=1))
    else:  # a worker lies on one machine
        cores = next(c for c in range(max(cpus), 0, -1) if sum(n // c for n in cpus) >= count)
    actor = ray.remote(num_cpus=cores, num_gpus=int(gpu))(_Hosted)
    given = ray.put((*arguments, "cuda" if gpu else "cpu"))  # once, however many workers there are
    crew = _Crew(ray, lambda: actor.remote(make, given, cores, Path.cwd()), shards)
    try:
        crew.start(count)
        while crew.busy:
            yield from crew.next_answers(f"the cluster is busy, or too small for {cores} cores a worker")
    finally:
        crew.dismiss()


class _Crew:
    """Workers, and the shards that wait for one. Ray could start a dead worker again by itself, but would tie the shard to it, and where
    its machine is gone and the others are full it would wait for ever."""

    def __init__(self, ray: Any, hire: Callable[[], Any], shards: Sequence[Any]) -> None:
        self._ray, self._hire = ray, hire
        self._waiting = deque((shard, 0) for shard in shards)  # with the number of workers that each has cost
        self._starting: dict[Any, Any] = {}  # what is waited for, and the worker
        self._running: dict[Any, tuple[Any, tuple[Any, int]]] = {}
        self._idle: list[Any] = []
        self._false_starts = self._patience = 0

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._running)

    def start(self, count: int) -> None:
        self._patience = RETRIES + count  # a machine that goes as it starts may take many with it
        for _ in range(count):
            self._hire_one()

    def _hire_one(self) -> None:
        worker = self._hire()
        self._starting[worker.ready.remote()] = worker

    def next_answers(self, why_none_starts: str) -> list[Any]:
        """Waits until something ends: the answer of a shard, or none where a worker was started or lost."""
        patience = None if self._running else PATIENCE_S
        ended, _ = self._ray.wait([*self._starting, *self._running], num_returns=1, timeout=patience)
        if not ended:
            raise UserError(f"no worker could start within {PATIENCE_S} s: {why_none_starts}.")
        worker, entry = self._running.pop(ended[0], None) or (self._starting.pop(ended[0]), None)
        lost = self._ray.exceptions
        answers = []
        try:
            answer = self._ray.get(ended[0])
        except lost.RayTaskError as error:
            raise _told(error) from None
        except (lost.RayActorError, lost.OutOfMemoryError, lost.ObjectLostError) as error:
            self._count(error, entry)
            self._ray.kill(worker)  # it may only be out of reach
            self._starting |= {idle.ready.remote(): idle for idle in self._idle}  # whose machine may be gone, too
            self._idle = []
            self._hire_one()
        else:
            self._false_starts = 0
            self._idle.append(worker)
            answers = [answer] if entry else []
        while self._idle and self._waiting:
            worker, entry = self._idle.pop(), self._waiting.popleft()
            self._running[worker.run.remote(entry[0])] = worker, entry
        return answers

    def _count(self, error: Exception, entry: tuple[Any, int] | None) -> None:
        """A worker is lost, with the shard of `entry` or as it started: what it did waits again, unless that is hopeless."""
        if entry is None:
            self._false_starts += 1
            if getattr(error, "actor_init_failed", False) or self._false_starts > self._patience:
                why = str(error).strip().splitlines()[-1]
                raise UserError(f"a worker could not start ({why}): every machine needs the same PolypForge.") from None
        else:
            shard, lost = entry[0], entry[1] + 1
            if lost > RETRIES:
                raise UserError(f"a shard killed its worker {lost} times, perhaps for want of memory: try smaller batches.") from None
            self._waiting.appendleft((shard, lost))

    def dismiss(self) -> None:
        for worker in [*self._starting.values(), *(worker for worker, _ in self._running.values()), *self._idle]:
            self._ray.kill(worker)


def _told(error: Any) -> Exception:
    """What a worker raised, as the user should hear it."""
    from polypforge.models.memory import is_out_of_memory

    if isinstance(error.cause, UserError):
        return error.cause
    if is_out_of_memory(error.cause):
        return UserError("a worker's device has too little memory for its batch: ask for fewer workers, or for smaller batches.")
    return error


class _Hosted:
    """A worker in a process of Ray's, with its share of threads."""

    def __init__(self, make: Callable[..., Worker], arguments: tuple, threads: int, here: Path) -> None:
        import cv2
        import torch

        if here.is_dir():
            os.chdir(here)  # names of folders mean what they mean where the command runs
        torch.set_num_threads(threads)
        cv2.setNumThreads(threads)
        self.made = make, arguments
        self.worker: Worker | None = None

    def ready(self) -> bool:
        return True

    def run(self, shard: Any) -> Any:
        if self.worker is None:  # here, not above: what it raises then is the shard's answer, not the actor's death
            make, arguments = self.made
            self.worker = make(*arguments)
        return self.worker.run(shard)


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    import ray

    if not ray.is_initialized():
        try:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(f"no Ray cluster can be reached ({str(error).splitlines()[0]}): see RAY_ADDRESS.") from error
    return ray
