"""`alignflow export`: an artifact in a form that other programs read."""

from __future__ import annotations

import shutil
from pathlib import Path

from flows.store.runs import Runs
from flows.store.store import Store
from tasks.contract import SpecError


def export_to(store: Store, ref: str, directory: Path) -> list[Path]:
    """Copy what REF names into `directory`, which must be new or empty: a model as it is, tables as Parquet.

    Of a policy only its own files: what training keeps in folders beside them is no part of the model.
    Returns the files written. Raises SpecError.
    """
    record = Runs(store).find(ref).record
    trouble = store.integrity_error(record)
    if trouble:
        raise SpecError(f"{ref} cannot be exported: {trouble}")
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise SpecError(f"{directory} exists and is not empty; name a new folder")
    directory.mkdir(parents=True, exist_ok=True)
    source = store.root / record.path
    files = source.glob("*") if record.kind == "Policy" else source.rglob("*")
    for file in sorted(p for p in files if p.is_file()):
        target = directory / file.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".arrow":
            _as_parquet(file, target.with_suffix(".parquet"))
        else:
            shutil.copyfile(file, target)
    return sorted(p for p in directory.rglob("*") if p.is_file())


def _as_parquet(source: Path, target: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pa.memory_map(str(source)) as file:
        reader = pa.ipc.open_file(file)
        with pq.ParquetWriter(target, reader.schema) as writer:
            for i in range(reader.num_record_batches):
                writer.write_batch(reader.get_batch(i))
