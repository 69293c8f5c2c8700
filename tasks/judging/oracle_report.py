"""What the record of a step has of the oracle that it queried: questions, costs, and what the table shows of it."""

from tasks.contract import Workspace
from tasks.judging.journal import Journal
from tasks.judging.oracle_statistics import OracleStatistics
from tasks.judging.session import Session


def report_queries(work: Workspace, journal: Journal) -> None:
    """Count the questions of a journal in the step's totals; a notice says how many have no answer.

    Every rank must call it, after its last question.
    """
    work.count(queries=journal.queries, unanswered=journal.unanswered)
    if failed := journal.failed():
        work.count(queries_failed=failed)
    if journal.unanswered:
        work.notice(
            f"{journal.unanswered} of {journal.queries} questions were not answered; they are null and count in no rate"
        )


def report_paid(work: Workspace) -> None:
    """Count what the step asked and reused, in all attempts and by all ranks, and what that came to.

    To be called once, behind `report_queries`. It counts nothing where no oracle asks and no answers are stored.
    """
    paid = Session(work).paid()
    if any(paid):
        counts = paid._asdict()
        work.count(queries_asked=counts.pop("asked"), queries_reused=counts.pop("reused"))
        work.count(oracle_seconds=counts.pop("seconds"), **{name: value for name, value in counts.items() if value})


def report_statistics(work: Workspace, statistics: OracleStatistics) -> None:
    """Write what a table shows of its oracle in the step's totals, once."""
    work.count(**statistics.known())
