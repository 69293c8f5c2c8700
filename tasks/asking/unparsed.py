"""Replies of which nothing can be read: they are null, they are counted, and too many of them end the step."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from tasks.asking.reply import Reply
from tasks.asking.requests import ChatRequest
from tasks.contract import DataError
from tasks.judging.session import Session

FILE = "unparsed.jsonl"


@dataclass
class Unparsed:
    """Those of one live oracle, over all of its calls."""

    limit: float
    """The largest share of the replies."""
    replies: int = 0
    unread: int = 0

    def check(
        self, requests: Sequence[ChatRequest], replies: Sequence[Reply], values: Sequence[object], session: Session
    ) -> None:
        """Count the values that are None, and write their replies to a file. Raises DataError above the limit."""
        unread = [i for i, value in enumerate(values) if value is None]
        file = session.work.path / FILE
        with file.open("a" if self.unread else "w", encoding="utf-8") as lines:
            for i in unread:
                row = {"question": requests[i].digest, "reply": replies[i].text, "whole": replies[i].whole,
                       "messages": requests[i].body["messages"]}  # fmt: skip
                lines.write(json.dumps(row, ensure_ascii=False) + "\n")
        self.replies, self.unread = self.replies + len(values), self.unread + len(unread)
        session.usage.unparsed += len(unread)
        if self.unread > self.limit * self.replies:
            cut = sum(not replies[i].whole for i in unread)
            raise DataError(
                f"{self.unread} of {self.replies} replies have nothing that can be read ({cut} of the last "
                f"{len(unread)} were cut at their length limit), more than `max_unparsed` = {self.limit:g} allows; see "
                f"the replies in {file}, then correct the template or `max_tokens`, or raise `max_unparsed`"
            )
