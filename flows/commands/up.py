"""`alignflow up`: Prefect's server and MLflow's pages together, on loopback, until Ctrl-C or SIGTERM.

It holds a lock with both addresses in it, by which `alignflow deploy` and `serve` on the same artifacts find the
server; a kill frees the lock and ends the servers. Prefect's server requires a password. The plain `prefect` command
reads address and password from a profile, `artifacts/.prefect/profiles.toml`, which `[tool.prefect]` in pyproject.toml
names. Where MLFLOW_TRACKING_URI names a server, that one has MLflow's pages, and only Prefect's are served.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

from flows.commands.printing import short_path
from flows.reporting.sinks.mlflow_database import make_ready
from flows.reporting.sinks.mlflow_sink import address, served_elsewhere, tracking_uri
from flows.reporting.sinks.mlflow_view import charts_page, table_page
from flows.reporting.sinks.prefect_mirror import mirror_waiting, waiting_runs
from flows.run.prefect.password import make_password, password_file, write_private
from flows.run.prefect.server import PORTS, answers, prepare_database, settings, start_prefect, start_served, up_lock
from flows.run.prefect.serving import OPEN
from flows.store.runs import Runs
from flows.store.store import Store
from flows.system.locks import holder, try_lock
from tasks.contract import DataError, SpecError

READY_SECONDS = 120.0
"""How long a server may take until it answers; on two idle cores Prefect takes 5 s and MLflow 6."""
END_SECONDS = 10.0
PROFILE = """# Written by `alignflow up`, which removes it when it ends; change it, and it is yours.
active = "alignflow"

[profiles.alignflow]
PREFECT_API_URL = "{url}/api"
PREFECT_API_AUTH_STRING = "{password}"
"""
MLFLOW_HOSTS = ("127.0.0.1", "localhost")
"""Host names under which MLflow answers; its default includes those of a whole private network. It refuses requests
from pages of other machines."""
SLOT_SECONDS = "5"
"""How often a run checks whether the one before it has ended; Prefect's own is 30."""


@dataclass(frozen=True)
class Page:
    """One server. `option` sets its port, `health` is the path of its health check."""

    name: str
    port: int
    option: str
    health: str
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def serve_web_uis(
    artifacts: Path,
    prefect_port: int = PORTS[0],
    mlflow_port: int = PORTS[1],
    say: Callable[[str], None] = print,
    link: bool = False,
) -> None:
    """Start both servers over `artifacts`, print their addresses once they answer, and wait for Ctrl-C or SIGTERM.

    `link`: also print the address that contains Prefect's password, for a terminal that nobody else reads.

    Raises SpecError for a port that is taken or artifacts that are served already, DataError if a server does not
    come up or ends by itself; the other one is ended then.
    """
    artifacts = artifacts.absolute()
    pages = _pages(artifacts, prefect_port, mlflow_port)
    for page in pages:
        with socket.socket() as probe:
            _bind(probe, page)
    where = f"{pages[0].url} {address(artifacts) if served_elsewhere(artifacts) else pages[1].url}"
    held = try_lock(up_lock(artifacts), where)
    if held is None:
        raise SpecError(
            f"{short_path(artifacts)} is served already, at {' and '.join(holder(up_lock(artifacts)).split())}"
        )
    try:
        for damage in (prepare_database(artifacts), make_ready(artifacts)):
            if damage:
                say(damage)
        password = make_password(artifacts)
        with _until_signal(), _processes(pages, artifacts, password) as running:
            _wait_until_well(pages, running)
            with _profile(artifacts, pages[0].url, password) as written:
                for line in [*_where(pages, artifacts, password if link else "", written), *_views(artifacts)]:
                    say(line)
                _record_waiting(artifacts, say)
                while True:
                    _refuse_ended(pages, running)
                    time.sleep(0.2)
    except KeyboardInterrupt:
        say("both ended" if len(pages) > 1 else "ended")
    finally:
        held.release()


def _views(artifacts: Path) -> Iterator[str]:
    """The addresses of MLflow's table and charts of all runs, once there is a run."""
    links = (run.links["mlflow"] for run in Runs(Store(artifacts)).newest() if "mlflow" in run.links)
    if link := next(links, None):
        experiment = link.partition("/")[0]
        yield f"{'runs':<8} {address(artifacts)}/{table_page(experiment)}   (win rate, gold, KL, length, cost)"
        yield f"{'charts':<8} {address(artifacts)}/{charts_page(experiment)}"


def _record_waiting(artifacts: Path, say: Callable[[str], None]) -> None:
    """Record the runs that computed nothing while no server was up, in the background: each takes half a second."""

    def record() -> None:
        say(mirror_waiting(Store(artifacts)) or "Prefect has the runs that computed nothing while it was down")

    if waiting_runs(Store(artifacts)).ids():
        Thread(target=record, name="waiting runs", daemon=True).start()


def _pages(artifacts: Path, prefect_port: int, mlflow_port: int) -> list[Page]:
    logs = artifacts / "logs"
    first = Page("Prefect", prefect_port, "--prefect-port", "/api/health", logs / "prefect-server.log")
    if served_elsewhere(artifacts):
        return [first]
    return [first, Page("MLflow", mlflow_port, "--mlflow-port", "/health", logs / "mlflow-server.log")]


def _where(pages: Sequence[Page], artifacts: Path, password: str, written: bool) -> Iterator[str]:
    """Addresses, the password (only its file if `password` is empty), and what to do next, in lines."""
    for page in pages:
        yield f"{page.name:<8} {page.url}   (log: {short_path(page.log)})"
    if len(pages) == 1:
        yield f"{'MLflow':<8} {address(artifacts)}   (MLFLOW_TRACKING_URI)"
    file = password_file(artifacts)
    yield f"Prefect's pages ask a browser once for the password: it is in {short_path(file)}"
    if password:
        yield f"  or open them by this link, which has it:  {pages[0].url}{OPEN}#{password}"
    if not written:
        profiles = short_path(_profiles(artifacts))
        yield f"{profiles} is yours and stays as it is, so `prefect` does not find this server by it"
    where = "outside this folder" if written else "anywhere"
    yield f"for `prefect` {where}:"
    yield f'  export PREFECT_API_URL={pages[0].url}/api PREFECT_API_AUTH_STRING="$(cat {shlex.quote(str(file))})"'
    ends = "Ctrl-C ends both" if len(pages) > 1 else "Ctrl-C ends it"
    yield f"next: `alignflow deploy` registers deployments, `alignflow serve` executes their runs; {ends}"


def _bind(listener: socket.socket, page: Page) -> None:
    """Raises SpecError if the port is taken."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that was closed a moment ago is free
    try:
        listener.bind(("127.0.0.1", page.port))
    except OSError as e:
        why = f"port {page.port} for {page.name} is not available ({e.strerror})"
        raise SpecError(f"{why}; choose another: {page.option} PORT") from None


@contextmanager
def _processes(pages: Sequence[Page], artifacts: Path, password: str) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Both servers, which end with the block, and also if this process is killed."""
    environment = {
        **os.environ, **settings(artifacts), "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING",
        "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": SLOT_SECONDS,
        "PREFECT_UI_API_URL": "/api",  # for every port, and through a tunnel: Prefect's default has port 4200
    }  # fmt: skip
    environment.pop("PREFECT_API_URL", None)
    running: list[subprocess.Popen[bytes]] = []
    for page in pages:
        page.log.unlink(missing_ok=True)
    try:
        with socket.socket() as listener:
            _bind(listener, pages[0])
            running.append(start_prefect(listener, password, environment, pages[0].log))
        running += [_start_mlflow(page, artifacts, environment) for page in pages[1:]]
        yield running
    finally:
        _end(running)


def _start_mlflow(page: Page, artifacts: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    own = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_BACKEND_STORE_URI": tracking_uri(artifacts),  # may hold a password: not as an argument
        "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(h for name in MLFLOW_HOSTS for h in (name, f"{name}:*")),
    }  # fmt: skip
    arguments = ["mlflow", "ui", "--host", "127.0.0.1", "--port", str(page.port), "--workers", "1"]
    return start_served(arguments, {**environment, **own}, page.log)


def _end(running: Sequence[subprocess.Popen[bytes]]) -> None:
    """End servers and their process groups: MLflow's child would outlive it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for server in running:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, number)
        end = time.monotonic() + END_SECONDS
        for server in running:
            with suppress(subprocess.TimeoutExpired):
                server.wait(max(0.0, end - time.monotonic()))


def _wait_until_well(pages: Sequence[Page], running: Sequence[subprocess.Popen[bytes]]) -> None:
    end = time.monotonic() + READY_SECONDS
    for page in pages:
        while not answers(page.url + page.health):
            _refuse_ended(pages, running)
            if time.monotonic() > end:
                raise DataError(f"{page.name} does not answer after {READY_SECONDS:.0f} s; its log: {page.log}")
            time.sleep(0.1)


def _refuse_ended(pages: Sequence[Page], running: Sequence[subprocess.Popen[bytes]]) -> None:
    for page, server in zip(pages, running, strict=True):
        if (code := server.poll()) is not None:
            both = ", so both are ended" if len(pages) > 1 else ""
            raise DataError(f"{page.name} ended by itself (exit code {code}){both}; its log: {page.log}")


@contextmanager
def _until_signal() -> Iterator[None]:
    """Within it, SIGTERM and a closed terminal act as Ctrl-C, which works even if the shell ignored it (`&`)."""

    def interrupt(*_: object) -> None:
        for number in before:
            signal.signal(number, signal.SIG_IGN)  # a second one must not leave a server behind
        raise KeyboardInterrupt

    before = {s: signal.signal(s, interrupt) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _profiles(artifacts: Path) -> Path:
    return artifacts / ".prefect" / "profiles.toml"


@contextmanager
def _profile(artifacts: Path, url: str, password: str) -> Iterator[bool]:
    """Write Prefect's profile with the server's address and password, and remove it at the end. Yields whether it was
    written: a file that another program wrote or changed may contain keys, so it stays as it is."""
    file, text = _profiles(artifacts), PROFILE.format(url=url, password=password)
    ours = not file.exists() or _is_ours(file.read_text())
    if ours:
        write_private(file, text)
    try:
        yield ours
    finally:
        if ours and file.exists() and file.read_text() == text:
            file.unlink()


def _is_ours(text: str) -> bool:
    """Whether this command wrote it, with any address and password: a killed one leaves it."""
    written = re.escape(PROFILE).replace(r"\{url\}", ".*").replace(r"\{password\}", ".*")
    return re.fullmatch(written, text) is not None
