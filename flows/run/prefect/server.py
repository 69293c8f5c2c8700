"""The Prefect server that a run starts when PREFECT_API_URL is not set, and the addresses of `alignflow up`.

Prefect's own ephemeral server outlives a killed client, and obeys every web page; this one does neither (`served`).
The parent opens the port and hands it over, so its address is known at once and early requests wait in the queue.
`python -m flows.run.prefect.server prepare` migrates an empty database once and for all, so that a first run need not.
"""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

from flows.run.prefect.password import client_settings, password_of_this_process
from flows.system.databases import set_aside_database, sqlite_damage
from flows.system.environment import environment, python_path, without_password, without_proxy
from flows.system.locks import holder, is_free
from tasks.files import temporary

PORTS = (4200, 5000)
"""Of Prefect and MLflow under `alignflow up`, by default."""
CLOUD = "prefect.cloud"
"""Part of the address of Prefect Cloud's API, whose pages lie elsewhere."""


def settings(artifacts: Path) -> dict[str, str]:
    """Prefect's environment: everything below `artifacts/.prefect`, and quiet. The user's own settings come first."""
    home = artifacts.absolute() / ".prefect"
    wanted = {
        "PREFECT_HOME": str(home),
        "PREFECT_LOCAL_STORAGE_PATH": str(home / "storage"),
        "PREFECT_SERVER_MEMO_STORE_PATH": str(home / "memo_store.toml"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",  # else every event that a server did not take, whole
    }
    return {name: os.environ.get(name, value) for name, value in wanted.items()} | without_proxy()


def up_lock(artifacts: Path) -> Path:
    """Held by `alignflow up` over these artifacts, with the addresses of Prefect and MLflow in it."""
    return artifacts.absolute() / "locks" / "up.lock"


def running(artifacts: Path) -> str | None:
    """The API address of the server that `alignflow up` runs over these artifacts, if it does and answers."""
    if is_free(up_lock(artifacts)):
        return None
    url = f"{pages(artifacts)[0]}/api"
    return url if answers(f"{url}/health") else None


def under_up(artifacts: Path, url: str) -> bool:
    """Whether the API at `url` is that of `alignflow up` over these artifacts."""
    return not is_free(up_lock(artifacts)) and url.rstrip("/") == f"{pages(artifacts)[0]}/api"


def pages(artifacts: Path) -> tuple[str, str]:
    """Addresses of Prefect and MLflow under `alignflow up` over these artifacts, or its default ones."""
    lock = up_lock(artifacts)
    addresses = [] if is_free(lock) else holder(lock).split()
    prefect, mlflow = addresses if len(addresses) == 2 else (f"http://127.0.0.1:{port}" for port in PORTS)
    return prefect, mlflow


def prefect_page(artifacts: Path) -> str:
    """Where Prefect's pages are: those of the server of PREFECT_API_URL, or those that `alignflow up` serves."""
    api, named = os.environ.get("PREFECT_API_URL"), os.environ.get("PREFECT_UI_URL")
    if not api:
        return pages(artifacts)[0]
    if named or CLOUD not in api:  # Prefect takes a second to import
        return without_password(named or api).rstrip("/").removesuffix("/api")
    from prefect.settings import Settings

    settings = Settings()  # which knows that the pages of Prefect Cloud lie elsewhere than its API
    return without_password(settings.ui_url or str(settings.api.url)).rstrip("/").removesuffix("/api")


def answers(url: str, seconds: float = 3.0) -> bool:
    """Whether a server answers there; an HTTP error is an answer."""
    try:
        with urlopen(url, timeout=seconds):
            return True
    except HTTPError:
        return True
    except (OSError, ValueError, HTTPException):
        return False


class Server:
    """A running server: `url` answers until `stop`, or until this process ends."""

    def __init__(self, artifacts: Path, *, log: Path) -> None:
        """Start it; returns at once. Until it is up (4 s), requests wait."""
        self._artifacts, self.log = artifacts, log
        self.damage = ""
        """What was wrong with the database, and where it is now, if it was damaged."""
        self._start()

    def _start(self) -> None:
        environment = {**os.environ, **settings(self._artifacts), **_SERVER_ONLY}
        self.damage = prepare_database(self._artifacts)
        password = password_of_this_process()
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
            self._process = start_prefect(listener, password, environment, self.log)
        self.client = client_settings(self.url, password)
        """The environment of its clients."""
        self.pid = self._process.pid

    def restart(self) -> None:
        """Start it again, at another `url`."""
        self.stop()
        self._start()

    def stop(self) -> None:
        """End it now; what it has answered is in the database."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


def start_prefect(
    listener: socket.socket, password: str, environment: Mapping[str, str], log: Path
) -> subprocess.Popen[bytes]:
    """Start a Prefect server on a bound socket. It asks for the password and ends with this process."""
    listener.listen(512)
    host, port = listener.getsockname()
    own = {
        "PREFECT_SERVER_API_AUTH_STRING": password,
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://{host}:{port},http://localhost:{port}",
    }
    descriptor = listener.fileno()
    return start_served(["prefect", str(descriptor)], {**environment, **own}, log, keep=[descriptor])


def start_served(
    arguments: Sequence[str], environment: Mapping[str, str], log: Path, keep: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    """Start a server of `served`, in a session of its own, so that Ctrl-C reaches this process only."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "flows.run.prefect.serving", *arguments], stdin=subprocess.PIPE, stdout=output,
            stderr=output, pass_fds=keep, env={**environment, "PYTHONPATH": python_path()}, start_new_session=True,
        )  # fmt: skip


_SERVER_ONLY = {
    "PREFECT_UI_ENABLED": "0",
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
    "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING",
}


def template() -> Path:
    """Where `prepare` keeps the empty, migrated database of this environment's Prefect."""
    from importlib.metadata import version

    return Path(sys.prefix) / "share" / "alignflow" / f"prefect-{version('prefect')}.db"


def use_template(home: Path) -> None:
    """Begin a new home with the migrated database of `prepare`, if there is one."""
    home.mkdir(parents=True, exist_ok=True)
    database = home / "prefect.db"
    if database.exists() or not template().exists():
        return
    fresh = temporary(database)
    shutil.copyfile(template(), fresh)
    with suppress(FileExistsError):  # unlike a rename, a link never replaces a database that another run uses
        os.link(fresh, database)
    fresh.unlink()


def prepare_database(artifacts: Path) -> str:
    """Prepare Prefect's database. Returns what was wrong with a damaged one and where it is now; empty otherwise."""
    damage = set_aside_if_damaged(artifacts)
    use_template(Path(settings(artifacts)["PREFECT_HOME"]))
    return damage


def set_aside_if_damaged(artifacts: Path) -> str:
    """Move Prefect's database away if it is damaged. Returns what was wrong and where it is now; else nothing."""
    database = Path(settings(artifacts)["PREFECT_HOME"]) / "prefect.db"
    damage = sqlite_damage(database)
    if not damage:
        return ""
    to = set_aside_database(database, artifacts / "damaged")
    return f"Prefect's database was damaged ({damage}): it is in {to}, and Prefect's pages begin anew"


def prepare() -> None:
    """Migrate an empty database and keep it as the template."""
    target = template()
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    home = temporary(target.parent / "home")
    with environment({**settings(home), "PREFECT_HOME": str(home)}):
        import asyncio

        from prefect.server.database import provide_database_interface

        asyncio.run(provide_database_interface().create_db())
    with closing(sqlite3.connect(home / "prefect.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # moves the write-ahead log into the file
    (home / "prefect.db").replace(target)
    shutil.rmtree(home)


if __name__ == "__main__":
    prepare()
