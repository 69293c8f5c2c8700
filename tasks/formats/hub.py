"""What a text names outside: a local path, or a repository of the Hugging Face hub and the commit that it stands for.

The module top needs the standard library only: `identity` functions answer inside the light commands.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from tasks.contract import DataError, SpecError

UNKEYED = {"os.environ": "where the hub's cache is and whether the hub may be asked; the commit found is in the key"}
Repository = Literal["model", "dataset"]
_REPOSITORY = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_FILE = re.compile(r"\.(jsonl?|parquet|arrow|feather|csv|tsv)(\.gz)?$", re.I)


def read_at(
    path: str, revision: str | None, *, online: bool, base: Path, kinds: Sequence[Repository]
) -> dict[str, str | Path]:
    """What is read of `path`: {"content": the file or directory}, or the commit of each kind of hub repository.

    A relative path is relative to `base`. Offline, and where the hub cannot be reached: the commit last downloaded.
    Raises SpecError where there is no such file and no hub id; DataError where the hub id's commit is not known here.
    """
    check_place(path, base)
    local = base / Path(path).expanduser()
    if local.exists():
        return {"content": local.resolve()}
    asked = _asked(path, revision, kinds) if online and os.environ.get("HF_HUB_OFFLINE", "0") in ("", "0") else None
    commits = asked if asked is not None else _last_seen(path, revision, kinds)
    if not commits and asked is not None:
        raise SpecError(f"the hub has no repository '{path}' that can be read (private ones need HF_TOKEN), and there "
                        "is no such file or directory here")  # fmt: skip
    if not commits:
        raise DataError(f"'{path}' is no file here; as a hub id it was never downloaded, and the hub was not reached")
    return {**commits}


def check_place(path: str, base: Path) -> None:
    """Raises SpecError for what can be neither a path that exists nor a hub id."""
    if (base / Path(path).expanduser()).exists():
        return
    if _FILE.search(path) or not _REPOSITORY.fullmatch(path):
        raise SpecError(f"there is no file or directory '{path}' (looked from {base})")


def _asked(path: str, revision: str | None, kinds: Sequence[Repository]) -> dict[str, str] | None:
    """The commits that the hub names now; None where it cannot be reached."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    found: dict[str, str] = {}
    for kind in kinds:
        try:
            found[kind] = str(HfApi().repo_info(path, repo_type=kind, revision=revision, timeout=10).sha)
        except (RepositoryNotFoundError, RevisionNotFoundError):
            continue
        except (HfHubHTTPError, OSError):
            return None
        except Exception as e:
            if type(e).__module__.partition(".")[0] not in ("httpx", "httpcore", "httpx2", "httpcore2"):
                raise
            return None
    return found


def _last_seen(path: str, revision: str | None, kinds: Sequence[Repository]) -> dict[str, str]:
    """The commits in the local hub cache: the revision's own, else the snapshot that came last."""
    home = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"
    cache = os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME", home)) / "hub"
    found: dict[str, str] = {}
    for kind in kinds:
        folder = Path(cache).expanduser() / f"{kind}s--{path.replace('/', '--')}"
        reference = folder / "refs" / (revision or "main")
        snapshots = sorted((folder / "snapshots").glob("*"), key=lambda p: p.stat().st_mtime)
        if reference.exists():
            found[kind] = reference.read_text().strip()
        elif snapshots and revision in (None, snapshots[-1].name):
            found[kind] = snapshots[-1].name
    return found
