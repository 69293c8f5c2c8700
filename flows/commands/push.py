"""`alignflow push`: a model or a table to a hub, with a card made from its lineage."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

from flows.commands.export import export_to
from flows.reporting.sinks.hub_card import base_name, dataset_card, model_card
from flows.store.records import Record
from flows.store.runs import FoundRecord, Runs
from flows.store.store import Store
from flows.wiring.views import MODELS
from tasks.contract import DataError, SpecError


def push_to(store: Store, ref: str, repo: str, *, private: bool = False, base: str = "") -> str:
    """Push what REF names to the repository `repo` (ORG/NAME) of the hub at HF_ENDPOINT; returns its address.

    A model as `export` writes it, an adapter in the format of peft with its base named, a table as Parquet. Pushing the
    same again changes nothing.

    private: of a repository that is new; base: the hub's name of an adapter's base, where its record does not know it.
    Raises SpecError for what cannot be pushed, DataError where the hub refuses it or does not answer.
    """
    found = Runs(store).find(ref)
    record = found.record
    if record.kind not in MODELS and record.rows is None:
        raise SpecError(f"{ref} is a {record.kind}: a model or a table can be pushed; `alignflow export` writes others")
    base = base or base_name(store, record)
    if record.refers_to and not base:
        raise SpecError(_unnamed_base(store, record, ref))
    with TemporaryDirectory(prefix="alignflow-push-") as temporary:
        folder = Path(temporary) / "files"
        export_to(store, ref, folder, layers=_is_adapter(record), base=base)
        (folder / "README.md").write_text(_card(store, found, repo, base), encoding="utf-8")
        return _upload(folder, repo, "model" if record.kind in MODELS else "dataset", private, record)


def _is_adapter(record: Record) -> bool:
    return bool(record.refers_to) and record.kind in MODELS


def _card(store: Store, found: FoundRecord, repo: str, base: str) -> str:
    if found.record.kind in MODELS:
        return model_card(store, found, repo, base)
    return dataset_card(store, found, repo)


def _unnamed_base(store: Store, record: Record, ref: str) -> str:
    made = next((one for content in record.refers_to for one in store.index.records(content)), None)
    what = f"{made.kind} {made.content[:12]} (made by `{made.task}`)" if made else record.refers_to[0][:12]
    return (
        f"{ref} is an adapter, and its base {what} is none that the hub names: push the base first, then name it with "
        "--base ORG/NAME"
    )


def _upload(folder: Path, repo: str, repo_type: str, private: bool, record: Record) -> str:
    from httpx2 import HTTPError  # that of huggingface_hub
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), library_name="alignflow")
    message = f"alignflow: {record.kind} {record.content}"
    try:
        url = api.create_repo(repo, repo_type=repo_type, private=private or None, exist_ok=True)
        api.upload_folder(repo_id=url.repo_id, repo_type=repo_type, folder_path=folder, commit_message=message)
    except HFValidationError as e:
        raise SpecError(f"'{repo}' is no name of a repository: {e}") from None
    except LocalTokenNotFoundError:
        raise SpecError("the hub needs a token that may write: `hf auth login`, or HF_TOKEN") from None
    except HfHubHTTPError as e:
        refused = e.response is not None and e.response.status_code in (401, 403)
        hint = "; a token that may write: `hf auth login`, or HF_TOKEN" if refused else ""
        raise DataError(f"the hub refused {repo}: {_first_line(e)}{hint}") from None
    except HTTPError as e:
        raise DataError(f"the hub at {api.endpoint} does not answer: {_first_line(e)}") from None
    return str(url)


def _first_line(e: Exception) -> str:
    return (str(e).strip().splitlines() or [type(e).__name__])[0]
