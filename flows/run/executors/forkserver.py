"""Child processes: every task runs in one, so its memory returns when the step ends and the main process stays light.

All children of a run are forked from one forkserver that imported what they need (never CUDA). Each has a session of
its own, prints to a file, and dies with the main process. Heavy ones have the machine's devices to themselves; one that
keeps a model loaded stays alive for the next step that wants the same model.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing import forkserver
from pathlib import Path

from flows.run.executors.base import LIGHT, Events, Needs, Stopped
from flows.run.executors.child import Child
from flows.run.executors.devices import CPUS, Devices
from flows.run.executors.job import Job, Result, Seat
from flows.run.executors.pool import Pool
from flows.run.executors.room import has_room
from flows.run.executors.team import Team
from flows.system.environment import environment, python_path
from flows.system.gpus import Gpu
from flows.system.locks import WaitingCallback
from tasks.contract import SpecError


def default_threads() -> int:
    """Threads of a heavy child: a setting, never derived from the load, because gradient bits depend on it."""
    threads = os.environ.get("ALIGNFLOW_THREADS") or os.environ.get("OMP_NUM_THREADS")
    return int(threads) if threads else len(os.sched_getaffinity(0))


class Workers:
    """The forkserver of one run and the children forked from it. Safe to use from many threads."""

    def __init__(
        self, snapshot: Path, log: Path, who: str, *, folder: Path | None = None, threads: int | None = None,
        gpus: Sequence[Gpu] = (), most_gpus: int | None = None,
    ) -> None:  # fmt: skip
        """
        Args:
            snapshot: the code that children import.
            log: what the forkserver prints.
            who: this run, as other runs of the machine see it.
            folder: where children run.
            threads: of a heavy child, or of all ranks of one together.
            gpus: those that children may use.
            most_gpus: how many of them at a time.
        """
        self.threads = threads or default_threads()
        self._snapshot, self._folder, self._log = snapshot, folder or Path.cwd(), log
        self._server = forkserver.ForkServer()
        self._teams: set[Team] = set()
        self._lock = threading.Lock()
        self.stopped = threading.Event()
        self._light = threading.BoundedSemaphore(len(os.sched_getaffinity(0)))
        """Bounds the children that use no device."""
        self._gpus = {gpu.uuid: gpu for gpu in gpus}
        self._cpu_pool: Pool[Team] = Pool(Devices("cpu", [CPUS], who), self.stopped, self._has_room)
        self._gpu_pool: Pool[Team] = Pool(
            Devices("gpu", list(self._gpus), who), self.stopped, self._has_room, most_gpus
        )

    def start(self, packages: list[str]) -> None:
        """Start the forkserver; it imports `packages` while this process goes on."""
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._server.set_forkserver_preload(["flows.run.executors.preload"])
        settings = {
            "ALIGNFLOW_PRELOAD": " ".join(packages),
            "ALIGNFLOW_PRELOAD_LOG": str(self._log),
            "ALIGNFLOW_PRELOAD_PARENT": str(os.getpid()),
            "PYTHONPATH": python_path(),
            "OMP_NUM_THREADS": str(self.threads),
            "OMP_WAIT_POLICY": "PASSIVE",
            "KMP_BLOCKTIME": "0",
            "TOKENIZERS_PARALLELISM": "false",
            "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # torch looks for GPUs without CUDA, which no fork could use then
        }
        with environment(settings):
            self._server.ensure_running()

    def submit(
        self, job: Job, events: Events, needs: Needs = LIGHT, *,
        waiting: WaitingCallback | None = None, check: Callable[[], None] = lambda: None,
    ) -> Result:  # fmt: skip
        if needs.gpus and self._gpus:
            return self._on_devices(self._gpu_pool, needs.gpus * needs.ranks, job, events, needs, waiting, check)
        if needs.exclusive or needs.gpus:
            return self._on_devices(self._cpu_pool, 1, job, events, needs, waiting, check)
        with self._light:
            team = self._new(job, needs, ())
            try:
                result = team.run(job, events)
            finally:
                self._end(team)
        check()
        return result

    def _on_devices(
        self, pool: Pool[Team], count: int, job: Job, events: Events, needs: Needs, waiting: WaitingCallback | None,
        check: Callable[[], None],
    ) -> Result:  # fmt: skip
        """Run a job on devices of its own. A team whose work `check` refuses does not stay warm."""
        if count > pool.limit:
            raise SpecError(f"'{job.task}' needs {count} GPUs, and this run may use {pool.limit}")
        if needs.affinity:
            needs = replace(needs, affinity=f"{needs.affinity} {needs.ranks}")
        grant = pool.enter(needs, count, waiting)
        team, keep = grant.process, None
        try:
            team = team or self._new(job, needs, grant.devices if pool is self._gpu_pool else ())
            result = team.run(job, events)
            check()
            keep = team if needs.affinity else None
            return result
        finally:
            if team and not keep:
                self._end(team)
            pool.leave(grant, keep, needs.affinity)

    def stop(self) -> None:
        """Kill every child now; what waits or comes later raises Stopped."""
        self.stopped.set()
        with self._lock:
            teams = list(self._teams)
        for team in teams:
            team.kill()
        self._cpu_pool.wake()
        self._gpu_pool.wake()

    def close(self) -> None:
        """End warm children, give back the devices, end the forkserver."""
        self._cpu_pool.close()
        self._gpu_pool.close()
        self.stop()
        for team in list(self._teams):
            self._end(team)
        if pid := self._server._forkserver_pid:  # type: ignore[attr-defined]
            os.kill(pid, signal.SIGKILL)  # it has nothing to finish, and Python takes 1.5 s to unload torch
            self._server._stop()  # type: ignore[attr-defined]

    def _new(self, job: Job, needs: Needs, gpus: Sequence[str]) -> Team:
        """A team of new children, with the GPUs divided among them. A child without any sees none."""
        if self.stopped.is_set():
            raise Stopped("the run is being stopped")
        threads = max(1, self.threads // needs.ranks) if needs.ranks > 1 else 0
        variables = {"ALIGNFLOW_SHARDING": needs.sharding, "ALIGNFLOW_RANK_TIMEOUT": str(_LONGER * needs.timeout)}
        seats = []
        for rank in range(needs.ranks):
            own = ",".join(gpus[rank * needs.gpus : (rank + 1) * needs.gpus])
            devices = {"CUDA_VISIBLE_DEVICES": own} if self._gpus else {}
            seats.append(Seat(rank, needs.ranks, threads, {**devices, **(variables if needs.ranks > 1 else {})}))
        children = [Child(self._server, job.task, self._snapshot, self._folder) for _ in seats]
        team = Team(children, seats, needs.timeout, self.stopped)
        with self._lock:
            self._teams.add(team)
        if self.stopped.is_set():
            team.kill()
        return team

    def _end(self, team: Team) -> None:
        team.close()
        with self._lock:
            self._teams.discard(team)

    def _has_room(self, needs: Needs, devices: tuple[str, ...]) -> bool:
        return has_room(needs, [self._gpus[name] for name in devices if name in self._gpus])


_LONGER = 10
"""How much longer than the executor the ranks' collectives wait: the executor sees more, and has the better message."""
