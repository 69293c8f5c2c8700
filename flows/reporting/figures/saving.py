"""Figures as files, each drawn once: a cache keeps it by what it is drawn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from shutil import copyfile
from typing import TYPE_CHECKING, TypeAlias

from flows.reporting.figures.style import STYLE
from tasks.files import atomic_replace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from flows.store.store import Store

FORMATS = ("png", "svg")
"""Of every figure: pixels for pages and chats, and lines, without a date, for the report and for papers."""
Drawing: TypeAlias = "partial[Figure | None]"
"""A function that draws, with all that it draws from."""


def figure_cache(store: Store) -> Path:
    """Where a store keeps figures by what they are drawn from."""
    return store.root / ".cache" / "figures"


def save_figures(drawings: Mapping[str, Drawing], directory: Path, cache: Path) -> list[Path]:
    """Write each figure, in our style, as NAME.png and NAME.svg; returns the PNG files of those that there are.

    A figure is drawn once: `cache` keeps it under the digest of what it is drawn from, empty where nothing was to draw.
    """
    directory.mkdir(parents=True, exist_ok=True)
    pictures = []
    for name, drawing in drawings.items():
        digest = digest_of_drawing(drawing)
        files = [directory / f"{name}.{format}" for format in FORMATS]
        known = [cache / f"{digest}.{format}" for format in FORMATS]
        if all(file.exists() for file in known):
            _copy(known, files)
        else:
            _draw(drawing, files)
            with suppress(OSError):  # it can be drawn again
                cache.mkdir(parents=True, exist_ok=True)
                _copy(files, known)
        if files[0].stat().st_size:
            pictures.append(files[0])
        else:
            for file in files:
                file.unlink()
    return pictures


def _draw(drawing: Drawing, files: Sequence[Path]) -> None:
    """Draw into files, one of each format, which stay empty where there is nothing to draw."""
    import matplotlib

    matplotlib.use("Agg")
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": "alignflow"}):
        figure = drawing()
        for file, format in zip(files, FORMATS, strict=True):
            with atomic_replace(file, durable=False) as fresh:
                fresh.touch()
                if figure is not None:
                    figure.savefig(fresh, format=format, metadata={"Date": None} if format == "svg" else None)


def _copy(sources: Sequence[Path], targets: Sequence[Path]) -> None:
    for source, target in zip(sources, targets, strict=True):
        with atomic_replace(target, durable=False) as fresh:
            copyfile(source, fresh)


def digest_of_drawing(drawing: Drawing) -> str:
    """Of all that a figure comes from: its function and arguments, this folder's code, and the library that draws.

    The arguments are dataclasses, mappings and sequences of texts and numbers, whose `repr` is all that they hold.
    """
    digest = blake2b(digest_size=16)
    for source in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(source.read_bytes())
    what = (version("matplotlib"), drawing.func.__qualname__, drawing.args, drawing.keywords)
    digest.update(repr(what).encode())
    return digest.hexdigest()
