"""On a Ray cluster of this machine: the same cases as without one, also when workers die."""

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch

from polypforge.core.errors import UserError
from polypforge.core.files import read_jsonl
from polypforge.core.images import read_image, read_mask
from polypforge.core.types import Request
from polypforge.data.folder import write_data_set
from polypforge.generation.writer import CaseStore, write_requests
from polypforge.quality.gates.settings import read_gates
from polypforge.recipes.forge.recipe import Forge
from polypforge.workflows import cluster as cluster_module
from polypforge.workflows.cluster import on_cluster
from polypforge.workflows.evaluate import evaluate, picture_worker
from polypforge.workflows.gate import GateWorker, gate_folder
from polypforge.workflows.generate import generate_cases
from tests.conftest import TINY, wake

pytestmark = pytest.mark.slow
ray = pytest.importorskip("ray")


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """Two workers of one core, also on a machine with one, as important as the tests beside them: Ray's are at the end of the queue."""
    first = {"worker_niceness": 0}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR", _system_config=first)
    yield
    ray.shutdown()


class Squares:
    def __init__(self, folder: Path, device: str) -> None:
        assert device == "cpu"
        self.folder = folder

    def run(self, number: int) -> int:
        runs = self.folder / str(number)
        runs.write_text(runs.read_text() + "x" if runs.exists() else "x")
        if (number == 3 and runs.read_text() == "x") or number == 99:
            os._exit(1)  # as the kernel does it, without a farewell
        if number < 0:
            raise UserError("no root")
        if number == 1000:
            return number // 0
        return number**2


def test_a_shard_whose_worker_dies_is_run_again_and_no_other(tmp_path):
    assert sorted(on_cluster(Squares, (tmp_path,), range(8), 2)) == [n**2 for n in range(8)]
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {str(n): "xx" if n == 3 else "x" for n in range(8)}


def test_more_workers_than_shards_and_no_shards(tmp_path):
    assert list(on_cluster(Squares, (tmp_path,), [5], 40)) == [25]
    assert list(on_cluster(Squares, (tmp_path,), [], 2)) == []


def test_a_shard_that_kills_every_worker_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster_module, "RETRIES", 1)
    with pytest.raises(UserError, match="killed its worker 2 times"):
        list(on_cluster(Squares, (tmp_path,), [99], 1))


def test_what_a_worker_says_reaches_the_user(tmp_path):
    with pytest.raises(UserError, match="no root"):
        list(on_cluster(Squares, (tmp_path,), [-1], 1))
    with pytest.raises(ZeroDivisionError):
        list(on_cluster(Squares, (tmp_path,), [1000], 1))


@pytest.mark.parametrize(("workers", "device", "words"), [(1, "cuda", "0 GPUs for 1 workers"), (3, "cpu", "2 cores for 3 workers")])
def test_a_cluster_without_room_says_so(tmp_path, workers, device, words):
    with pytest.raises(UserError, match=words):
        list(on_cluster(Squares, (tmp_path,), range(8), workers, device))


class Lost(Exception):
    """In place of Ray's."""


class FakeRay:
    """Nine workers, eight of them on a machine that goes when the last shard has begun there; seven of those are idle then."""

    class exceptions:
        RayTaskError, RayActorError, OutOfMemoryError, ObjectLostError = ZeroDivisionError, Lost, MemoryError, KeyError

    def __init__(self):
        self.hired, self.gone, self.refused = 0, False, 0

    def hire(self):
        self.hired += 1
        return FakeWorker(self, self.hired)

    def wait(self, references, num_returns, timeout):
        ready = [r for r in references if not r.never(self)]
        return ready[:1], ready[1:]

    def get(self, reference):
        return reference.answer(self)

    def kill(self, worker):
        worker.dead = True


class FakeWorker:
    def __init__(self, ray, number):
        self.ray, self.number, self.dead = ray, number, False
        self.ready, self.run = (SimpleNamespace(remote=partial(FakeReference, self, kind)) for kind in ("ready", "run"))

    @property
    def here(self):
        return self.number == 1


@dataclass(eq=False)
class FakeReference:
    worker: FakeWorker
    kind: str
    shard: int = -1

    def never(self, ray):
        later = self.worker.number > 9  # no room for another
        return later or (
            self.worker.here and self.kind == "run" and self.shard == 0 and not ray.refused
        )  # busy till the others are known lost

    def answer(self, ray):
        if self.kind == "run" and self.shard == 1 and not self.worker.here:
            ray.gone = True
        if ray.gone and not self.worker.here:
            ray.refused += 1
            raise Lost
        return self.shard


def test_idle_workers_of_a_lost_machine_are_not_charged_to_a_shard():
    ray = FakeRay()
    crew = cluster_module._Crew(ray, ray.hire, [0, 1])
    crew.start(9)
    found = []
    while crew.busy:
        found += crew.next_answers("never")
    assert sorted(found) == [0, 1] and ray.refused == 8


@pytest.fixture(scope="module")
def setting(tmp_path_factory, phantoms):
    root = tmp_path_factory.mktemp("cluster")
    frames = [replace(c, name=f"frame-{i}") for i, c in enumerate(phantoms[:6])]
    write_data_set(root / "data", frames)
    torch.manual_seed(0)
    recipe = Forge(TINY)
    wake(recipe)
    recipe.save_pretrained(root / "model")
    region = ((50, 50), (110, 55), (105, 115), (55, 110))
    requests = [Request(frames[i % 6].name, "polyp", region, i) for i in range(20)]
    removal = Request(frames[0].name, "normal", region, 50)
    requests += [removal, Request(frames[0].name, "polyp", region, 51, parent=removal.id)]
    write_requests(root / "requests.jsonl", requests)
    made = generate_cases(root / "data", root / "local", model=str(root / "model"), requests_file=root / "requests.jsonl", batch_size=2)
    assert made["made"] == 22
    return root, requests


def same_cases(one: Path, other: Path) -> None:
    pictures = sorted(p.name for p in (one / "images").iterdir())
    assert pictures == sorted(p.name for p in (other / "images").iterdir())
    for name in pictures:
        apart = np.abs(read_image(one / "images" / name).astype(int) - read_image(other / "images" / name))
        assert np.mean(apart > 6) < 1e-3  # sums in another order, in bf16: batches differ, seeds don't
    for name in sorted(p.name for p in (one / "masks").iterdir()):
        a, b = read_mask(one / "masks" / name), read_mask(other / "masks" / name)
        assert (a ^ b).sum() <= 0.01 * (a | b).sum()
    assert len((one / "metadata.jsonl").read_text().splitlines()) == len((other / "metadata.jsonl").read_text().splitlines())


def test_a_cluster_makes_what_one_machine_makes(setting):
    root, _ = setting
    options = {"model": str(root / "model"), "requests_file": root / "requests.jsonl", "batch_size": 2, "engine": "ray", "workers": 2}
    assert generate_cases(root / "data", root / "ray", **options)["made"] == 22
    same_cases(root / "local", root / "ray")
    assert generate_cases(root / "data", root / "ray", **options)["made"] == 0


def test_a_worker_with_other_weights_is_refused(setting, monkeypatch):
    root, _ = setting
    monkeypatch.setattr("polypforge.workflows.generate.weights_hash", lambda folder: "of another file")
    with pytest.raises(UserError, match="finds other weights"):
        generate_cases(
            root / "data", root / "other", model=str(root / "model"), requests_file=root / "requests.jsonl", engine="ray", workers=1
        )


def test_a_killed_worker_costs_no_case(setting):
    """A command of its own, one of whose workers is killed as soon as the first case is there."""
    root, requests = setting
    out = root / "killed"
    command = [sys.executable, "-m", "polypforge", "generate", "--data", root / "data", "--out", out, "--model", root / "model"]
    command += ["--requests", root / "requests.jsonl", "--engine", "ray", "--workers", "2", "--batch-size", "2"]
    address = ray.get_runtime_context().gcs_address
    running = subprocess.Popen(list(map(str, command)), env=os.environ | {"RAY_ADDRESS": address}, stderr=subprocess.PIPE, text=True)
    killed = 0
    while running.poll() is None and not killed:
        if (out / "rows").is_dir() and any((out / "rows").iterdir()):
            workers = [p for p in psutil.Process().children(recursive=True) if p.name().startswith("ray::_Hosted")]
            for worker in workers[:1]:
                worker.kill()
                killed = worker.pid
        time.sleep(0.02)
    _, errors = running.communicate(timeout=300)
    assert killed and running.returncode == 0, errors
    assert CaseStore(out).done() == {r.id for r in requests}
    same_cases(root / "local", out)


def test_a_cluster_judges_as_one_machine_does(setting, tiny_segmenter, tmp_path, monkeypatch):
    root, requests = setting
    tiny_segmenter.save_pretrained(tmp_path / "judge")
    options = {"judges": [str(tmp_path / "judge")], "thresholds": {"label_agreement": 0.0, "own_outline": 1.0, "sharpness": -1e9}}
    for name in ("one", "many"):
        shutil.copytree(root / "local", tmp_path / name)
    monkeypatch.setattr("polypforge.workflows.gating.BATCH", 6)
    here = gate_folder(tmp_path / "one", **options)
    there = gate_folder(tmp_path / "many", **options, engine="ray", workers=2)
    assert there["judged"] == here["judged"] == 21 and there["failed"] == here["failed"] and there["thresholds"] == here["thresholds"]
    rows = [{r["id"]: r for r in read_jsonl(tmp_path / name / "gate.jsonl")} for name in ("one", "many")]
    assert rows[0].keys() == rows[1].keys() == {r.id for r in requests}
    for id, row in rows[0].items():
        scores = [{k: v for k, v in r["scores"].items() if v is not None} for r in (row, rows[1][id])]
        assert scores[0].keys() == scores[1].keys() and scores[0] == pytest.approx(scores[1], rel=0.02, abs=0.02)
    monkeypatch.setattr("polypforge.workflows.gate.on_cluster", lambda *_: pytest.fail("known scores are not computed again"))
    assert gate_folder(tmp_path / "many", **options, engine="ray", workers=2)["kept"] == there["kept"]


def test_a_gate_worker_with_other_judges_is_refused(setting, tiny_segmenter, tmp_path):
    root, _ = setting
    tiny_segmenter.save_pretrained(tmp_path / "judge")
    settings = read_gates("starter", judges=(str(tmp_path / "judge"),))
    with pytest.raises(UserError, match="finds other judges"):
        list(on_cluster(GateWorker, (settings, {str(tmp_path / "judge"): "another"}, None, root / "local", True), [0], 1))
    with pytest.raises(UserError, match="doesn't see"):
        list(on_cluster(GateWorker, (settings, {}, None, tmp_path / "nowhere", True), [0], 1))


def test_a_worker_with_other_extractors_is_refused_and_works_where_the_command_does(setting, tmp_path, monkeypatch):
    root, _ = setting
    monkeypatch.chdir(root)  # "model" is a folder here
    (tmp_path / "features").mkdir()
    networks = ["denoiser:model"], "", ["denoiser:model 0", ""], True
    with pytest.raises(UserError, match="finds other networks"):
        list(on_cluster(picture_worker, (*networks, tmp_path / "features" / "x"), [0], 1))


def test_a_cluster_measures_as_one_machine_does(setting, phantoms, tmp_path, monkeypatch):
    root, _ = setting
    write_data_set(tmp_path / "real", [replace(c, name=f"real-{i}") for i, c in enumerate(phantoms)])
    monkeypatch.setattr("polypforge.workflows.pictures.CASES_AT_ONCE", 4)
    options = {"extractors": ["random_vgg"], "judge": "", "perceptual": "random_vgg"}
    here = evaluate(tmp_path / "real", root / "local", tmp_path / "here", **options)
    there = evaluate(tmp_path / "real", root / "local", tmp_path / "there", **options, engine="ray", workers=2)
    assert len(list((tmp_path / "there" / "features").rglob("*.safetensors"))) == 3 + 6
    for a, b in zip(here["figures"], there["figures"], strict=True):
        assert all(a[k] == b[k] for k in ("measure", "pictures", "real", "made"))
        assert (a["value"] is None and b["value"] is None) or a["value"] == pytest.approx(b["value"], rel=1e-3, abs=1e-4)


@pytest.mark.parametrize(
    ("options", "words"), [({"engine": "slurm"}, "local or ray"), ({"workers": 2}, "belongs to --engine ray"), ({"engine": "ray", "workers": 0}, "from 1 on")]
)  # fmt: skip
def test_bad_options_get_one_sentence(setting, options, words):
    root, _ = setting
    with pytest.raises(UserError, match=words):
        generate_cases(root / "data", root / "bad", model=str(root / "model"), num=1, **options)
