"""The processes of Prefect's and MLflow's servers. Both serve this machine only, and end with their parent.

Every web page that is open in a browser here can send requests to a port of this machine, and Prefect's server would
execute them, so a check of two headers precedes it. `Origin` names the page that sends a request: only Prefect's own
pages may. `Host` names the server as the browser knows it: only names of this machine are allowed, or a page could let
its own name point here (DNS rebinding) and would be of the same origin. MLflow checks both by itself.

    python -m flows.run.prefect.serving prefect DESCRIPTOR     of an open socket
    python -m flows.run.prefect.serving mlflow ARGUMENT...     of the command `mlflow`
"""

from __future__ import annotations

import os
import runpy
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

NAMES = frozenset({"127.0.0.1", "localhost", "::1"})
"""Names of this machine, as a browser on it writes them, or one at the other end of an SSH tunnel."""
OPEN = "/open"
"""A page that takes the password from its address, behind `#`, and then opens Prefect's pages."""
PAGE = b"""<!doctype html><title>Prefect</title><script>
localStorage.setItem("prefect-password", btoa(decodeURIComponent(location.hash.slice(1))))
location.replace("/")
</script>"""


def refusal(host: str, origin: str | None) -> str:
    """Why a request with these headers is not answered; empty if it is."""
    if _name(host) not in NAMES:
        return f"the host {host!r} is not this machine"
    if origin is not None and origin.partition("://")[2] != host:
        return f"pages of {origin!r} may not send requests here"
    return ""


def _name(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


class OwnPages:
    """An ASGI application behind the check, with the page that takes the password."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        from starlette.datastructures import Headers
        from starlette.responses import HTMLResponse, PlainTextResponse
        from starlette.websockets import WebSocketClose

        answer = self._app
        if scope["type"] != "lifespan":
            headers = Headers(scope=scope)
            if why := refusal(headers.get("host", ""), headers.get("origin")):
                answer = WebSocketClose() if scope["type"] == "websocket" else PlainTextResponse(f"{why}\n", 403)
            elif scope["type"] == "http" and scope["path"] == OPEN:
                answer = HTMLResponse(PAGE, headers={"cache-control": "no-store"})
        await answer(scope, receive, send)


def serve_prefect(descriptor: int) -> None:
    """Serve Prefect's API, and its pages unless PREFECT_UI_ENABLED is off, on an open socket."""
    import uvicorn
    from prefect.server.api.server import create_app

    _let_schedules_be_written()
    config = uvicorn.Config(OwnPages(create_app(final=True)), log_level="warning", lifespan="on")
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=descriptor)])


def _let_schedules_be_written() -> None:
    """Without this no schedule ever starts a run: Prefect 3.7.7 inserts scheduled runs in bulk, with a `state` that is
    not a column, and SQLAlchemy 2.1 refuses that unless it is declared how to write it (not at all)."""
    from prefect.server.database.orm_models import FlowRun

    state = FlowRun.__mapper__.all_orm_descriptors["state"].inplace
    if hasattr(state, "bulk_dml"):  # SQLAlchemy 2.0 has none, and needs none
        state.bulk_dml(lambda cls, mapping, value: None)


def serve_mlflow(arguments: Sequence[str]) -> None:
    """The command `mlflow`, in this process; it starts another one, of the same group."""
    sys.argv = ["mlflow", *arguments]
    runpy.run_module("mlflow", run_name="__main__", alter_sys=True)


def _end_with_parent() -> None:
    """The kernel closes the pipe to stdin when the parent ends, however it ends."""
    sys.stdin.buffer.read()
    os.killpg(os.getpgid(0), signal.SIGKILL)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if sys.argv[1] == "prefect":
        serve_prefect(int(sys.argv[2]))
    else:
        serve_mlflow(sys.argv[2:])
