"""The training loop: one for all models. The same call again goes on where the last one stopped."""

from __future__ import annotations

import json
import signal
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from itertools import count
from pathlib import Path
from typing import Any

import joblib
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from polypforge.core.console import console
from polypforge.core.errors import UserError
from polypforge.core.files import read_jsonl, whole_folder, write_jsonl
from polypforge.core.seeding import numpy_rng, seed_from
from polypforge.models.memory import free_memory, is_out_of_memory
from polypforge.models.precision import fast_layout, has_fast_bf16
from polypforge.models.trainable import Batch, Trainable
from polypforge.training.checkpoint import Checkpoints, Progress
from polypforge.training.config import TrainingConfig, learning_rate_at
from polypforge.training.ema import EMA

MOST_READERS = 8  # threads that draw batches for a GPU
Preview = Callable[[Trainable, int], None]


class Trainer:
    """Trains `model` on `pool` in the run folder `out`; see `run`.

    Step k draws its examples and its noise from seeds made of (config.seed, k, process), so an interrupted run that is
    resumed equals one that never stopped. `preview(model, step)` is called with the averaged weights in place.
    """

    def __init__(
        self,
        model: Trainable,
        pool: Sequence[Any],
        validation_pool: Sequence[Any],
        out: Path,
        config: TrainingConfig,
        preview: Preview | None = None,
        device: str = "auto",
    ) -> None:
        self.config, self.out, self.preview = config, out, preview
        self.pool, self.validation_pool = pool, validation_pool
        unused = DistributedDataParallelKwargs(find_unused_parameters=not model.uses_all_parameters)
        # bf16 is `_autocast`, which needs no process-wide state
        if device.startswith("cuda:"):
            torch.cuda.set_device(device)  # accelerate takes the current one
        self.accelerator = Accelerator(cpu=device == "cpu", mixed_precision="no", kwargs_handlers=[unused])
        if device != "auto" and self.accelerator.device.type != torch.device(device).type:
            raise UserError(f"this process has trained on {self.accelerator.device} before: start another one to train on {device}.")
        device = self.accelerator.device
        model = model.to(memory_format=fast_layout(model, device)).to(device)
        self.model = model
        learns = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(learns, config.learning_rate, betas=config.betas, weight_decay=config.weight_decay, fused=True)
        self.ema = EMA(model, config.ema_decay)
        self.checkpoints = Checkpoints(out / "checkpoints", config.keep_checkpoints)
        self.progress = self.checkpoints.restore_last(model, self.ema, optimizer) or Progress()
        self.wrapped, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.rank = self.accelerator.process_index
        self.stop_asked = False
        self._at_once: int | None = None  # examples, where the device has no memory for a whole batch
        self._validated_at = self._previewed_at = -1

    def run(self) -> Progress:
        """Train until the step or time budget is spent or Ctrl-C; save; return the counters."""
        config, progress = self.config, self.progress
        first = progress.step
        if progress.step:
            console.print(f"Resuming {self.out} at step {progress.step}.")
        self._drop_later_metrics()
        self.model.train()
        writer = SummaryWriter(str(self.out / "tensorboard"), purge_step=progress.step) if self._is_main else None
        with closing(self._batches()) as batches, self._interruptible(), self._bar() as bar:
            task = bar.add_task("training", total=1.0, completed=self._share_done())
            while not self._finished():
                started = time.monotonic()
                losses = self._step(next(batches))
                progress.step += 1
                progress.samples += config.batch_size * config.accumulate * self.accelerator.num_processes
                progress.seconds += time.monotonic() - started
                rate = progress.samples / progress.seconds
                shown = " ".join(f"{k} {v:.4f}" for k, v in losses.items())
                bar.update(task, completed=self._share_done(), description=f"step {progress.step} {rate:.0f} img/s {shown}")
                if writer and progress.step % 10 == 0:
                    for name, value in losses.items():
                        writer.add_scalar(f"train/{name}", value, progress.step)
                if self._due(config.validate_every):
                    self._validate(writer)
                if self._due(config.checkpoint_every):
                    self._checkpoint()
                if self._due(config.preview_every):
                    self._preview()
        if progress.step > first:  # nothing new is to be said of a run that was finished already
            if not self.stop_asked:  # off its schedule, it could keep another best copy than a run that was never stopped
                self._validate(writer)
            self._checkpoint()
        if self._is_main:
            self._save("model")
        if progress.step > first:
            self._preview()
        if writer:
            writer.close()
        self.accelerator.wait_for_everyone()
        if self.accelerator.num_processes > 1:
            self.accelerator.end_training()
        return progress

    def _autocast(self) -> AbstractContextManager:
        """bf16 where it was asked for and is fast; otherwise float32."""
        device = self.accelerator.device
        if self.config.precision == "bf16" and has_fast_bf16(device):
            return torch.autocast(device.type, torch.bfloat16)
        return nullcontext()

    @property
    def _is_main(self) -> bool:
        return self.accelerator.is_main_process

    def _batches(self) -> Generator[list[Batch]]:
        """From the next step on. Beside a GPU those of the next steps are drawn meanwhile, as one core can't feed it; on a CPU threads
        beside those of the step make them wait for each other, which takes longer than drawing."""
        first = self.progress.step
        if self.accelerator.device.type == "cpu":
            yield from map(self._batch, count(first))
        ahead = max(1, min(MOST_READERS, joblib.cpu_count() - 1))
        with ThreadPoolExecutor(ahead) as readers:
            coming = deque(readers.submit(self._batch, first + k) for k in range(ahead))
            for step in count(first + ahead):
                batch = coming.popleft().result()
                coming.append(readers.submit(self._batch, step))
                yield batch

    def _batch(self, step: int) -> list[Batch]:
        config = self.config
        streams = [(config.seed, "examples", step, self.rank, *([k] if k else [])) for k in range(config.accumulate)]
        drawn = [self.model.training_batch(self.pool, config.batch_size, numpy_rng(*stream)) for stream in streams]
        pins = self.accelerator.device.type == "cuda" and torch.cuda.is_available()
        return [{k: v.pin_memory() for k, v in batch.items()} for batch in drawn] if pins else drawn

    def _step(self, batches: list[Batch]) -> dict[str, float]:
        config, progress = self.config, self.progress
        self._set_rates()
        while (parts := self._gradients(batches)) is None:
            self.optimizer.zero_grad()
            if self.accelerator.num_processes > 1:
                raise UserError(f"a device has too little memory for a batch of {config.batch_size}: {self._smaller()}.")
            self._at_once = free_memory(self._at_once or max(map(_length, batches)))
        norm = self.accelerator.clip_grad_norm_(self.wrapped.parameters(), config.clip_norm)
        if norm is not None and not torch.isfinite(norm):
            raise UserError(f"the gradient is {float(norm)} at step {progress.step}: {self._advice()}")
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.update(self.model, progress.step)
        return {name: float(value) for name, value in parts.items()}

    def _gradients(self, batches: list[Batch]) -> dict[str, Tensor] | None:
        """Of the mean loss of the batches, and the named parts of the last one; None where they don't fit the device."""
        config, step = self.config, self.progress.step
        generator = torch.Generator().manual_seed(seed_from(config.seed, "noise", step, self.rank))
        torch.manual_seed(seed_from(config.seed, "layers", step, self.rank))  # for those that draw, as dropout
        try:
            for batch in batches:
                for part, share in _portions(batch, self._at_once):
                    part = {k: v.to(self.accelerator.device, non_blocking=True) for k, v in part.items()}
                    with self._autocast():
                        loss, parts = self.wrapped(part, generator)
                    if not torch.isfinite(loss):
                        raise UserError(f"the loss is {float(loss.detach())} at step {step}: {self._advice()}")
                    self.accelerator.backward(loss * share / len(batches))
            return parts
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        return None  # not above: till here the error holds what filled the memory

    def _set_rates(self) -> None:
        rate = learning_rate_at(self.config, self.progress.step, self._share_done())
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def _advice(self) -> str:
        return (
            f"run again with a lower rate (--set training.learning_rate={self.config.learning_rate / 3:.0e}) or training.precision=fp32; "
            f"the last good checkpoint is in {self.checkpoints.folder}."
        )

    def _smaller(self) -> str:
        size, times = max(1, self.config.batch_size // 2), 2 * self.config.accumulate
        return f"run again with another --out and --set training.batch_size={size} --set training.accumulate={times}"

    def _share_done(self) -> float:
        by_steps = self.progress.step / self.config.max_steps if self.config.max_steps else 0.0
        by_time = self.progress.seconds / self.config.budget_seconds if self.config.budget_seconds else 0.0
        return min(1.0, max(by_steps, by_time))

    @property
    def is_through(self) -> bool:
        """Whether the budget was spent; else the run was stopped, and goes on when it is called again."""
        return self._share_done() >= 1

    def _finished(self) -> bool:
        """All processes must leave the loop at the same step, so they vote."""
        mine = self.stop_asked or self.is_through
        if self.accelerator.num_processes == 1:
            return mine
        told = torch.tensor([float(mine), self.progress.seconds if self._is_main else 0.0], device=self.accelerator.device)
        votes, self.progress.seconds = self.accelerator.reduce(told, "sum").tolist()  # one clock: rates must not differ between them
        return votes > 0

    def _due(self, every: int) -> bool:
        return every > 0 and self.progress.step % every == 0

    def _validate(self, writer: SummaryWriter | None) -> None:
        if not self._is_main or not self.validation_pool or self._validated_at == self.progress.step:
            return
        self._validated_at = self.progress.step
        batch = self.model.validation_batch(
            self.validation_pool, self.config.validation_examples, numpy_rng(self.config.seed, "validation")
        )
        try:
            losses = self._validation_losses(batch)
        except (RuntimeError, MemoryError) as error:  # no reason to end a run
            if not is_out_of_memory(error):
                raise
            console.print(f"Not validated at step {self.progress.step}, for want of memory: set training.validation_examples lower.")
            return
        finally:
            self.model.train()
        mean = sum(losses.values()) / len(losses)
        row = {"step": self.progress.step, "seconds": round(self.progress.seconds, 1), "validation": mean, **losses}
        self.out.mkdir(parents=True, exist_ok=True)
        with (self.out / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        if writer:
            for name, value in {"mean": mean, **losses}.items():
                writer.add_scalar(f"validation/{name}", value, self.progress.step)
        if mean < self.progress.best_loss:
            self.progress.best_loss = mean
            self._save("best")

    def _validation_losses(self, batch: Batch) -> dict[str, float]:
        """In portions where training takes portions: means over them, for losses that are no plain means nearly those of the whole."""
        losses: dict[str, float] = {}
        seed = seed_from(self.config.seed, "validation noise")
        with self.ema.applied(self.model), torch.no_grad(), self._autocast():
            self.model.eval()
            for part, share in _portions(batch, self._at_once):
                found = self.model.validation_losses({k: v.to(self.accelerator.device) for k, v in part.items()}, seed)
                losses = {k: losses.get(k, 0.0) + share * v for k, v in found.items()}
        return losses

    def _preview(self) -> None:
        if self.preview is None or not self._is_main or self._previewed_at == self.progress.step:
            return
        self._previewed_at = self.progress.step
        with self.ema.applied(self.model):
            self.model.eval()
            try:
                self.preview(self.model, self.progress.step)
            except (UserError, torch.OutOfMemoryError) as error:  # a picture that can't be made is no reason to end a run
                console.print(f"No preview: {str(error).splitlines()[0]}")
        self.model.train()

    def _checkpoint(self) -> None:
        if self._is_main:
            self.checkpoints.save(self.model, self.ema, self.optimizer, self.progress)

    def _save(self, name: str) -> None:
        with self.ema.applied(self.model), whole_folder(self.out / name) as folder:
            self.model.save_pretrained(folder)
            self._describe(folder)

    def _describe(self, folder: Path) -> None:
        """Add to a saved model's folder what its way of training has to say."""
        return

    def _drop_later_metrics(self) -> None:
        """Rows written after the checkpoint that we resume from would appear twice."""
        path = self.out / "metrics.jsonl"
        if self._is_main and path.exists():
            write_jsonl(path, [row for row in read_jsonl(path) if row["step"] <= self.progress.step])

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """The first Ctrl-C ends the loop after the current step; the second one ends the program."""

        def ask(signum: int, frame: Any) -> None:
            if self.stop_asked:
                raise KeyboardInterrupt
            self.stop_asked = True
            console.print("Stopping after this step; the same command resumes.")

        try:
            before = signal.signal(signal.SIGINT, ask)
        except ValueError:  # not the main thread: the caller handles interrupts
            yield
            return
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _bar(self) -> ProgressBar:
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f} %"), TimeRemainingColumn())
        return ProgressBar(*columns, console=console, disable=not self._is_main, transient=True)


def _length(batch: Batch) -> int:
    return len(next(iter(batch.values())))


def _portions(batch: Batch, at_once: int | None) -> Iterator[tuple[Batch, float]]:
    """The batch, whole or in portions of at most `at_once` examples, each with its share of them."""
    count = _length(batch)
    at_once = at_once or count
    for start in range(0, count, at_once):
        part = {k: v[start : start + at_once] for k, v in batch.items()}
        yield part, _length(part) / count
