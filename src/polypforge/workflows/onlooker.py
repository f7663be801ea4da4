"""Gates that look at cases beside the network that draws the next ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from polypforge.core.types import Case, Request
from polypforge.models.memory import NoRoom, Room
from polypforge.quality.gates.score_log import ScoreLog
from polypforge.workflows.gating import BATCH, SAVE_EVERY, Gating, Scored

MOST_WAITING = 2  # batches of cases held in memory, the one that is looked at among them, when gates are slower than the network


class Onlooker:
    """A thread that scores cases as they are drawn. A context: when it is left in peace, `log` knows the scores of all that was shown.

    Only the quick gates look; `Gating.judge` asks the slow ones of the cases that passed, and all of them where the device has no memory
    for judges beside the network. Errors of a gate are raised by `show`, or at the end.
    """

    def __init__(self, gating: Gating, log: ScoreLog) -> None:
        self._gating, self._log = gating, log
        self._thread = ThreadPoolExecutor(1, "onlooker")
        self._shown: list[tuple[Request, Case]] = []
        self._looks: deque[Future[list[Scored]]] = deque()
        self._collected = 0
        self._room: Room | None = Room(BATCH)  # on the device, beside the network; None where there is none

    def __enter__(self) -> Onlooker:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._begin()
                self._collect(0)
        finally:
            self._thread.shutdown(cancel_futures=True)
            if kind is None or issubclass(kind, KeyboardInterrupt):
                self._log.save()

    def show(self, requests: Sequence[Request], cases: Sequence[Case]) -> None:
        """Have these cases looked at; waits when too many are waiting already."""
        self._shown += zip(requests, cases, strict=True)
        if len(self._shown) >= BATCH:
            self._begin()
            self._collect(MOST_WAITING)

    def _begin(self) -> None:
        if self._shown:
            requests, cases = zip(*self._shown, strict=True)
            look = self._gating.first_look(requests, self._log)
            if look.names and self._room:  # else the scores of an earlier run are there
                self._looks.append(self._thread.submit(self._gating.look_at, look, cases, self._room))
            self._shown = []

    def _collect(self, waiting: int) -> None:
        while len(self._looks) > waiting:
            try:
                scored = self._looks.popleft().result()
            except NoRoom:  # `judge` asks again when the network is done
                self._room = None
                continue
            for row in scored:
                self._log.add(*row)
            self._collected += 1
            if self._collected % SAVE_EVERY == 0:
                self._log.save()
