from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from gradtx_hf.cli.configuration import parse_into
from gradtx_hf.client import ClientArguments
from gradtx_hf.curation import CurationArguments
from gradtx_hf.errors import ConfigurationError, MissingFileError
from gradtx_hf.evaluation.arguments import EvaluationArguments
from gradtx_hf.privacy import AuditArguments
from gradtx_hf.training import TranslatorArguments
from tests.cli.conftest import Finished


@dataclass
class Example:
    """Fields of every kind."""

    path: str
    """Where ``it`` is; 100 % documented."""
    rate: float = 0.5
    """A rate."""
    count: int = 1
    """A count."""
    is_on: bool = False
    """A switch."""
    limit: int | None = None
    """A limit."""
    kind: Literal["a", "b"] = "a"
    """A kind."""
    names: list[str] = field(default_factory=list)
    """Names."""
    shares: list[float] | None = None
    """Shares."""
    recipe: dict[str, Any] = field(default_factory=dict)
    """Keys and values."""
    items: list[dict[str, Any]] = field(default_factory=list, metadata={"help": "Structures."})
    """Overridden by its help."""
    either: str | list[str] | None = None
    """A text or texts."""


def parse(*argv: str, config: Path | None = None, text: str | None = None) -> Example:
    files = []
    if config is not None:
        config.write_text(text or "")
        files = ["--config", str(config)]
    parsed, is_json = parse_into(Example, ["--path", "p", *files, *argv], command="example", description="An example.")
    assert is_json == ("--json" in argv)
    return parsed


@pytest.mark.parametrize(
    ("argv", "name", "value"),
    [
        (["--rate", "1e-4"], "rate", 1e-4),
        (["--rate=-2"], "rate", -2.0),
        (["--count", "1e3"], "count", 1000),
        (["--count", "9007199254740993"], "count", 9007199254740993),
        (["--is-on"], "is_on", True),
        (["--is-on", "true"], "is_on", True),
        (["--is_on", "no"], "is_on", False),
        (["--limit", "7"], "limit", 7),
        (["--limit", "none"], "limit", None),
        (["--kind", "b"], "kind", "b"),
        (["--names", "q_proj", "v_proj"], "names", ["q_proj", "v_proj"]),
        (["--names", "q_proj"], "names", ["q_proj"]),
        (["--shares", "0.5", "1"], "shares", [0.5, 1.0]),
        (["--recipe", "{num_steps: 5, learning_rate: 1e-4}"], "recipe", {"num_steps": 5, "learning_rate": 1e-4}),
        (["--items", '[{"path": "a"}, {"path": "b"}]'], "items", [{"path": "a"}, {"path": "b"}]),
        (["--either", "a"], "either", ["a"]),
        (["--path", "5"], "path", "5"),
    ],
)
def test_flags_become_the_fields_type(argv: list[str], name: str, value: object) -> None:
    parsed = getattr(parse(*argv), name)

    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("rate: 1e-4", "rate", 1e-4),
        ("rate: 1", "rate", 1.0),
        ("count: 3.0", "count", 3),
        ("is_on: true", "is_on", True),
        ("limit: null", "limit", None),
        ("names: q_proj", "names", ["q_proj"]),
        ("names: [q_proj, v_proj]", "names", ["q_proj", "v_proj"]),
        ("shares: [1, 2e-1]", "shares", [1.0, 0.2]),
        ("recipe: {learning_rate: 2E-5}", "recipe", {"learning_rate": 2e-5}),
        ("items:\n  - path: a\n    n: 1", "items", [{"path": "a", "n": 1}]),
        ("either: a", "either", "a"),
        ("either: [a]", "either", ["a"]),
        ("", "rate", 0.5),
    ],
)
def test_yaml_becomes_the_fields_type(text: str, name: str, value: object, tmp_path: Path) -> None:
    parsed = getattr(parse(config=tmp_path / "c.yaml", text=text), name)

    assert parsed == value
    assert type(parsed) is type(value)


def test_json_is_accepted_without_being_a_field(tmp_path: Path) -> None:
    assert parse("--json", "--count", "2").count == 2
    with pytest.raises(ConfigurationError, match="unknown key 'json'"):
        parse(config=tmp_path / "c.yaml", text="json: true")


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("count: ${GRADTX_NUMBER}", "count", 1000),
        ("rate: ${GRADTX_NUMBER}", "rate", 1000.0),
        ("names: [a, 'b${GRADTX_NUMBER}']", "names", ["a", "b1e3"]),
        ("recipe: {learning_rate: '${GRADTX_NUMBER}'}", "recipe", {"learning_rate": "1e3"}),
        ("items:\n  - path: ${GRADTX_TEXT}/a", "items", [{"path": "x: y # z\nrate: 7/a"}]),
        ("count: 2  # ${GRADTX_UNSET} or ${HF_TOKEN}", "count", 2),
        ("either: ${GRADTX_TEXT}", "either", "x: y # z\nrate: 7"),
    ],
)
def test_variables_stand_for_texts_and_change_no_structure(
    text: str, name: str, value: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADTX_NUMBER", "1e3")
    monkeypatch.setenv("GRADTX_TEXT", "x: y # z\nrate: 7")

    parsed = parse(config=tmp_path / "c.yaml", text=text)

    assert getattr(parsed, name) == value
    assert type(getattr(parsed, name)) is type(value)
    assert name == "rate" or parsed.rate == 0.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [a, '${GRADTX_UNSET}']", "needs the environment variable GRADTX_UNSET. Set it."),
        ("recipe: {a: '${HF_TOKEN}'}", "names the environment variable HF_TOKEN, which looks like a secret"),
        ("kind: ${my_api_key}", "names the environment variable my_api_key, which looks like a secret"),
        ("kind: ${PASSWORDS}", "PASSWORDS, which looks like a secret"),
        ("kind: ${CLIENT_SECRET}", "CLIENT_SECRET, which looks like a secret"),
        ("names: [${GRADTX_UNSET}, b]", "${NAME} inside [...] or {...} needs quotes."),
    ],
)
def test_variables_that_cannot_be_used_are_refused_without_their_value(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_TOKEN", "my_api_key", "PASSWORDS", "CLIENT_SECRET"):
        monkeypatch.setenv(name, "hidden-value")

    with pytest.raises(ConfigurationError) as caught:
        parse(config=tmp_path / "c.yaml", text=text)

    assert message in str(caught.value)
    assert "hidden-value" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    parsed = parse("--count", "2", config=tmp_path / "c.yaml", text="count: 1\nrate: 0.1\npath: other")

    assert (parsed.count, parsed.rate, parsed.path) == (2, 0.1, "p")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cuont: 2", "unknown key 'cuont' in the configuration of 'gradtx example'. See --help."),
        ("count: two", "got 'two' for 'count', expected a whole number."),
        ("count: 1.5", "got 1.5 for 'count', expected a whole number."),
        ("count: .inf", "got inf for 'count', expected a whole number."),
        ("count: true", "got True for 'count', expected a whole number."),
        ("count: null", "got None for 'count', expected a whole number."),
        ("count: [1]", r"got [1] for 'count', expected a whole number."),
        ("rate: fast", "got 'fast' for 'rate', expected a number."),
        ("is_on: maybe", "got 'maybe' for 'is_on', expected true or false."),
        ("is_on: 2", "got 2 for 'is_on', expected true or false."),
        ("kind: c", """got 'c' for 'kind', expected one of "a", "b"."""),
        ("limit: x", "got 'x' for 'limit', expected a whole number or null."),
        ("names: {a: 1}", "got {'a': 1} for 'names', expected a list, each text."),
        ("names: [1]", "got [1] for 'names', expected a list, each text."),
        ("shares: [a]", "got ['a'] for 'shares', expected a list, each a number or null."),
        ("recipe: [1]", "got [1] for 'recipe', expected keys and values."),
        ("recipe: '{'", "got '{' for 'recipe', expected keys and values."),
        ("items: [a]", "got ['a'] for 'items', expected a list, each keys and values."),
        ("path: null", "got None for 'path', expected text."),
        ("- a", "holds no 'key: value' pairs."),
        ("a: b: c", "is not YAML (mapping values are not allowed here)."),
        ("a: !!python/object:os.system {}", "is not YAML (could not determine a constructor"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(text: str, message: str, tmp_path: Path) -> None:
    arguments = ["--config", str(tmp_path / "c.yaml")]
    (tmp_path / "c.yaml").write_text(text)

    with pytest.raises(ConfigurationError) as caught:
        parse_into(Example, arguments, command="example", description="")

    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(b"\xff\xfe\x00")

    with pytest.raises(ConfigurationError, match="is not YAML"):
        parse_into(Example, ["--config", str(tmp_path / "c.yaml")], command="example", description="")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="is not there"):
        parse_into(Example, ["--config", str(tmp_path / "c.yaml")], command="example", description="")


def test_a_missing_field_is_named_with_its_flag() -> None:
    with pytest.raises(ConfigurationError, match=r"'path' is missing\. Give it in --config, or as --path\."):
        parse_into(Example, [], command="example", description="")


def test_flags_are_not_guessed_from_their_beginnings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse("--cou", "2")

    assert end.value.code == 2
    assert "unrecognized arguments: --cou" in capsys.readouterr().err


def test_help_says_what_stands_under_a_field(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--help")

    shown = " ".join(capsys.readouterr().out.split())
    assert "Where it is; 100 % documented." in shown
    assert "A rate. (default: 0.5)" in shown
    assert "Structures." in shown
    assert "Overridden" not in shown


COMMANDS = {
    "curate": CurationArguments,
    "train": TranslatorArguments,
    "client": ClientArguments,
    "evaluate": EvaluationArguments,
    "audit": AuditArguments,
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_field_is_a_flag_with_hyphens_and_underscores(command: str, gradtx: Callable[..., Finished]) -> None:
    shown = gradtx(command, "--help").out

    for declared in dataclasses.fields(COMMANDS[command]):
        if declared.init:
            assert f"--{declared.name.replace('_', '-')}" in shown
            assert f"--{declared.name}" in shown


@pytest.mark.parametrize("command", COMMANDS)
def test_every_field_of_ours_says_what_it_is(command: str, gradtx: Callable[..., Finished]) -> None:
    """A flag without help is shown alone on its line, with nothing behind or below it."""
    lines = [line.rstrip() for line in gradtx(command, "--help").out.splitlines()]
    flags = [i for i, line in enumerate(lines) if line.startswith("  --")]

    for i in flags:
        has_help_behind = len(lines[i].split("  ")) > 2
        has_help_below = i + 1 < len(lines) and lines[i + 1].startswith("                        ")
        assert has_help_behind or has_help_below, lines[i]


def test_every_default_of_the_trainer_can_be_written_down(tmp_path: Path) -> None:
    """The same value in a file is the same value: a configuration that was saved can be used again."""
    defaults = TranslatorArguments(store="s", output_dir=str(tmp_path / "out"))
    declared = [f for f in dataclasses.fields(TranslatorArguments) if f.init and f.default is not dataclasses.MISSING]
    values = {f.name: f.default for f in declared if f.name not in ("store", "output_dir")}
    (tmp_path / "c.yaml").write_text(json.dumps(values, default=str))

    parsed, _ = parse_into(
        TranslatorArguments,
        ["--config", str(tmp_path / "c.yaml"), "--store", "s", "--output-dir", str(tmp_path / "out")],
        command="train",
        description="",
    )

    assert parsed.to_dict() == defaults.to_dict()
