"""Who is answered by the servers, who knows their passwords, and what never goes through a proxy."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.commands.registered_deployments import (
    ENTRY,
    difference,
    forget_deployments,
    registered_file,
    remember_deployments,
)
from flows.run.prefect.password import make_password, password_file, saved_password
from flows.run.prefect.serving import refusal
from flows.system.environment import without_proxy


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1:4200", None),
        ("localhost:4200", "http://localhost:4200"),
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),  # the other end of an SSH tunnel
        ("[::1]:4200", "http://[::1]:4200"),
        ("LOCALHOST", None),
    ],
)
def test_own_pages_and_clients_of_this_machine_are_answered(host: str, origin: str | None) -> None:
    assert refusal(host, origin) == ""


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("evil.example.org:4200", "http://evil.example.org:4200"), ("evil.example.org:4200", None),
        ("127.0.0.1.evil.example.org", None), ("localhost@evil.example.org", None), ("", None), ("[", None),
        ("127.0.0.1:4200", "http://evil.example.org"), ("127.0.0.1:4200", "http://127.0.0.1:3000"),
        ("127.0.0.1:4200", "http://localhost:4200"), ("127.0.0.1:4200", "null"), ("127.0.0.1:4200", "http://[evil"),
        ("127.0.0.1:4200", ""),
    ],
)  # fmt: skip
def test_other_hosts_and_pages_are_refused(host: str, origin: str | None) -> None:
    assert refusal(host, origin)


def test_a_password_is_made_once_for_its_owner_alone_and_anew_where_others_could_have_read_it(tmp_path: Path) -> None:
    assert saved_password(tmp_path) == ""
    first = make_password(tmp_path)
    assert len(first) > 30
    assert password_file(tmp_path).stat().st_mode & 0o777 == 0o600
    assert make_password(tmp_path) == saved_password(tmp_path) == first
    password_file(tmp_path).chmod(0o640)
    assert saved_password(tmp_path) == ""
    second = make_password(tmp_path)
    assert second != first
    assert password_file(tmp_path).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, "127.0.0.1,localhost,::1"),
        ({"NO_PROXY": "corp.example.org"}, "corp.example.org,127.0.0.1,localhost,::1"),
        ({"no_proxy": "a, localhost", "NO_PROXY": "b"}, "a,localhost,b,127.0.0.1,::1"), ({"NO_PROXY": "*"}, "*"),
    ],
)  # fmt: skip
def test_what_goes_through_no_proxy_already_still_does_not(
    before: dict[str, str], after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in before.items():
        monkeypatch.setenv(name, value)
    assert without_proxy() == {"no_proxy": after, "NO_PROXY": after}


def _deployment(fields: dict[str, Any], **changed: Any) -> Any:
    """A deployment as Prefect's client returns it."""
    there = {"path": None, "storage_document_id": None, "infrastructure_document_id": None, **fields, **changed}
    return SimpleNamespace(job_variables=there["job_variables"], model_dump=lambda mode: there)


def test_a_deployment_is_as_registered_or_what_differs_is_named(tmp_path: Path) -> None:
    env = {"ALIGNFLOW_FILE": "/p.yaml", "ALIGNFLOW_ARTIFACTS": str(tmp_path)}
    fields = {"entrypoint": f"{ENTRY}:tiny", "pull_steps": [{"cd": "/"}], "job_variables": {"env": env}}
    other = {**fields, "entrypoint": "/elsewhere/flows/entry.py:tiny"}
    remember_deployments(tmp_path, {"tiny/manual": fields, "tiny/other": other})
    assert registered_file(tmp_path).stat().st_mode & 0o777 == 0o600
    assert difference("tiny/manual", _deployment(fields)) == ""
    assert "did not register it" in difference("tiny/evil", _deployment(fields))
    assert "its entrypoint changed" in difference("tiny/manual", _deployment(fields, entrypoint="evil.py:flow"))
    assert "its path changed" in difference("tiny/manual", _deployment(fields, path="/evil"))
    assert "its pull_steps changed" in difference("tiny/manual", _deployment(fields, pull_steps=[{"run": "evil"}]))
    more = {"env": {**env, "PYTHONSTARTUP": "evil.py"}}
    assert "its job_variables changed" in difference("tiny/manual", _deployment(fields, job_variables=more))
    assert "another checkout registered it" in difference("tiny/other", _deployment(other))
    assert "did not register it" in difference("tiny/manual", _deployment(fields, job_variables={}))
    forget_deployments(tmp_path, ["tiny/other"])
    assert "did not register it" in difference("tiny/other", _deployment(other))
    registered_file(tmp_path).chmod(0o666)
    assert "did not register it" in difference("tiny/manual", _deployment(fields)), "others could have written it"
