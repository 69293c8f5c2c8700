"""Figures as parts of the page: SVG files made fit to stand beside each other in one document."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from pathlib import Path

MOST_LINES = 300_000
"""Bytes of an SVG that the page takes; of a larger one it takes the picture in pixels."""
MOST = 1_500_000
"""Bytes of all figures of a page; those after are named, not shown."""
NARROW = 540.0
"""Width in points of a figure of which two stand side by side."""
_DATA_ONLY = re.compile(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<metadata>.*?</metadata>|<!--.*?-->", re.S)
_ROOT = re.compile(r"<svg\b[^>]*>", re.S)
_VIEW = re.compile(r'viewBox="([-\d. ]+)"')


@dataclass(frozen=True)
class PageFigure:
    """A figure on the page. `markup`: an SVG or an image element, without anything that must be fetched; empty where
    only the name of the file is shown. `wide`: it needs the whole width of the page."""

    name: str
    markup: str
    wide: bool

    @property
    def title(self) -> str:
        """Its name as people read it."""
        return self.name.replace("_", " ").replace(" vs ", " against ")


def page_figures(files: list[Path]) -> list[PageFigure]:
    """The figures of PNG files; each is drawn from the SVG beside it where that is small enough."""
    figures, used = list[PageFigure](), 0
    for number, file in enumerate(files):
        figure = _figure(file, f"f{number}-")
        used += len(figure.markup)
        figures.append(figure if used <= MOST else PageFigure(figure.name, "", figure.wide))
    return figures


def _figure(file: Path, prefix: str) -> PageFigure:
    lines = file.with_suffix(".svg")
    if lines.is_file() and 0 < lines.stat().st_size <= MOST_LINES:
        text = lines.read_text()
        return PageFigure(file.stem, inline_svg(text, prefix), _points(text) > NARROW)
    data = base64.b64encode(file.read_bytes()).decode()
    return PageFigure(file.stem, f'<img alt="" src="data:image/png;base64,{data}">', True)


def inline_svg(text: str, prefix: str) -> str:
    """An SVG file as an element of an HTML page: without prolog and namespaces, its ids begin with `prefix`, and ids
    that nothing refers to are left out."""
    text = _DATA_ONLY.sub("", text).strip()
    view = _VIEW.search(text)
    text = _ROOT.sub(f'<svg viewBox="{view[1]}" aria-hidden="true">' if view else '<svg aria-hidden="true">', text, 1)
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', text))
    text = re.sub(r' id="([^"]*)"', lambda m: f' id="{prefix}{m[1]}"' if m[1] in used else "", text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}\1)", text)
    return re.sub(r'(?:xlink:)?href="#([^"]+)"', rf'href="#{prefix}\1"', text).replace("xlink:href", "href")


def _points(svg: str) -> float:
    """The width of an SVG."""
    view = _VIEW.search(svg)
    return float(view[1].split()[2]) if view else NARROW
