"""`alignflow up`: the pages of Prefect and MLflow together, on loopback, until Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from flows.execution.server import settings
from flows.tracking.mlflow_sink import tracking_uri

PREFECT_PORT, MLFLOW_PORT = 4200, 5000


def up(artifacts: Path, prefect_port: int = PREFECT_PORT, mlflow_port: int = MLFLOW_PORT) -> int:
    """Start both servers over `artifacts` and wait. Returns the exit code of the one that ended by itself."""
    artifacts.mkdir(parents=True, exist_ok=True)
    log = artifacts / "logs" / "pages.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        servers = [
            _start(command, artifacts, output.fileno()) for command in _commands(artifacts, prefect_port, mlflow_port)
        ]
        print(f"Prefect  http://127.0.0.1:{prefect_port}\nMLflow   http://127.0.0.1:{mlflow_port}")
        print(f"log      {log}\nCtrl-C ends both.", flush=True)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        try:
            return _first_ended(servers)
        finally:
            for server in servers:
                _end(server)


def _commands(artifacts: Path, prefect_port: int, mlflow_port: int) -> list[list[str]]:
    prefect = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(prefect_port)]
    mlflow = ["mlflow", "ui", "--host", "127.0.0.1", "--port", str(mlflow_port), "--workers", "1"]
    mlflow += ["--backend-store-uri", tracking_uri(artifacts)]
    return [[sys.executable, "-m", *prefect], [sys.executable, "-m", *mlflow]]


def _start(command: list[str], artifacts: Path, output: int) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ, **settings(artifacts), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }  # fmt: skip
    return subprocess.Popen(
        command,
        stdout=output,
        stderr=output,
        stdin=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
    )


def _end(server: subprocess.Popen[bytes]) -> None:
    """End a server and what it started; MLflow's own child outlives it otherwise."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        with suppress(subprocess.TimeoutExpired):
            server.wait(10)


def _first_ended(servers: list[subprocess.Popen[bytes]]) -> int:
    while True:
        for server in servers:
            code = server.poll()
            if code is not None:
                return code
        time.sleep(0.2)
