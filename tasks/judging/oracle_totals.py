"""What the record of a step that queries an oracle has of it, and how people see it. For declarations."""

from tasks.declarations import Total

RATE = ".3f"

QUERY_TOTALS = {
    "queries": Total("questions"),
    "unanswered": Total("unanswered"),
    "queries_asked": Total("asked", about="of an oracle whose answers are stored: requests that it answered"),
    "queries_reused": Total("reused", about="answers that were in the store"),
    "queries_failed": Total("failed", about="requests without an answer, which the next step makes again"),
    "tokens_in": Total("tokens in"),
    "tokens_out": Total("tokens out"),
    "cost": Total("cost", ",.4f", about="in the currency of the oracle's prices"),
    "oracle_seconds": Total("oracle seconds", ",.1f", about="of requests: their sum, also of those at the same time"),
}
"""Of every step that queries an oracle."""

ORACLE_TOTALS = {
    **QUERY_TOTALS,
    "order_consistency": Total("order consistency", RATE, about="pairs with the same winner in both orders"),
    "first_position": Total("first position", RATE, about="how often the answer that is shown first wins"),
    "ties": Total("ties", RATE, about="answered questions with equal sides"),
    "nulls": Total("nulls", RATE, about="questions without an answer"),
    "length_correlation": Total("length correlation", RATE, about="of preference with length in characters"),
}
"""Of a step whose result is the oracle's table: what `tasks.judging.oracle_statistics` says of it, too."""
