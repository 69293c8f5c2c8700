"""The tables of the store of answers, and how a row of answers is checked."""

from __future__ import annotations

from zlib import crc32

VERSION = 1
"""Of the tables, as `user_version` in the database has it."""

TABLES = (
    "create table if not exists oracles (id integer primary key, identity text not null unique, about text not null)",
    """create table if not exists answers (
        oracle integer not null, question text not null, value text not null, raw text not null,
        tokens_in integer not null, tokens_out integer not null, cost real not null, seconds real not null,
        payer text not null, made integer not null, checksum integer not null,
        primary key (oracle, question)
    )""",
    """create table if not exists payers (
        payer text primary key, asked integer not null, reused integer not null, tokens_in integer not null,
        tokens_out integer not null, cost real not null, seconds real not null
    )""",
    """create table if not exists claims (
        oracle integer not null, question text not null, holder text not null, primary key (oracle, question)
    ) without rowid""",
)
"""answers: what was answered, by whom it was paid, and when (Unix time, seconds). payers: what each step came to,
written in the transactions that store its answers. claims: questions that a process is asking now."""
COLUMNS = (
    "oracle", "question", "value", "raw", "tokens_in", "tokens_out", "cost", "seconds", "payer", "made", "checksum",
)  # fmt: skip
"""Of an answer."""


def checksum(question: str, value: str, raw: str) -> int:
    """Of an answer's texts, because SQLite would not notice a changed byte in them."""
    return crc32(f"{question} {value} {raw}".encode("utf-8", "surrogatepass"))
