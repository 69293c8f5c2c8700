"""`alignflow judge`: the page on which people compare answers, what waits for them, and how far they agree."""

from __future__ import annotations

import secrets
import signal
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from tasks.contract import SpecError
from tasks.people.survey import Judgement, Survey, SurveyQuestion, check_annotator, check_name, survey_file, surveys

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def judge_survey(
    answers: Path, name: str, annotator: str | None, place: tuple[str, int],
    *, report: bool = False, export: Path | None = None, read: Path | None = None, say: Callable[[str], None] = print,
) -> None:  # fmt: skip
    """What the command does with one survey: write a file, read one, report, or serve the page at (host, port).

    Raises SpecError for a wrong request, DataError for a damaged file.
    """
    from tasks.people.exchange import read_judgements, write_survey

    survey = opened_survey(answers, name)
    try:
        if export:
            for path in write_survey(survey, export):
                say(str(path))
        if read:
            say(f"{read_judgements(survey, read)} new judgements in {read}")
        if report:
            for line in report_lines(survey):
                say(line)
        if not (export or read or report):
            serve_page(survey, place, annotator, say)
    finally:
        survey.close()


def waiting_lines(answers: Path) -> Iterator[str]:
    """What waits for people in a store: a line for each survey."""
    names = surveys(answers)
    if not names:
        yield "no survey yet: a step with the oracle `people` makes one"
    for name in names:
        survey = Survey(answers, name)
        progress = survey.progress()
        left = progress.questions - progress.complete
        state = f"{left} of {progress.questions} pairs wait" if left else f"all {progress.questions} pairs are judged"
        people = sorted({j.annotator for j in survey.judgements()})
        survey.close()
        yield f"{name}  {state}" + (f"; judged by {', '.join(people)}" if people else "")


def opened_survey(answers: Path, name: str) -> Survey:
    """The survey with this name. Raises SpecError, which lists the existing ones, if there is none."""
    check_name(name)
    if not survey_file(answers, name).exists():
        known = ", ".join(surveys(answers)) or "none"
        raise SpecError(
            f"there is no survey '{name}' (there are: {known}); the run of a step with the oracle `people` makes it"
        )
    return Survey(answers, name)


def report_lines(survey: Survey) -> Iterator[str]:
    """How far a survey is, who judged how, and how far the people agree."""
    from tasks.people.verdicts import agreement_lines, verdicts

    questions, judgements, progress = survey.questions(), survey.judgements(), survey.progress()
    yield f"{survey.name}: {progress.complete} of {progress.questions} pairs complete, {len(judgements)} judgements"
    for name in sorted({j.annotator for j in judgements}):
        yield _of_person(name, [j for j in judgements if j.annotator == name])
    yield from agreement_lines(verdicts(questions, judgements))


def _of_person(name: str, own: list[Judgement]) -> str:
    counts = Counter(j.choice for j in own)
    sided = [j for j in own if j.on_left and j.choice in ("x", "y")]
    seconds = sorted(j.seconds for j in own if j.seconds)
    parts = [f"{name}: {len(own)} judgements"]
    parts += [f"{counts[c]} {word}" for c, word in (("tie", "tied"), ("skip", "skipped")) if counts[c]]
    parts += [f"the left answer in {sum(j.choice == j.on_left for j in sided)} of {len(sided)}"] if sided else []
    parts += [f"{seconds[len(seconds) // 2]:.0f} s each (median)"] if seconds else []
    return ", ".join(parts)


def serve_page(
    survey: Survey, place: tuple[str, int], annotator: str | None, say: Callable[[str], None] = print
) -> None:
    """Serve the page until Ctrl-C or SIGTERM, and print its address with the token. Judgements are kept as they come.

    Raises SpecError for a port that is taken, or a host that is not of this machine.
    """
    import uvicorn

    from flows.commands.judge_server import judging_app

    if annotator is not None:
        check_annotator(annotator)
    (host, port), token = place, secrets.token_urlsafe(24)
    with _bound(host, port) as listening:
        at = f"http://{_in_address(host)}:{listening.getsockname()[1]}/#token={token}"
        say(f"{survey.name}: {_left(survey.questions())}")
        say(at + (f"&annotator={quote(annotator)}" if annotator else ""))
        say("Ctrl-C ends it; what was judged is kept")
        if host not in LOOPBACK:
            say(f"note: other machines reach {host}, without encryption; anyone with the printed address can judge")
        app = judging_app(survey, token, any_host=host not in LOOPBACK)
        config = uvicorn.Config(app, log_level="warning", lifespan="off", server_header=False)
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # uvicorn raises the signal that ended it again
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listening])
    for line in report_lines(survey):
        say(line)


def _left(questions: list[SurveyQuestion]) -> str:
    missing = sum(max(0, q.needed - q.judged) for q in questions)
    return f"{missing} judgements of {len(questions)} pairs are missing"


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen()  # the address is printed before uvicorn takes the first request
    except OSError as e:
        listening.close()
        raise SpecError(f"cannot serve at {host}, port {port} ({e.strerror}): name another one by --port") from None
    return listening


def _in_address(host: str) -> str:
    return f"[{host}]" if ":" in host else host
