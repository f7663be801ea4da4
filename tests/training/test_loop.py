"""The loop is tested on a model small enough to check by hand: a line fitted to a line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from polypforge.core.errors import UserError
from polypforge.models.trainable import Trainable
from polypforge.training.checkpoint import Checkpoints
from polypforge.training.config import TrainingConfig, learning_rate_at
from polypforge.training.ema import EMA
from polypforge.training.loop import Trainer


class Line(Trainable):
    """y = a x + b with noisy targets; every random number comes from the generators it is handed."""

    def __init__(self, poison_at: int | None = None) -> None:
        super().__init__()
        self.line = torch.nn.Linear(1, 1)
        self.poison_at, self.calls = poison_at, 0

    def prepare(self, cases):
        return cases

    def batch_shapes(self, count):
        return {"x": (count, 1), "y": (count, 1)}

    def training_batch(self, pool, batch_size, rng):
        x = torch.from_numpy(rng.standard_normal((batch_size, 1)).astype(np.float32))
        return {"x": x, "y": 3 * x + 1}

    def loss(self, batch, generator):
        self.calls += 1
        noise = 0.1 * torch.randn(batch["y"].shape, generator=generator)
        loss = (self.line(batch["x"]) - batch["y"] - noise).square().mean()
        if self.poison_at is not None and self.calls > self.poison_at:
            loss = loss * float("nan")
        return loss, {"fit": loss.detach()}

    def validation_losses(self, batch, seed):
        return {"fit": float((self.line(batch["x"]) - batch["y"]).square().mean())}

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file({k: v.contiguous() for k, v in self.state_dict().items()}, folder / "model.safetensors")

    @classmethod
    def load_pretrained(cls, folder):
        raise NotImplementedError


def config(**changes):
    values = dict(batch_size=8, max_steps=20, learning_rate=0.05, warmup_steps=2, validate_every=5, preview_every=0, checkpoint_every=5, precision="fp32", ema_decay=0.9)  # fmt: skip
    return TrainingConfig(**(values | changes))


def trainer(out, model=None, preview=None, **changes):
    torch.manual_seed(0)
    return Trainer(model or Line(), [1], [1], out, config(**changes), preview, device="cpu")


def weights(out):
    return load_file(out / "model" / "model.safetensors")


def test_it_learns_and_writes_what_a_run_needs(tmp_path):
    progress = trainer(tmp_path, max_steps=200).run()
    assert progress.step == 200 and progress.samples == 1600
    assert weights(tmp_path)["line.weight"].item() == pytest.approx(3, abs=0.3)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == list(range(5, 201, 5))
    assert rows[-1]["validation"] < 0.2 * rows[0]["validation"]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2
    assert list((tmp_path / "tensorboard").iterdir()) and (tmp_path / "best" / "model.safetensors").exists()


class Dropping(Line):
    """With a layer that draws by itself."""

    def loss(self, batch, generator):
        return super().loss(batch | {"x": torch.dropout(batch["x"], 0.5, train=True)}, generator)


@pytest.mark.parametrize("model", [Line, Dropping])
def test_k_and_k_steps_equal_2k(tmp_path, model):
    def fresh():
        torch.manual_seed(0)
        return model()

    trainer(tmp_path / "whole", fresh()).run()
    half = trainer(tmp_path / "parts", fresh())
    step, count = half._step, 0

    def stop_at_ten(batch):
        nonlocal count
        count += 1
        half.stop_asked = count >= 10
        return step(batch)

    half._step = stop_at_ten  # type: ignore[method-assign]
    assert half.run().step == 10
    assert trainer(tmp_path / "parts", fresh()).run().step == 20
    for key, value in weights(tmp_path / "whole").items():
        assert torch.equal(value, weights(tmp_path / "parts")[key])
    one, two = ((tmp_path / n / "metrics.jsonl").read_text().splitlines() for n in ("whole", "parts"))
    assert [json.loads(a)["fit"] for a in one] == [json.loads(b)["fit"] for b in two]


def test_a_finished_run_is_not_run_again(tmp_path):
    trainer(tmp_path).run()
    model = Line()
    assert trainer(tmp_path, model).run().step == 20 and model.calls == 0


def test_a_picture_that_does_not_fit_costs_neither_checkpoint_nor_model(tmp_path):
    def too_large(model, step):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    run = trainer(tmp_path, preview=too_large, preview_every=10, checkpoint_every=7)
    assert run.run().step == 20
    assert Checkpoints(tmp_path / "checkpoints", 2).steps()[-1] == 20 and weights(tmp_path)


class Crowded(Line):
    """On a device that holds `room` examples."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room, self.tried = room, []

    def loss(self, batch, generator):
        self.tried.append(len(batch["x"]))
        if len(batch["x"]) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().loss(batch, generator)


def test_a_batch_that_does_not_fit_is_taken_in_portions(tmp_path, capsys):
    roomy, crowded = Line(), Crowded(3)
    crowded.load_state_dict(roomy.state_dict())
    trainer(tmp_path / "whole", roomy).run()
    trainer(tmp_path / "portions", crowded).run()
    assert crowded.tried[:6] == [8, 4, 2, 2, 2, 2] and set(crowded.tried[6:]) == {2}
    for key, value in weights(tmp_path / "whole").items():
        torch.testing.assert_close(weights(tmp_path / "portions")[key], value)
    assert "Out of memory with 8 images at once: going on with 4." in capsys.readouterr().err
    with pytest.raises(UserError, match="too little memory for a single image"):
        trainer(tmp_path / "none", Crowded(0)).run()


def test_a_validation_that_does_not_fit_ends_no_run(tmp_path, capsys, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError

    model = Line()
    monkeypatch.setattr(model, "validation_losses", full)
    assert trainer(tmp_path, model).run().step == 20 and weights(tmp_path)
    assert "Not validated at step 5" in capsys.readouterr().err


def test_validation_in_portions_gives_the_means(tmp_path):
    run = trainer(tmp_path)
    batch = run.model.training_batch([], 7, np.random.default_rng(0))
    whole = run._validation_losses(batch)
    run._at_once = 2
    assert run._validation_losses(batch) == pytest.approx(whole)


def test_what_was_found_best_outlives_the_last_checkpoint(tmp_path):
    first = trainer(tmp_path, validate_every=0).run().best_loss
    assert first < float("inf") and trainer(tmp_path, validate_every=0).run().best_loss == first


def test_batches_drawn_ahead_are_those_drawn_in_turn(tmp_path):
    run = trainer(tmp_path)
    run.accelerator = SimpleNamespace(device=torch.device("cuda"))
    ahead = run._batches()
    for step in range(3):
        for ours, theirs in zip(next(ahead), run._batch(step), strict=True):
            assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
    ahead.close()


def test_ctrl_c_saves_and_the_same_call_goes_on(tmp_path):
    run = trainer(tmp_path, max_steps=10**6, validate_every=0, checkpoint_every=0)
    threading.Thread(target=lambda: (time.sleep(0.6), os.kill(os.getpid(), signal.SIGINT))).start()
    stopped = run.run().step
    assert 0 < stopped < 10**6
    assert trainer(tmp_path, max_steps=stopped + 3).run().step == stopped + 3


def test_a_time_budget_ends_the_run(tmp_path):
    progress = trainer(tmp_path, max_steps=None, budget_seconds=0.5, validate_every=0).run()
    assert progress.step > 3 and 0.5 <= progress.seconds < 3


def test_nan_stops_with_advice_and_keeps_the_last_checkpoint(tmp_path):
    with pytest.raises(UserError, match=r"training\.learning_rate"):
        trainer(tmp_path, Line(poison_at=12)).run()
    assert Checkpoints(tmp_path / "checkpoints", 2).steps()[-1] == 10


def test_previews_see_the_averaged_weights_and_training_goes_on_with_its_own(tmp_path):
    seen = []
    run = trainer(tmp_path, preview=lambda model, step: seen.append((step, model.line.weight.item())), preview_every=10)
    run.run()
    assert [s for s, _ in seen] == [10, 20]
    assert seen[-1][1] == pytest.approx(weights(tmp_path)["line.weight"].item())
    assert run.model.line.weight.item() != pytest.approx(seen[-1][1], abs=1e-7)


def test_damaged_checkpoints_are_named(tmp_path):
    trainer(tmp_path).run()
    for path in (tmp_path / "checkpoints").rglob("optimizer.safetensors"):
        path.write_bytes(b"torn")
    with pytest.raises(UserError, match="remove it to go on"):
        trainer(tmp_path, max_steps=30)


def test_ema_known_answer():
    module = torch.nn.Linear(1, 1, bias=False)
    module.weight.data.fill_(0.0)
    ema = EMA(module, 0.5)
    module.weight.data.fill_(1.0)
    ema.update(module, step=10**6)
    assert ema.weights["weight"].item() == 0.5
    with pytest.raises(RuntimeError), ema.applied(module):
        assert module.weight.item() == 0.5
        raise RuntimeError
    assert module.weight.item() == 1.0


def test_learning_rate_rises_holds_and_falls():
    settings = config(warmup_steps=10, cooldown_share=0.5, final_rate=0.1, learning_rate=1.0)
    assert learning_rate_at(settings, 0, 0.0) == pytest.approx(0.1)
    assert learning_rate_at(settings, 50, 0.4) == 1.0
    assert learning_rate_at(settings, 90, 0.75) == pytest.approx(0.55)
    assert learning_rate_at(settings, 100, 1.0) == pytest.approx(0.1)


@pytest.mark.slow
def test_two_processes_under_accelerate(tmp_path):
    """`accelerate launch` with two CPU processes trains one model: one run folder, twice the samples."""
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no",
        "--dynamo_backend", "no", "--module", "polypforge", "train", "window_segmenter", "--out", str(tmp_path / "run"), "--device", "cpu",
        "--set", "training.max_steps=4", "--set", "training.budget_seconds=null", "--set", "training.batch_size=2", "--set", "training.precision=fp32",
        "--set", "training.validation_examples=4", "--set", "phantom.frames=4", "--set", "phantom.size=96", "--json",
    ]  # fmt: skip
    # accelerate has no flag for several CPU processes on one machine: its multi-process launcher with the GPU switched off is it.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["step"] == 4 and result["samples"] == 16


def test_frozen_parts_are_neither_averaged_nor_stored(tmp_path):
    from safetensors.torch import load_file

    from polypforge.training.checkpoint import Checkpoints, Progress
    from polypforge.training.ema import EMA

    module = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    module[0].requires_grad_(False)
    ema = EMA(module, 0.5)
    optimizer = torch.optim.AdamW(module[1].parameters())
    assert not any(k.startswith("0.") for k in ema.weights) and "2.running_mean" in ema.weights
    Checkpoints(tmp_path, 1).save(module, ema, optimizer, Progress(step=1))
    assert not any(k.startswith("0.") for k in load_file(tmp_path / "step-00000001" / "model.safetensors"))
    before = module[0].weight.clone()
    with torch.no_grad():
        module[1].weight.add_(1)
    ema.update(module, 100)
    with ema.applied(module):
        assert torch.equal(module[0].weight, before)
    assert Checkpoints(tmp_path, 1).restore_last(module, ema, optimizer).step == 1


def test_moments_keep_the_layout_of_their_weights_when_restored(tmp_path):
    """Fused AdamW walks weights and moments side by side: three steps, a checkpoint and a fourth step equal four steps."""
    from polypforge.training.checkpoint import Checkpoints, Progress
    from polypforge.training.ema import EMA

    def fresh():
        torch.manual_seed(0)
        net = torch.nn.Conv2d(8, 16, 3).to(memory_format=torch.channels_last)
        return net, torch.optim.AdamW(net.parameters(), 1e-2, fused=True)

    def step(net, optimizer, k):
        net(torch.randn(2, 8, 6, 6, generator=torch.Generator().manual_seed(k))).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    net, optimizer = fresh()
    for k in range(3):
        step(net, optimizer, k)
    Checkpoints(tmp_path, 1).save(net, EMA(net, 0.9), optimizer, Progress(step=3))
    again, restored = fresh()
    Checkpoints(tmp_path, 1).restore_last(again, EMA(again, 0.9), restored)
    step(net, optimizer, 3)
    step(again, restored, 3)
    assert torch.equal(net.weight, again.weight)
