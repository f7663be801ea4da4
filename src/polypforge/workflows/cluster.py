"""Shards of work on a Ray cluster: workers that keep their networks loaded, and a shard handed on when its worker dies.

The cluster is the one that RAY_ADDRESS names, or this machine. All machines must see the data and the output under the same paths.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
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


def wait_until_seen(missing: Callable[[], int], what: str, folder: Path) -> None:
    """Until nothing that workers wrote is missing any more: shared disks take their time. Raises UserError after LATE_S."""
    until = time.monotonic() + LATE_S
    while count := missing():
        if time.monotonic() > until:
            raise UserError(f"{count} {what} that workers wrote can't be seen in {folder}: repeat the command.")
        time.sleep(1)


def on_cluster(
    make: Callable[..., Worker], arguments: tuple, shards: Sequence[Any], workers: int | None = None, device: str = "auto"
) -> Iterator[Any]:
    """What `make(*arguments, device).run(shard)` gave, in the order in which shards end.

    workers: how many at a time, at most one a shard; by default one for each GPU, or for each core. device: "auto" means GPUs where the
    cluster has any. A worker that dies is started again and its shard run again, RETRIES times. Raises UserError when the cluster has no
    room for so many workers, when none can start, and what a worker raises.
    """
    if not shards:
        return
    ray = _ray()
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    gpu = device.startswith("cuda") or (device == "auto" and gpus > 0)
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    room = gpus if gpu else sum(cpus)
    count = min(workers or max(1, room), len(shards))
    if count > room:
        raise UserError(f"the cluster has {room} {'GPUs' if gpu else 'cores'} for {count} workers: ask for fewer with --workers.")
    if gpu:
        cores = max(1, min((int(node.get("CPU", 0) // node["GPU"]) for node in nodes if node.get("GPU", 0) >= 1), default=1))
    else:  # a worker lies on one machine
        cores = next(c for c in range(max(cpus), 0, -1) if sum(n // c for n in cpus) >= count)
    actor = ray.remote(num_cpus=cores, num_gpus=int(gpu), max_restarts=-1, max_task_retries=RETRIES)(_Hosted)
    given = ray.put((*arguments, "cuda" if gpu else "cpu"))  # kept here: a worker that is started again needs it again
    made = [actor.remote(make, given, cores, Path.cwd()) for _ in range(count)]
    starting = {worker.ready.remote(): worker for worker in made}
    running: dict[Any, Any] = {}
    coming, left = iter(shards), len(shards)
    try:
        while left:
            ended, _ = ray.wait([*starting, *running], num_returns=1, timeout=None if running else PATIENCE_S)
            if not ended:
                raise UserError(
                    f"no worker could start within {PATIENCE_S} s: the cluster is busy, or too small for {cores} cores a worker."
                )
            free = starting.get(ended[0]) or running[ended[0]]
            answer = _answer(ray, ended[0])
            for shard in islice(coming, 1):
                running[free.run.remote(shard)] = free
            if starting.pop(ended[0], None) is None:
                del running[ended[0]]
                left -= 1
                yield answer
    finally:
        for worker in made:
            ray.kill(worker)


def _answer(ray: Any, reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        raise
    except (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError, ray.exceptions.NodeDiedError) as error:
        if getattr(error, "actor_init_failed", False):
            why = str(error).strip().splitlines()[-1]
            raise UserError(f"a worker could not start ({why}): every machine needs the same PolypForge.") from None
        raise UserError(f"a shard killed its worker {RETRIES + 1} times, perhaps for want of memory: try smaller batches.") from None


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
    if importlib.util.find_spec("ray") is None:
        raise UserError("--engine ray needs Ray: pip install 'polypforge[ray]'.")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    import ray

    if not ray.is_initialized():
        try:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(f"no Ray cluster can be reached ({str(error).splitlines()[0]}): see RAY_ADDRESS.") from error
    return ray
