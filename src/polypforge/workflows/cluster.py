"""Shards of work on a Ray cluster: workers that keep their networks loaded, and a shard handed on when its worker dies.

The cluster is the one that RAY_ADDRESS names, or this machine. All machines must see the data and the output under the same paths.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from polypforge.core.errors import UserError

RETRIES = 3  # a shard that has killed so many workers is at fault itself


class Worker(Protocol):
    """Made once in each process, from arguments that can be pickled."""

    def run(self, shard: Any) -> Any: ...


def on_cluster(make: Callable[..., Worker], arguments: tuple, shards: Sequence[Any], workers: int | None, gpu: bool) -> Iterator[Any]:
    """What `make(*arguments).run(shard)` gave, in the order in which shards end.

    workers: how many at a time, at most one a shard; by default one for each GPU, or for each core.

    A worker that dies is started again and its shard run again, RETRIES times. Raises UserError when the cluster has no room for one
    worker, and what a worker raises.
    """
    if not shards:
        return
    ray = _ray()
    total = ray.cluster_resources()
    count = min(workers or int(total.get("GPU" if gpu else "CPU", 1)), len(shards))
    if gpu and total.get("GPU", 0) < count:
        raise UserError(
            f"the cluster has {total.get('GPU', 0):.0f} GPUs for {count} workers: ask for fewer with --workers, or --device cpu."
        )
    cores = max(1, int(total.get("CPU", 1)) // count)
    actor = ray.remote(num_cpus=min(1, cores) if gpu else cores, num_gpus=int(gpu), max_restarts=-1, max_task_retries=RETRIES)(_Hosted)
    idle = [actor.remote(make, arguments, cores) for _ in range(count)]
    coming, running = iter(shards), {}
    try:
        while True:
            for shard in coming:
                worker = idle.pop()
                running[worker.run.remote(shard)] = worker
                if not idle:
                    break
            if not running:
                return
            (ended,), _ = ray.wait(list(running), num_returns=1)
            idle.append(running.pop(ended))
            try:
                yield ray.get(ended)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except ray.exceptions.RayActorError:
                raise UserError(
                    f"a shard killed its worker {RETRIES + 1} times, perhaps for want of memory: try smaller batches."
                ) from None
    finally:
        for worker in (*idle, *running.values()):
            ray.kill(worker)


class _Hosted:
    """A worker in a process of Ray's, with its share of threads."""

    def __init__(self, make: Callable[..., Worker], arguments: tuple, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.made = make, arguments
        self.worker: Worker | None = None

    def run(self, shard: Any) -> Any:
        if self.worker is None:  # here, not above: what it raises then is the shard's answer, not the actor's death
            make, arguments = self.made
            self.worker = make(*arguments)
        return self.worker.run(shard)


def _ray() -> Any:
    if importlib.util.find_spec("ray") is None:
        raise UserError("--engine ray needs Ray: pip install 'polypforge[ray]'.")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if not ray.is_initialized():
        try:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(f"no Ray cluster can be reached ({str(error).splitlines()[0]}): see RAY_ADDRESS.") from error
    return ray
