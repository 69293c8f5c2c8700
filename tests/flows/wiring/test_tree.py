"""YAML 1.2 with places."""

import math
import re
from pathlib import Path

import pytest

from flows.wiring.tree import parse_yaml, read
from tasks.contract import SpecError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-7", 5e-7), ("1.0e-3", 1e-3), ("5.", 5.0), (".5", 0.5), ("-3", -3), ("+3", 3), ("010", 10), ("0o10", 8),
        ("0x1F", 31), ("on", "on"), ("yes", "yes"), ("NO", "NO"), ("true", True), ("False", False), ("~", None),
        ("null", None), ("", None), ("2024-05-01", "2024-05-01"), ("2024-05-01 10:00:00", "2024-05-01 10:00:00"),
        ("12:30:45", "12:30:45"), ("1_000", "1_000"), ("'5'", "5"), ('"true"', "true"), ("'null'", "null"),
        ("''", ""), ("org/name", "org/name"), ("./a.jsonl", "./a.jsonl"), ("=", "="), ("[1, a]", [1, "a"]),
        ("{a: {b: }}", {"a": {"b": None}}), ("| \n  5\n", "5\n"), ("{1: x, true: y}", {"1": "x", "true": "y"}),
        (".inf", math.inf),
    ],
)  # fmt: skip
def test_scalars_are_those_of_the_core_schema(text: str, value: object) -> None:
    found = parse_yaml(text, "f.yaml").plain
    assert found == value
    assert type(found) is type(value)


def test_every_key_and_value_knows_its_place() -> None:
    tree = parse_yaml("a:\n  b: [1, {c: 2}]\n", "f.yaml")
    inner = tree.value["a"].value["b"]  # type: ignore[index,call-overload,union-attr]
    assert (str(inner.key), str(inner.where)) == ("f.yaml:2:3", "f.yaml:2:6")
    assert str(inner.value[1].value["c"].where) == "f.yaml:2:14"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2", "f.yaml:2:1: the key 'a' is used twice: first at f.yaml:1:1"), ("a: [1, 2", "invalid YAML"),
        ("a: b: c", "f.yaml:1:5: invalid YAML"), ("\ta: 1", "invalid YAML"),
        ("a: !!str 5", "f.yaml:1:4: tags are not part"),
        ("a: !!python/name:os.system x", "f.yaml:1:4: tags are not part"),
        ("a: !x {b: 1}", "f.yaml:1:4: tags are not part"), ("a: &x 1\nb: *x", "f.yaml:1:4: anchors and aliases"),
        ("? [a]\n: b", "f.yaml:1:3: a key must be a word"), ("a: 1\n---\nb: 2", "f.yaml:2:1: a second YAML document"),
        ("[" * 60 + "]" * 60, "nested more than 40 deep"), ("a: \x00", "invalid YAML"),
    ],
)  # fmt: skip
def test_what_is_no_wiring_is_refused(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=re.escape(message)):
        parse_yaml(text, "f.yaml")


def test_merge_keys_are_ordinary_keys() -> None:
    assert parse_yaml("<<: {a: 1}", "f.yaml").plain == {"<<": {"a": 1}}


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError, match=r"^nothing\.yaml: there is no such file$"):
        read(Path("nothing.yaml"))
    Path("latin.yaml").write_bytes(b"a: \xff")
    with pytest.raises(SpecError, match=r"^latin\.yaml: cannot be read"):
        read(Path("latin.yaml"))
    with pytest.raises(SpecError, match="cannot be read"):
        read(tmp_path)


def test_a_file_is_named_as_seen_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    file = tmp_path / "sub" / "p.yaml"
    file.write_text("a: 1")
    monkeypatch.chdir(tmp_path)
    assert read(file).where.file == "sub/p.yaml"
    monkeypatch.chdir(tmp_path / "sub")
    assert read(file).where.file == "p.yaml"
