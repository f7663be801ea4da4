from dataclasses import dataclass

import pytest

from polypforge.core.config import from_dict, override, read_yaml
from polypforge.core.errors import UserError
from polypforge.recipes.forge.config import ForgeConfig
from polypforge.training.config import TrainingConfig


@dataclass(frozen=True)
class Inner:
    size: int = 3


@dataclass(frozen=True)
class Outer:
    inner: Inner = Inner()
    rate: float = 0.1
    widths: tuple[int, ...] = (1, 2)
    note: str | None = None


def test_nested_values_and_yaml_numbers():
    built = from_dict(Outer, {"inner": {"size": 5}, "rate": "1e-4", "widths": [4, 5, 6], "note": None})
    assert built == Outer(Inner(5), 1e-4, (4, 5, 6))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"ratee": 1}, "unknown key 'ratee'"),
        ({"inner": {"size": "big"}}, "size must be of type int"),
        ({"widths": 3}, "must be a list"),
        ({"inner": 3}, "mapping"),
    ],
)
def test_mistakes_are_named(values, words):
    with pytest.raises(UserError, match=words):
        from_dict(Outer, values)


def test_override():
    assert override({"a": {"b": 1}}, ["a.b=2", "c.d=[1, 2]"]) == {"a": {"b": 2}, "c": {"d": [1, 2]}}
    with pytest.raises(UserError, match="key=value"):
        override({}, ["oops"])


def test_yaml_cannot_build_objects(tmp_path):
    (tmp_path / "c.yaml").write_text("a: !!python/object/apply:os.system ['true']")
    with pytest.raises(UserError, match="not valid YAML"):
        read_yaml(tmp_path / "c.yaml")


def test_a_run_needs_an_end():
    with pytest.raises(UserError, match="needs an end"):
        from_dict(TrainingConfig, {})


def test_forge_config_round_trips_through_plain_values():
    from dataclasses import asdict

    config = ForgeConfig(guidance=1.25)
    assert from_dict(ForgeConfig, asdict(config)) == config
