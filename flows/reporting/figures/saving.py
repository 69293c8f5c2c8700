"""Figures as files, each drawn once: a cache keeps it by what it is drawn from."""

from __future__ import annotations

from collections.abc import Mapping
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

Drawing: TypeAlias = "partial[Figure | None]"
"""A function that draws, with all that it draws from."""


def figure_cache(store: Store) -> Path:
    """Where a store keeps figures by what they are drawn from."""
    return store.root / ".cache" / "figures"


def save_figures(drawings: Mapping[str, Drawing], directory: Path, cache: Path) -> list[Path]:
    """Write each figure, in our style, as NAME.png; returns the files of those that there are.

    A figure is drawn once: `cache` keeps it under the digest of what it is drawn from, empty where nothing was to draw.
    """
    directory.mkdir(parents=True, exist_ok=True)
    files = []
    for name, drawing in drawings.items():
        file, known = directory / f"{name}.png", cache / f"{digest_of_drawing(drawing)}.png"
        if known.exists():
            _copy(known, file)
        else:
            _draw(drawing, file)
            with suppress(OSError):  # it can be drawn again
                cache.mkdir(parents=True, exist_ok=True)
                _copy(file, known)
        if file.stat().st_size:
            files.append(file)
        else:
            file.unlink()
    return files


def _draw(drawing: Drawing, file: Path) -> None:
    """Draw into a file, which stays empty where there is nothing to draw."""
    import matplotlib

    matplotlib.use("Agg")
    with matplotlib.rc_context(STYLE), atomic_replace(file, durable=False) as fresh:
        figure = drawing()
        fresh.touch()
        if figure is not None:
            figure.savefig(fresh, format="png")


def _copy(source: Path, target: Path) -> None:
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
