"""`alignflow export`: an artifact in a form that other programs read."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from flows.commands.options import Dtype
from flows.store.records import Record
from flows.store.runs import Runs
from flows.store.store import Store
from flows.system.json_files import make_durable
from flows.system.modes import present_umask
from flows.wiring.views import MODELS
from tasks.contract import SpecError


def export_to(
    store: Store, ref: str, directory: Path, *, layers: bool = False, dtype: Dtype | None = None, base: str = ""
) -> list[Path]:  # fmt: skip
    """Write what REF names into `directory`, which must be new or empty: a model as it is, tables as Parquet; an
    adapter as the whole model that it makes of its base.

    Of a policy only its own files: what training keeps in folders beside them is no part of the model.

    layers: of an adapter its layers alone, as peft reads them; dtype: of the weights of the whole model (float32);
    base: the name of its base for those who open the layers without one (the base's folder).
    Returns the files written. Raises SpecError.
    """
    record = Runs(store).find(ref).record
    if trouble := store.usability_error(record):
        raise SpecError(f"{ref} cannot be exported: {trouble}")
    is_adapter = bool(record.refers_to) and record.kind in MODELS
    if not is_adapter and (layers or dtype):
        raise SpecError(f"{ref} is a {record.kind} and no adapter: --adapter and --dtype are for adapters alone")
    if layers and dtype:
        raise SpecError("--dtype is of the whole model; the layers that --adapter writes are float32")
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise SpecError(f"{directory} exists and is not empty; name a new folder")
    directory.mkdir(parents=True, exist_ok=True)
    if is_adapter:
        _write_adapter(store, record, directory, layers, dtype or Dtype.FLOAT32, base)
        make_durable(directory, present_umask())
    else:
        _copy(store.root / record.path, directory, record.kind)
    return sorted(p for p in directory.rglob("*") if p.is_file())


def _copy(source: Path, directory: Path, kind: str) -> None:
    files = source.glob("*") if kind == "Policy" else source.rglob("*")
    for file in sorted(p for p in files if p.is_file()):
        target = directory / file.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".arrow":
            _as_parquet(file, target.with_suffix(".parquet"))
        else:
            shutil.copyfile(file, target)


def _write_adapter(
    store: Store, record: Record, directory: Path, layers: bool, dtype: Dtype, base: str
) -> None:  # fmt: skip
    from tasks.adapt import merge
    from tasks.formats.peft_files import write_peft_directory
    from tasks.workspace import LocalWorkspace

    model: Any = store.open(record)
    if layers:
        write_peft_directory(model, directory, base or str(model.whole.path.resolve()))
        return
    from transformers.utils import logging

    logging.disable_progress_bar()
    with TemporaryDirectory(dir=directory, prefix=".") as scratch:
        for file in merge([model], LocalWorkspace(Path(scratch)), dtype=dtype.value).path.iterdir():
            file.rename(directory / file.name)


def _as_parquet(source: Path, target: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pa.memory_map(str(source)) as file:
        reader = pa.ipc.open_file(file)
        with pq.ParquetWriter(target, reader.schema) as writer:
            for i in range(reader.num_record_batches):
                writer.write_batch(reader.get_batch(i))
