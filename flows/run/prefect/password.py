"""The passwords of Prefect's servers: of the one that `alignflow up` starts, and of those that runs start.

Prefect calls it the auth string. That of `up` is made once per store, in a file that only its owner can read: `deploy`,
`serve`, Prefect's profile and the browser use it. It is in no argument (`ps` shows them), no log and no record.
"""

from __future__ import annotations

import os
import secrets
from functools import cache
from pathlib import Path

from tasks.files import atomic_replace

OWNER_ONLY = 0o600


def password_file(artifacts: Path) -> Path:
    """Where the password of the server of `alignflow up` over these artifacts is."""
    return artifacts.absolute() / ".prefect" / "auth"


def saved_password(artifacts: Path) -> str:
    """The password of the server of `alignflow up`; empty where there is none that only this user can read."""
    file = password_file(artifacts)
    return file.read_text().strip() if file.exists() and is_private(file) else ""


def make_password(artifacts: Path) -> str:
    """The saved password; a new one where it is missing or where other users could have read it."""
    if not (password := saved_password(artifacts)):
        password = _new()
        write_private(password_file(artifacts), password + "\n")
    return password


@cache
def password_of_this_process() -> str:
    """For the servers that this process starts for its own runs."""
    return _new()


def client_settings(url: str, password: str) -> dict[str, str]:
    """The environment of a client of the server at `url`, which is its API's address."""
    return {"PREFECT_API_URL": url, "PREFECT_API_AUTH_STRING": password}


def is_private(file: Path) -> bool:
    """Whether the file is this user's and no other user can read or write it."""
    stat = file.stat()
    return stat.st_uid == os.geteuid() and not stat.st_mode & 0o077


def write_private(file: Path, text: str) -> None:
    """Replace the file by one that no other user can read at any moment."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_replace(file, durable=False) as fresh:
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_ONLY)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(text)


def _new() -> str:
    return f"alignflow:{secrets.token_urlsafe(24)}"
