"""The command table. Heavy imports stay inside the commands, so that `polypforge --help` answers at once."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from polypforge.cli import data as data_commands
from polypforge.cli.evaluation import bench, downstream, evaluate
from polypforge.cli.options import (
    BatchSize,
    Device,
    Engine,
    GateFile,
    JsonOut,
    Judges,
    Layout,
    Offline,
    Seed,
    SkipBad,
    Steps,
    Thresholds,
    Workers,
    duration,
    emit,
    thresholds,
)
from polypforge.cli.planning import plan, propose, references
from polypforge.cli.quality import audit, gate

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=(
    "Expand a small labelled endoscopy data set with realistic, validated, synthetic labelled images. For research, not for diagnosis."
))  # fmt: skip
app.add_typer(data_commands.app, name="data")


def _version(asked: bool) -> None:
    if asked:
        from polypforge import __version__

        emit({"version": __version__}, False, __version__)
        raise typer.Exit


@app.callback()
def of_all(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the phantom data, the expanded set and the report.")] = Path("polypforge-demo"),
    num: Annotated[int, typer.Option(help="How many accepted synthetic cases to make.")] = 24,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: JsonOut = False,
) -> None:
    """Make phantom colonoscopies, expand them with the starter weights, and write a report. Offline; minutes on two cores."""
    from polypforge.workflows.demo import demo as run

    result = run(out, num=num, seed=seed, device=device)
    emit(result.to_json(), as_json, str(result.report))


@app.command()
def expand(
    data: Annotated[Path, typer.Argument(help="Labelled images: a data-set folder, or any layout that `data import` knows.")],
    out: Annotated[Path, typer.Option(help="Folder for the expanded data set. The same command resumes an interrupted run.")],
    num: Annotated[int, typer.Option(help="How many accepted synthetic cases to make.")],
    recipe: Annotated[
        str | None, typer.Option(help="Kind of generator: forge (default), polyp_gen ... Without --model, all but forge are trained first.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Generator: run folder, saved folder, hub id, or starter:NAME.")] = None,
    steps: Steps = None,
    budget: Annotated[str | None, typer.Option(help="Fine-tune (or train) on the data for so long first (90s, 15m, 2h).")] = None,
    want: Annotated[
        str | None, typer.Option(help="Kinds of lesions to ask for: 'balance size', 'more small flat', or a CSV of quotas; see `plan`.")
    ] = None,
    gates: GateFile = "starter",
    judge: Judges = None,
    threshold: Thresholds = None,
    layout: Layout = "auto",
    skip_bad: SkipBad = False,
    synthetic_only: Annotated[bool, typer.Option(help="Leave the real cases out of the result.")] = False,
    batch_size: BatchSize = 16,
    seed: Seed = 0,
    device: Device = "auto",
    offline: Offline = False,
    as_json: JsonOut = False,
) -> None:
    """From a small labelled data set to a larger, checked one, with a report."""
    from polypforge.workflows.expand import expand as run

    result = run(
        data, out, num, recipe=recipe, model=model, steps=steps, budget_seconds=duration(budget), want=want, gates=gates,
        judges=judge or (), thresholds=thresholds(threshold), layout=layout, skip_bad=skip_bad,
        synthetic_only=synthetic_only, batch_size=batch_size, seed=seed, device=device, offline=offline,
    )  # fmt: skip
    emit(
        result.to_json(),
        as_json,
        f"{result.accepted} accepted of {result.made} made, {result.real} real cases, in {result.seconds:.0f} s; "
        f"most memory held: {_memory(result.peak_memory_gb)}\n{result.report}",
    )


@app.command()
def train(
    recipe: Annotated[
        str,
        typer.Argument(help="A recipe, {window,latent,lesion}_segmenter, window_detector, overlay_finder, first_stage or frame_encoder."),
    ],
    out: Annotated[Path | None, typer.Option(help="Run folder. The same command resumes it.")] = None,
    data: Annotated[list[Path] | None, typer.Option(help="A data set; may be given several times.")] = None,
    config: Annotated[
        str | None, typer.Option(help="YAML with the sections model, training, phantom; or starter (default) or paper, as shipped.")
    ] = None,
    assignments: Annotated[list[str] | None, typer.Option("--set", help="Override one setting: training.batch_size=16.")] = None,
    budget: Annotated[str | None, typer.Option(help="Train for so long (90s, 15m, 2h).")] = None,
    start: Annotated[str | None, typer.Option(help="Set out from these weights: a run, a folder, a hub id or starter:NAME.")] = None,
    folds: Annotated[
        int | None, typer.Option(help="Of a judge: train so many, each without a part of the data, to judge what is made from that part.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would take; touches neither data nor weights.")] = False,
    layout: Layout = "auto",
    skip_bad: SkipBad = False,
    device: Device = "auto",
    offline: Offline = False,
    as_json: JsonOut = False,
) -> None:
    """Train a recipe, a judge or the first stage. Checkpoints, validation, previews and TensorBoard logs go to the run folder."""
    from polypforge.core.errors import UserError
    from polypforge.workflows.train import dry_run as plan
    from polypforge.workflows.train import train as run

    if dry_run:
        planned = plan(recipe, config, assignments or [], duration(budget))
        parts = "".join(f"\n{count / 1e6:10.2f} M  {name}" for name, count in planned["parameters"].items())
        here, gpu = (
            f"{h:.1f} h" if h is not None else "until the budget ends" for h in (planned["hours_here"], planned["hours_on_assumed_gpu"])
        )
        emit(
            planned,
            as_json,
            f"{planned['parameters_total'] / 1e6:.2f} M parameters, {planned['parameters_trained'] / 1e6:.2f} M trained{parts}\n"
            f"memory about {planned['memory_gb']['total']:.1f} GB; {planned['step_tflop']:.2f} TFLOP a step\n"
            f"here: {here}; on a GPU of {planned['assumed_gpu_tflops']:.0f} TFLOP/s (assumed): {gpu}",
        )
        return
    if out is None:
        raise UserError("say where to: --out RUN (a run folder), or --dry-run to see what it would take.")
    if folds is not None:
        from polypforge.workflows.cross_fit import cross_fit

        fitted = cross_fit(
            recipe, data or [], out, folds, config=config, assignments=assignments or [], budget_seconds=duration(budget),
            device=device, layout=layout, skip_bad=skip_bad, offline=offline, start=start,
        )  # fmt: skip
        emit(fitted, as_json, f"{fitted['folds']} judges, {fitted['step']} steps in {fitted['seconds']:.0f} s\n{fitted['model']}")
        return
    result = run(
        recipe,
        data or [],
        out,
        config=config,
        assignments=assignments or [],
        budget_seconds=duration(budget),
        device=device,
        layout=layout,
        skip_bad=skip_bad,
        offline=offline,
        start=start,
    )
    emit(result, as_json, _trained(result))


def _trained(result: dict[str, Any]) -> str:
    reached = f", {result['tflops']:.3f} TFLOP/s ({result['utilisation']:.0%} of a convolution here)" if "tflops" in result else ""
    best = "not validated yet" if result["best_loss"] is None else f"best validation {result['best_loss']:.4f}"
    return f"step {result['step']}, {result['samples']} samples, {best}{reached}\n{result['model']}"


@app.command()
def distill(
    data: Annotated[list[Path], typer.Argument(help="Frames to learn from: the training splits of data sets.")],
    out: Annotated[Path, typer.Option(help="Run folder of the weights. The same command resumes it.")],
    model: Annotated[str, typer.Option(help="Weights of forge: run folder, saved folder, hub id, or starter:NAME.")] = "starter:forge",
    budget: Annotated[str | None, typer.Option(help="Train for so long (90s, 15m, 2h); 25 minutes by default.")] = None,
    layout: Layout = "auto",
    skip_bad: SkipBad = False,
    seed: Seed = 0,
    device: Device = "auto",
    offline: Offline = False,
    as_json: JsonOut = False,
) -> None:
    """Teach given weights of forge to draw in one to four steps what they draw in many."""
    from polypforge.workflows.distill import BUDGET_SECONDS
    from polypforge.workflows.distill import distill as run

    seconds = BUDGET_SECONDS if budget is None else duration(budget)
    result = run(
        data, out, model=model, budget_seconds=seconds, layout=layout, skip_bad=skip_bad, seed=seed, device=device, offline=offline
    )
    emit(result, as_json, _trained(result))


for command in (plan, references, propose, gate, audit, evaluate, downstream, bench):
    app.command()(command)


@app.command()
def generate(
    out: Annotated[Path, typer.Option(help="Folder for the cases. The same command finishes what is left.")],
    data: Annotated[Path, typer.Option(help="The frames to repaint.")],
    model: Annotated[str, typer.Option(help="Generator: run folder, saved folder, hub id, or starter:NAME.")] = "starter:forge",
    steps: Steps = None,
    requests: Annotated[Path | None, typer.Option(help="JSONL of requests; without it, --num of them are planned.")] = None,
    num: Annotated[int | None, typer.Option(help="How many cases to plan when no requests are given.")] = None,
    shard: Annotated[str, typer.Option(help="K/N: make only every N-th request, starting with the K-th.")] = "1/1",
    batch_size: BatchSize = 16,
    engine: Engine = "local",
    workers: Workers = None,
    layout: Layout = "auto",
    skip_bad: SkipBad = False,
    seed: Seed = 0,
    device: Device = "auto",
    offline: Offline = False,
    as_json: JsonOut = False,
) -> None:
    """Make the cases that a list of requests describes, without judging them."""
    from polypforge.workflows.generate import generate_cases as run

    result = run(
        data, out, model=model, steps=steps, requests_file=requests, num=num, shard=shard, batch_size=batch_size, engine=engine,
        workers=workers, layout=layout, skip_bad=skip_bad, seed=seed, device=device, offline=offline,
    )  # fmt: skip
    held = _memory(result["peak_memory_gb"])
    emit(result, as_json, f"{result['made']} made, {result['cases']} cases in {out}; most memory held: {held}")


@app.command()
def starter(
    data: Annotated[Path, typer.Option(help="Folder with kvasir-seg/ and polypgen/.")],
    out: Annotated[Path, typer.Option(help="Folder for the runs and, in starter/, the new weights.")],
    budget_share: Annotated[float, typer.Option(help="Scale all training budgets by this factor.")] = 1.0,
    device: Device = "auto",
    as_json: JsonOut = False,
) -> None:
    """Train all shipped weights again, measure them on unseen frames, and write the model card."""
    from polypforge.workflows.starter import build_starter as run

    result = run(data, out, budget_share=budget_share, device=device)
    emit(result, as_json, f"{result['folder']}\n{result['card']}")


def _memory(held: dict[str, float]) -> str:
    return ", ".join(f"{where} {size} GB" for where, size in held.items()) or "unknown"


OF_THE_MACHINE = {
    errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.EDQUOT, errno.ENAMETOOLONG, errno.EIO, errno.ESTALE, errno.ELOOP,
}  # fmt: skip


def main() -> None:
    """Entry point: a user's error is one sentence on stderr and exit code 2; Ctrl-C is code 130."""
    from polypforge.core.errors import UserError

    try:
        code = app(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except UserError as error:
        print(f"polypforge: {error}", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        print("polypforge: stopped; the same command resumes.", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # whoever read the results has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        if error.errno not in OF_THE_MACHINE:
            raise
        where, why = error.filename or "the output folder", error.strerror
        print(f"polypforge: {where} can't be read or written ({why}): mend that or choose another folder.", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        _usage_error(error)
        _memory_error(error)
        raise


def _usage_error(error: Exception) -> None:
    """Typer's own complaints about options also end with one sentence and code 2."""
    show: Any = getattr(error, "format_message", None)
    if show is not None:
        print(f"polypforge: {show()}", file=sys.stderr)
        sys.exit(2)


def _memory_error(error: Exception) -> None:
    """Where nothing could be halved any more, or a command doesn't halve."""
    from polypforge.models.memory import is_out_of_memory

    if is_out_of_memory(error):
        print(
            "polypforge: out of memory: ask for less at once (--batch-size, --workers, --set training.batch_size with another --out), "
            "or leave the GPU alone (--device cpu).",
            file=sys.stderr,
        )
        sys.exit(2)
