"""`alignflow up`: both pages answer, both end, and errors name their cause."""

import signal
import socket
from pathlib import Path

import pytest

from flows.commands.up import PROFILE, _until_signal, serve_web_uis
from flows.commands.up import _profile as profile
from flows.run.prefect.server import PORTS, answers, pages, running, up_lock
from flows.system.locks import try_lock
from tasks.contract import SpecError
from tests.flows.commands.processes import Started, free_port, gone


def _up(folder: Path, **env: str) -> Started:
    ports = ("--prefect-port", str(free_port()), "--mlflow-port", str(free_port()))
    return Started("up", "--artifacts", str(folder / "artifacts"), *ports, cwd=folder, log=folder / "up.log", **env)


def _profile(folder: Path) -> Path:
    return folder / "artifacts" / ".prefect" / "profiles.toml"


def test_both_pages_answer_once_they_are_printed_and_if_one_server_dies_all_of_it_ends(tmp_path: Path) -> None:
    pages_up = _up(tmp_path)
    pages_up.wait_for("Ctrl-C ends both")
    prefect, mlflow = pages(tmp_path / "artifacts")
    assert running(tmp_path / "artifacts") == f"{prefect}/api"
    assert answers(f"{prefect}/api/health")
    assert answers(f"{mlflow}/health")
    assert f'PREFECT_API_URL = "{prefect}/api"' in _profile(tmp_path).read_text()
    everything = pages_up.everything()
    assert len(everything) >= 3
    [server] = [p for p in everything if "mlflow" in p.cmdline() and "ui" in p.cmdline()]
    server.kill()
    assert pages_up.process.wait(60) == 1
    assert "MLflow ended by itself" in pages_up.output
    assert "mlflow-server.log" in pages_up.output
    assert gone(everything)
    assert not _profile(tmp_path).exists()
    assert running(tmp_path / "artifacts") is None


def test_the_profiles_of_people_stay_as_they_are_and_mlflows_own_server_is_named(tmp_path: Path) -> None:
    keys = '[profiles.mine]\nPREFECT_API_KEY = "key"\n'
    mine = tmp_path / "home" / "profiles.toml"
    for file in (mine, _profile(tmp_path)):
        file.parent.mkdir(parents=True)
        file.write_text(keys)
    pages_up = _up(
        tmp_path, PREFECT_HOME=str(mine.parent), MLFLOW_TRACKING_URI="http://me:secret@mlflow.example.org:5000"
    )
    pages_up.wait_for("Ctrl-C ends it")
    assert "MLflow   http://mlflow.example.org:5000   (MLFLOW_TRACKING_URI)" in pages_up.output
    assert "profiles.toml is yours and stays" in pages_up.output
    prefect, mlflow = pages(tmp_path / "artifacts")
    assert answers(f"{prefect}/api/health")
    assert mlflow == "http://mlflow.example.org:5000"
    assert not any("mlflow" in p.cmdline() for p in pages_up.everything())
    everything = pages_up.everything()
    assert pages_up.end(signal.SIGHUP) == 0, "as when the terminal is closed"
    assert gone(everything)
    assert mine.read_text() == _profile(tmp_path).read_text() == keys
    assert "secret" not in pages_up.output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_and_what_ends_services_and_terminals_interrupt_it(number: signal.Signals) -> None:
    with pytest.raises(KeyboardInterrupt), _until_signal():
        signal.raise_signal(number)
    assert signal.getsignal(number) is not signal.SIG_IGN


def test_a_profile_that_was_changed_while_it_stood_is_kept(tmp_path: Path) -> None:
    file = tmp_path / ".prefect" / "profiles.toml"
    with profile(tmp_path, "http://127.0.0.1:1", "alignflow:1") as written:
        assert written
    assert not file.exists()
    file.write_text(PROFILE.format(url="http://127.0.0.1:9", password="alignflow:9"))
    with profile(tmp_path, "http://127.0.0.1:1", "alignflow:1") as written:
        assert written, "a killed one left it"
        assert "127.0.0.1:1/api" in file.read_text()
        file.write_text(file.read_text() + 'PREFECT_API_KEY = "key"\n')
    assert file.read_text().endswith('PREFECT_API_KEY = "key"\n')
    with profile(tmp_path, "http://127.0.0.1:2", "alignflow:1") as written:
        assert not written
    assert "127.0.0.1:1/api" in file.read_text()


@pytest.mark.parametrize(("which", "option"), [(0, "--prefect-port"), (1, "--mlflow-port")])
def test_a_port_in_use_is_refused_with_the_option_that_changes_it(tmp_path: Path, which: int, option: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports = [free_port(), free_port()]
        ports[which] = taken.getsockname()[1]
        with pytest.raises(SpecError, match=rf"port {ports[which]} .*choose another: {option} PORT"):
            serve_web_uis(tmp_path, *ports)


def test_artifacts_that_are_served_already_are_refused_with_the_address(tmp_path: Path) -> None:
    held = try_lock(up_lock(tmp_path), "http://127.0.0.1:1 http://127.0.0.1:2")
    assert held
    with pytest.raises(SpecError, match=r"served already, at http://127\.0\.0\.1:1 and http://127\.0\.0\.1:2"):
        serve_web_uis(tmp_path, free_port(), free_port())
    held.release()


def test_a_lock_whose_server_does_not_answer_is_no_server(tmp_path: Path) -> None:
    held = try_lock(up_lock(tmp_path), f"http://127.0.0.1:{free_port()} http://127.0.0.1:{free_port()}")
    assert held
    assert running(tmp_path) is None
    held.release()
    up_lock(tmp_path).write_text("http://127.0.0.1:1 http://127.0.0.1:2")
    assert running(tmp_path) is None
    assert pages(tmp_path) == tuple(f"http://127.0.0.1:{port}" for port in PORTS)
