"""Typed configuration: nested frozen dataclasses built from YAML, JSON and `--set key=value`, or refused by name."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from polypforge.core.errors import UserError

T = TypeVar("T")


def from_dict(cls: type[T], values: Mapping[str, Any], where: str = "configuration") -> T:
    """Build dataclass `cls` from plain values. Unknown keys and wrong types raise UserError and name the key."""
    if not isinstance(values, Mapping):
        raise UserError(f"{where} must be a mapping of settings, not {values!r}.")
    hints = get_type_hints(cls)
    known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise UserError(f"{where}: unknown key '{key}'; known keys are {', '.join(sorted(known))}.")
    built = {key: _convert(hints[key], value, f"{where}: {key}") for key, value in values.items()}
    try:
        return cls(**built)
    except (ValueError, TypeError) as error:
        raise UserError(f"{where}: {error}.") from error


def _convert(kind: Any, value: Any, where: str) -> Any:
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _convert(next(a for a in args if a is not type(None)), value, where)
    if is_dataclass(kind) and isinstance(kind, type):
        return from_dict(kind, value, where)
    if origin is Mapping:
        if not isinstance(value, Mapping):
            raise UserError(f"{where} must be a mapping, not {value!r}.")
        nested = is_dataclass(args[1]) or get_origin(args[1]) is Mapping  # of which nothing said means nothing changed
        return {str(k): _convert(args[1], {} if v is None and nested else v, f"{where}: {k}") for k, v in value.items()}
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise UserError(f"{where} must be a list, not {value!r}.")
        inner = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if len(inner) != len(value):
            raise UserError(f"{where} must have {len(inner)} entries, not {len(value)}.")
        return tuple(_convert(a, v, where) for a, v in zip(inner, value, strict=True))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is float and isinstance(value, str):  # YAML 1.1 reads 1e-4 as text
        try:
            return float(value)
        except ValueError:
            pass
    if kind in (int, float, str, bool) and type(value) is not kind:
        raise UserError(f"{where} must be of type {kind.__name__}, not {value!r}.")
    return value


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping, safely loaded (no code, no objects)."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such configuration file.") from None
    except OSError as error:
        raise UserError(f"{path} can't be read as a configuration file ({error.strerror}).") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {str(error).splitlines()[0]}.") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold a mapping of settings at its top level.")
    return values


def override(values: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """Apply `a.b=value` assignments (values in YAML syntax) to a copy of nested `values`."""
    result: dict[str, Any] = {k: dict(v) if isinstance(v, Mapping) else v for k, v in values.items()}
    for assignment in assignments:
        key, sign, text = assignment.partition("=")
        if not sign or not key:
            raise UserError(f"--set {assignment}: write it as key=value, for example --set training.batch_size=16.")
        *parents, last = key.split(".")
        level = result
        for parent in parents:
            if not isinstance(level.get(parent) or {}, Mapping):
                raise UserError(f"--set {assignment}: '{parent}' is a value, not a section.")
            level[parent] = dict(level.get(parent) or {})
            level = level[parent]
        try:
            level[last] = yaml.safe_load(text) if text else ""
        except (yaml.YAMLError, ValueError) as error:
            raise UserError(f"--set {assignment}: the value is not valid YAML ({str(error).splitlines()[0]}).") from error
    return result
