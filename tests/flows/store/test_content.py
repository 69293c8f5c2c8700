import os
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from blake3 import blake3

from flows.store import content
from flows.store.content import LARGE, Contents
from flows.system.json_files import read_json
from tasks.contract import SpecError
from tasks.kinds import Prompts
from tests.flows.store.made import prompts


def digest(path: Path) -> str:
    return Contents().digest(path)


def folder(path: Path, **files: str) -> Path:
    for name, text in files.items():
        file = path / name.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return path


def test_the_digest_of_a_directory_is_that_of_its_sorted_paths_sizes_and_files(tmp_path: Path) -> None:
    made = folder(tmp_path / "d", b="two", a__c="one")
    lines = "".join(
        f"{name}\0{len(text)}\0{blake3(text.encode()).hexdigest(16)}\n" for name, text in (("a/c", "one"), ("b", "two"))
    )
    assert digest(made) == blake3(lines.encode()).hexdigest(16)


def test_time_place_and_hidden_files_are_no_content(tmp_path: Path) -> None:
    first, second = folder(tmp_path / "x", a="1"), folder(tmp_path / "elsewhere" / "y", a="1")
    os.utime(second / "a", (1, 1))
    folder(second / ".git", config="host")
    (second / "empty").mkdir()
    assert digest(first) == digest(second)


@pytest.mark.parametrize("files", [{"a": "2"}, {"b": "1"}, {"a": "1", "b": ""}, {"x__a": "1"}])
def test_another_byte_name_file_or_place_in_the_tree_is_another_content(tmp_path: Path, files: dict[str, str]) -> None:
    assert digest(folder(tmp_path / "one", a="1")) != digest(folder(tmp_path / "two", **files))


def test_links_are_followed_and_circles_end(tmp_path: Path) -> None:
    plain = folder(tmp_path / "plain", a="1", sub__b="2")
    blobs = folder(tmp_path / "blobs", x="1", y__b="2")
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "a").symlink_to(blobs / "x")
    (linked / "sub").symlink_to(blobs / "y", target_is_directory=True)
    assert digest(linked) == digest(plain)
    (linked / "sub" / "up").symlink_to(linked, target_is_directory=True)
    assert digest(linked) == digest(plain)


def test_a_missing_path_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"there is no file or directory .*/nowhere"):
        digest(tmp_path / "nowhere")


def _swap_behind_its_stat(file: Path, text: bytes) -> None:
    """Other bytes with the same size, inode and modification time."""
    stat = file.stat()
    with file.open("r+b") as f:
        f.write(text)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def _replace_by_another_file(file: Path, text: bytes) -> None:
    """A file with other bytes and the same size and modification time takes its place."""
    other = file.with_name("other")
    other.write_bytes(text)
    os.utime(other, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
    other.rename(file)


def _later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute has passed, so that the stat of written files is trusted."""
    now = time.time() + 60
    monkeypatch.setattr("flows.store.content.time.time", lambda: now)


def _count_reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    reads: list[Path] = []
    read = content._read
    monkeypatch.setattr(content, "_read", lambda path, size: (reads.append(path), read(path, size))[1])
    return reads


def test_a_large_file_is_not_read_again_while_its_stat_is_the_same_a_small_one_always(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large, small, cache = tmp_path / "large", tmp_path / "small", tmp_path / "cache.json"
    with large.open("wb") as f:
        f.truncate(LARGE + 1)
    small.write_bytes(b"abc")
    _later(monkeypatch)
    contents = Contents(cache)
    before = contents.file(large), contents.file(small)
    contents.save()
    reads = _count_reads(monkeypatch)
    later = Contents(cache)
    assert (later.file(large), later.file(small)) == before
    assert reads == [small]
    assert later.file(large, trusted=-1) == before[0]
    assert reads == [small, large]


@pytest.mark.parametrize("trusted", [0, LARGE])
@pytest.mark.parametrize("change", [_swap_behind_its_stat, _replace_by_another_file])
def test_an_edit_shows_though_size_and_time_are_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trusted: int, change: Callable[[Path, bytes], None]
) -> None:
    file = tmp_path / "data.jsonl"
    file.write_bytes(b"abc")
    _later(monkeypatch)
    contents = Contents(tmp_path / "cache.json")
    contents.digest(file, trusted=trusted)
    change(file, b"xyz")
    assert contents.digest(file, trusted=trusted) == blake3(b"xyz").hexdigest(16)


def test_a_file_that_was_just_written_is_not_trusted(tmp_path: Path) -> None:
    file, cache = tmp_path / "data.jsonl", tmp_path / "cache.json"
    file.write_bytes(b"abc")
    contents = Contents(cache)
    contents.digest(file, trusted=0)
    _swap_behind_its_stat(file, b"xyz")
    assert contents.digest(file, trusted=0) == blake3(b"xyz").hexdigest(16)
    contents.save()
    assert not cache.exists()


def test_a_broken_cache_is_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, cache = tmp_path / "data", tmp_path / "cache.json"
    file.write_bytes(b"abc")
    _later(monkeypatch)
    cache.write_text("{")
    contents = Contents(cache)
    assert contents.digest(file, trusted=0) == blake3(b"abc").hexdigest(16)
    contents.save()
    assert list(read_json(cache)) == [str(file)]


def _saved(handle: Prompts, path: Path) -> str:
    path.mkdir()
    handle.save(path)
    return digest(path)


def test_equal_rows_have_equal_content_however_the_table_came_about(tmp_path: Path) -> None:
    ids = [f"p{i}" for i in range(10_000)]
    whole = prompts(*ids).table
    odd = [i for i in range(10_000) if i % 2]
    built = prompts(*(ids[i] for i in odd[100:4100])).table
    ways = {
        "built": built, "taken and sliced": whole.take(pa.array(odd)).slice(100, 4000),
        "filtered": whole.filter(pa.array([bool(i % 2) for i in range(10_000)])).slice(100, 4000),
        "chunked": pa.concat_tables([built.slice(0, 7), built.slice(7, 1000), built.slice(1007)]),
        "through polars": pl.from_arrow(built), "streamed": iter(built.to_batches(max_chunksize=333)),
    }  # fmt: skip
    digests = {name: _saved(Prompts.of(table), tmp_path / name) for name, table in ways.items()}
    assert set(digests.values()) == {digests["built"]}
