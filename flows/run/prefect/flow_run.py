"""One flow run from the command line, which survives the end of its Prefect server.

Steps need no server, so they go on and their results are kept. Only the states and events that Prefect has not sent are
lost; its client would wait two minutes and a half for a server that is gone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.run.prefect.api import prefect_settings, wait_until_flushed
from flows.run.prefect.orphans import OWN, OpenFlow, close_orphaned_flows, open_flow
from flows.run.prefect.people import waits
from flows.run.prefect.server import Server, answers
from flows.store.runs import Run
from flows.system.disk import full, is_full
from flows.system.environment import environment, without_password
from flows.wiring.model import Parameter
from tasks.contract import JSON, DataError

PATIENCE = 20.0
"""Seconds that a server which takes a connection may take to answer; one that refuses it is gone at once."""
DROP_SECONDS = 5.0


@dataclass(frozen=True)
class Form:
    """The texts and values on the page of a flow run."""

    pipeline: str
    about: str
    parameters: Mapping[str, Parameter]
    values: Mapping[str, JSON]
    title: str


class FlowCall:
    """One call of a flow on a server that may end before it."""

    def __init__(
        self, root: Path, server: Server | None, form: Form, body: Callable[[], Any],
        *, runs: Callable[[], Sequence[Run]], say: Callable[[str], None],
    ) -> None:  # fmt: skip
        """
        Args:
            root: of the store.
            server: our own, which must have written all states before it is stopped; None for the user's.
            form: of the flow run's page.
            body: the work; its return value becomes the flow's state.
            runs: the runs that the flow run executed, once it is over.
            say: prints a message, once if the server goes away.
        """
        self._root, self._server, self._form, self._body = root, server, form, body
        self._runs, self._say = runs, say
        self._failed: Exception | None = None
        self._begun = self._is_gone = False

    def run(self) -> bool:
        """Run the flow on the server of PREFECT_API_URL. Returns whether it came to its end, or Ctrl-C ended it.

        Raises what the body raises, and DataError if the server refuses the flow run or goes away before it has begun.
        """
        server = self._server
        if server and server.damage:
            self._say(f"  ! {server.damage}")
        try:
            return self._attempt()
        except _NotBegun as e:
            if is_full(self._root):
                raise full(self._root) from None
            if server is None:
                raise DataError(str(e)) from None
            self._say(f"  ! {e}; another server is started")
            server.restart()
        with environment(server.client):
            try:
                return self._attempt()
            except _NotBegun as e:
                raise DataError(f"{e}\n  log: {server.log}") from None

    def _attempt(self) -> bool:
        from httpx import HTTPError

        self._url = os.environ["PREFECT_API_URL"]
        where = OWN if self._server else without_password(self._url)
        with open_flow(self._root, self._form.title, where) as opened, prefect_settings():
            whole = ended = True
            try:
                state = self._call(opened, where)
                whole = not state.is_cancelled() or waits(state)
            except KeyboardInterrupt:
                whole = ended = False
            except (HTTPError, RuntimeError) as e:
                if not self._begun:
                    raise _NotBegun(
                        f"the Prefect server at {without_password(self._url)} did not begin the run: {e}"
                    ) from None
                if isinstance(e, RuntimeError):
                    raise
                self._gone()
            if self._server and not self._is_gone:
                try:
                    wait_until_flushed(*self._runs())
                except HTTPError:
                    self._gone()
            if self._is_gone:
                drop_pending()
            opened.closed = ended and not self._is_gone
        if self._failed:
            raise self._failed
        return whole

    def _call(self, opened: OpenFlow, where: str) -> Any:
        """Call the flow and return its state in Prefect."""
        from prefect import tags
        from prefect.context import TagsContext

        from flows.run.prefect.typed_flow import typed_flow

        def body(_: dict[str, JSON]) -> Any:
            self._begun = True
            try:
                close_orphaned_flows(self._root, where)
                with TagsContext(current_tags=set()):  # the tag is the flow run's and not its steps'
                    return self._body()
            except Exception as e:
                self._failed = e
                raise
            finally:
                opened.over(_status(self._runs()))
                if not answers(f"{self._url}/health", PATIENCE):
                    self._gone()

        form = self._form
        flow = typed_flow(form.pipeline, form.about, form.parameters, body, form.title)
        with tags(form.title):  # which it has from its creation on; Prefect names it only once it runs
            return flow(**{n: v for n, v in form.values.items() if n.isidentifier()}, return_state=True)

    def _gone(self) -> None:
        """Print that the server is gone, and let Prefect neither repeat requests nor send what is left."""
        from prefect.settings import get_current_settings

        if not self._is_gone:
            self._is_gone = True
            self._say(
                f"  ! the Prefect server at {without_password(self._url)} went away; results are kept, but its pages "
                "lack what came after"
            )
        get_current_settings().client.max_retries = 0  # those of `prefect_settings`, which end with the flow call
        drop_pending()


class _NotBegun(Exception):
    """The server did not take the flow run; nothing of it has been done."""


def _status(runs: Sequence[Run]) -> str:
    """The status of a flow run that executed these runs."""
    return next((s for s in ("failed", "stopped", "waiting") if s in {run.status for run in runs}), "done")


def drop_pending() -> None:
    """End Prefect's threads that send events and logs; what they have not sent is lost."""
    from prefect.events.worker import EventsWorker

    services = list(EventsWorker._instances.values())  # of all kinds: the mapping is its base class's
    for service in services:
        if service._loop and service._task:
            service._loop.call_soon_threadsafe(service._task.cancel)
    wait([service._drain(at_exit=True) for service in services], DROP_SECONDS)
