"""Where weights are: a folder, a hub id, or `starter:NAME` for those shipped with the package."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from pathlib import Path

from polypforge.core.errors import UserError

STARTER = "starter:"
NOT_USED = ["*.fp16.*", "*.non_ema.*", "safety_checker/*"]  # parts of Stable Diffusion repositories that no recipe reads


class _Network:
    """Set by each command, also for the models that a model names in its turn."""

    forbidden = False


def set_offline(offline: bool) -> None:
    """Whether anything may be fetched until this is said again."""
    _Network.forbidden = offline


def starter_root() -> Path:
    return Path(str(files("polypforge") / "starter"))


def starter_names() -> list[str]:
    root = starter_root()
    return sorted(p.name for p in root.iterdir() if (p / "config.json").is_file()) if root.is_dir() else []


def is_local(model: str) -> bool:
    """Whether `model` names shipped weights or a folder of this machine, and nothing else (a hub id, a file, nothing)."""
    return model.startswith(STARTER) or (model != "" and Path(model).is_dir())


def public_name(model: str) -> str:
    """As results may tell it: of a folder of this machine its last part alone, for paths name people and places."""
    return Path(model).name if not model.startswith(STARTER) and Path(model).exists() else model


def locate(model: str, offline: bool = False) -> Path:
    """The folder that holds `model`. A hub id is downloaded (safetensors and JSON only) unless `offline`.

    Raises UserError when nothing is there, naming what is or the command that fetches it.
    """
    if model.startswith(STARTER):
        if model.removeprefix(STARTER) not in starter_names():
            raise UserError(
                f"there are no starter weights '{model}': the package ships {', '.join(STARTER + n for n in starter_names()) or 'none'}."
            )
        return starter_root() / model.removeprefix(STARTER)
    path = Path(model)
    if path.exists():
        for folder in (path, path / "model"):  # a run folder keeps its weights in model/
            if (folder / "config.json").is_file() or (folder / "model_index.json").is_file():
                refuse_pickles(folder)
                return folder
        raise UserError(
            f"{model} holds no weights: it needs a config.json or model_index.json (a finished run, or a folder of save_pretrained)."
        )
    if model.count("/") == 1 and not model.startswith((".", "/")) and not Path(model).parent.is_dir():
        return _from_hub(model, offline)
    raise UserError(f"{model}: no such folder; weights are named by folder, hub id (owner/name) or {STARTER}NAME.")


def _from_hub(model: str, offline: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    offline = offline or _Network.forbidden
    try:
        folder = Path(snapshot_download(model, allow_patterns=["*.json", "*.txt", "*.model"], local_files_only=offline))
        # Beside a pipeline's parts lie single-file copies of gigabytes that nothing reads.
        weights = "*/*.safetensors" if (folder / "model_index.json").is_file() else "*.safetensors"
        snapshot_download(model, allow_patterns=[weights], ignore_patterns=NOT_USED, local_files_only=offline)
        return folder
    except LocalEntryNotFoundError:
        raise UserError(f"{model} is not in the local cache: fetch it once with `hf download {model}` where there is a network.") from None
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise UserError(f"{model} could not be fetched ({str(error).splitlines()[0]}): try `hf download {model}`.") from error


def refuse_pickles(folder: Path) -> None:
    """Weights that can run code when they are opened are never opened: raises UserError where no safetensors lies beside them."""
    for path in folder.rglob("*"):
        if path.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl") and not any(path.parent.glob("*.safetensors")):
            raise UserError(
                f"{path} is a pickle, which can run code when it is opened. If you trust it, convert it first: python -c "
                f"\"from diffusers import DiffusionPipeline as P; P.from_pretrained('{folder}').save_pretrained('{folder}-safe')\""
            )


def weights_hash(folder: Path) -> str:
    """16 hexadecimal digits of SHA-256 over all configuration and weight files of a model folder, in name order."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.suffix in (".json", ".safetensors")):
        digest.update(path.relative_to(folder).as_posix().encode())
        with path.open("rb") as file:
            while part := file.read(1 << 24):
                digest.update(part)
    return digest.hexdigest()[:16]
