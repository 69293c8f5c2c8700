"""The workspace of tests, which they look into."""

from __future__ import annotations

from tasks.workspace import LocalWorkspace as Workspace

__all__ = ["Workspace"]
