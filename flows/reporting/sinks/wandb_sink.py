"""Runs in Weights & Biases: online with an API key, or offline (WANDB_MODE=offline) in the folder `wandb` of a store.

`wandb sync artifacts/wandb/offline-run-*` sends what was written offline. The steps that trained are runs of the group
of their pipeline's run.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flows.reporting.sinks.whole_runs import PROJECT, WholeRun, WholeRunServer
from flows.system.environment import without_password
from tasks.contract import DataError

CLOUD = "https://api.wandb.ai"
SECONDS = 20.0
"""How long W&B may take to begin a run, and to take all of it at its end."""
OFFLINE = ("offline", "dryrun")


def wandb_address(artifacts: Path) -> str:
    """Where runs go: WANDB_BASE_URL, W&B's cloud, or a folder."""
    if _is_offline():
        return str(_folder(artifacts) / "wandb")
    return without_password(os.environ.get("WANDB_BASE_URL", CLOUD))


def _is_offline() -> bool:
    return os.environ.get("WANDB_MODE") in OFFLINE


def _folder(artifacts: Path) -> Path:
    """The folder in which wandb makes its folder `wandb`."""
    return Path(os.environ.get("WANDB_DIR") or artifacts).absolute()


class WandbServer(WholeRunServer):
    """One project of W&B: `alignflow`, or WANDB_PROJECT.

    Online, a run that is written again is resumed: W&B leaves out rows of steps that it has. Offline, its folder
    replaces the former one.
    """

    def __init__(self, artifacts: Path) -> None:
        """Raises DataError where wandb is not installed, or has no API key."""
        super().__init__()
        try:
            import wandb
        except ImportError as e:
            raise DataError(f"it needs the package wandb ({e}): pip install 'alignflow[wandb]'") from None
        self._wandb: Any = wandb
        self._folder = _folder(artifacts)
        if not _is_offline() and not self._has_key():
            raise DataError("it has no API key: `wandb login`, WANDB_API_KEY, or WANDB_MODE=offline")
        self._folder.mkdir(parents=True, exist_ok=True)

    def _has_key(self) -> bool:
        """Whether there is a key: without one, `wandb.init` asks for it on a terminal."""
        if os.environ.get("WANDB_API_KEY"):
            return True
        import netrc

        host = urlsplit(os.environ.get("WANDB_BASE_URL", CLOUD)).hostname or ""
        try:
            return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
        except (OSError, netrc.NetrcParseError):
            return False

    def answers(self) -> bool:
        if _is_offline():
            return True
        parts = urlsplit(os.environ.get("WANDB_BASE_URL", CLOUD))
        try:
            port = parts.port or (80 if parts.scheme == "http" else 443)
            socket.create_connection((parts.hostname or "", port), SECONDS).close()
        except OSError:
            return False
        return True

    def write(self, run: WholeRun) -> str:
        former = [*self._offline_folders(run)] if _is_offline() else []
        settings = self._wandb.Settings(
            mode="offline" if _is_offline() else "online", base_url=os.environ.get("WANDB_BASE_URL", CLOUD),
            api_key=os.environ.get("WANDB_API_KEY"), silent=True, console="off", disable_git=True, disable_code=True,
            x_disable_stats=True, x_disable_machine_info=True, x_save_requirements=False, init_timeout=SECONDS,
            finish_timeout=SECONDS, x_start_time=run.started / 1000,
        )  # fmt: skip
        made = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT), id=run.id, name=run.title, notes=run.about or None,
            group=run.parent or run.name, job_type="step" if run.parent else "pipeline", config=run.config,
            dir=str(self._folder), reinit="create_new", resume=None if _is_offline() else "allow", settings=settings,
        )  # fmt: skip
        try:
            self._write(made, run)
        finally:
            made.finish(exit_code=0 if run.status == "FINISHED" else 1)
        for folder in former:
            shutil.rmtree(folder, ignore_errors=True)
        return run.id if _is_offline() else str(made.url or run.id)

    def _write(self, made: Any, run: WholeRun) -> None:
        images = {f"{to}/{f.stem}": self._wandb.Image(str(f)) for f, to in run.files if f.suffix == ".png"}
        pages = {to: self._wandb.Html(text, inject=False) for to, text in run.texts.items() if to.endswith(".html")}
        steps = run.by_step()
        for step, metrics in steps:
            made.log(metrics, step=step)
        if images or pages:
            made.log({**images, **pages}, step=steps[-1][0] if steps else 0)
        others = {f"{to}/{f.name}": f.read_text() for f, to in run.files if f.suffix != ".png"}
        for to, text in {**run.texts, **others}.items():
            if to not in pages:
                self._text(made, to, text)

    @staticmethod
    def _text(made: Any, to: str, text: str) -> None:
        """A file of the run: W&B sends all that lies in its folder."""
        target = Path(made.dir) / to
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def _offline_folders(self, run: WholeRun) -> Iterator[Path]:
        """Folders in which this run was written before. Their names do not tell: W&B numbers those of one second."""
        yield from (file.parent for file in (self._folder / "wandb").glob(f"offline-run-*/run-{run.id}.wandb"))
