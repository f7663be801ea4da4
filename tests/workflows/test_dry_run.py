"""What a training run would take, said without data, weights or an output folder."""

import json
import shutil
import subprocess
import sys

import pytest
import torch

from polypforge.core.errors import UserError
from polypforge.workflows.dry_run import _measure, speed
from polypforge.workflows.train import dry_run, train


def test_the_plan_counts_what_is_trained():
    planned = dry_run("polyp_gen", "paper")
    assert planned["parameters"]["backbone.unet"] == planned["parameters_trained"] == 865_925_124 or planned["parameters_trained"] > 8.6e8
    memory = planned["memory_gb"]
    assert memory["optimiser"] == pytest.approx(2 * memory["gradients"], rel=0.01) and memory["activations"] > 1
    assert memory["total"] == pytest.approx(sum(v for k, v in memory.items() if k != "total"), abs=0.01)
    assert planned["hours_on_assumed_gpu"] > 1 and planned["hours_here"] > planned["hours_on_assumed_gpu"]


def test_a_larger_batch_costs_in_proportion():
    small, large = (dry_run("polyp_ddpm", assignments=[f"training.batch_size={n}"]) for n in (80, 160))
    assert large["step_tflop"] == pytest.approx(2 * small["step_tflop"], rel=0.02)
    assert large["memory_gb"]["activations"] == pytest.approx(2 * small["memory_gb"]["activations"], rel=0.05)
    assert small["memory_gb"]["weights"] == large["memory_gb"]["weights"]


@pytest.mark.parametrize(("name", "setting"), [
    ("window_segmenter", "model.encoder=nosuch"), ("window_segmenter", "model.encoder=tu-nosuch"), ("window_detector", "model.encoder=nosuch"),
    ("latent_segmenter", "model.vision=nosuch"),
])  # fmt: skip
def test_an_encoder_that_nobody_knows_is_one_sentence(name, setting):
    with pytest.raises(UserError, match="nosuch can't be built"):
        dry_run(name, assignments=[setting])


class TwoLayers(torch.nn.Module):
    """One frozen, one that learns."""

    def __init__(self):
        super().__init__()
        self.frozen, self.learned = torch.nn.Linear(4, 4).requires_grad_(False), torch.nn.Linear(4, 4)

    def batch_shapes(self, count):
        return {"image": (count, 4)}

    def loss(self, batch, generator):
        loss = self.learned(self.frozen(batch["image"])).square().mean()
        return loss, {"loss": loss.detach()}


def test_only_what_learns_costs_a_pass_back():
    one_layer_once = 2 * 8 * 4 * 4
    with torch.device("meta"):
        assert _measure(TwoLayers(), 8)[1] == 3 * one_layer_once  # both forward, the gradient of one's weights, of no input


def test_a_run_that_cannot_begin_leaves_its_folder_free(phantom_folder, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(phantom_folder, data)
    first = next((data / "images").iterdir())
    whole = first.read_bytes()
    first.write_bytes(whole[:300])
    small = ["training.max_steps=1", "training.budget_seconds=null", "training.batch_size=1", "phantom.frames=0", "model.size_px=32"]
    with pytest.raises(UserError, match="--skip-bad"):
        train("polyp_ddpm", [data], tmp_path / "run", assignments=small, device="cpu")
    assert not (tmp_path / "run").exists()
    first.write_bytes(whole)
    (data / "test.txt").write_text("".join(f"{p.stem}\n" for p in (data / "images").iterdir()))
    with pytest.raises(UserError, match="all are held out"):
        train("polyp_ddpm", [data], tmp_path / "run", assignments=small, device="cpu")
    with pytest.raises(UserError, match="inside each other"):
        train("polyp_ddpm", [data], data / "run", assignments=small, device="cpu")
    with pytest.raises(UserError, match="must be a mapping"):
        dry_run("polyp_ddpm", assignments=["model=3"])


def test_a_finished_run_tells_how_fast_it_was(tmp_path):
    small = [
        "model.size_px=32",
        "training.max_steps=2",
        "training.budget_seconds=null",
        "training.batch_size=2",
        "phantom.frames=3",
        "phantom.size=96",
    ]
    result = train("polyp_ddpm", [], tmp_path / "run", assignments=small, device="cpu")
    step = dry_run("polyp_ddpm", assignments=small)["step_tflop"]
    assert result["tflops"] == pytest.approx(2 * step / result["seconds"], rel=0.02, abs=1e-4) and 0 < result["utilisation"] < 1.5
    assert speed(step, 0, 0.0, torch.device("cpu")) == {}


def test_the_command_prints_json(tmp_path):
    command = [sys.executable, "-m", "polypforge", "train", "singan_seg", "--dry-run", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["parameters_total"] > 1e6 and not list(tmp_path.iterdir())


def test_a_paper_size_on_a_cpu_is_refused_with_its_needs(tmp_path):
    with pytest.raises(UserError, match=r"needs a GPU with about \d+ GB, which would take it about \d+ h.*starter configuration"):
        train("polyp_gen", [tmp_path], tmp_path / "run", config="paper", device="cpu")
    assert not (tmp_path / "run").exists()


def test_a_missing_size_and_a_missing_folder_are_named(tmp_path):
    with pytest.raises(UserError, match="no paper configuration"):
        dry_run("forge", "paper")
    done = subprocess.run([sys.executable, "-m", "polypforge", "train", "forge"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "--out RUN" in done.stderr
