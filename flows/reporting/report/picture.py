"""The parts of the picture of a graph: boxes, bands, and arrows as SVG paths. Plain numbers, in pixels."""

from __future__ import annotations

from dataclasses import dataclass

HEIGHT = 52.0
"""Of a box."""


@dataclass(frozen=True)
class GraphBox:
    """A step as it is drawn. `states`: how it ended, round by round; `note`: all that is known of it, in lines."""

    name: str
    task: str
    cost: str
    states: tuple[str, ...]
    note: str
    x: float
    y: float
    width: float
    id: str


@dataclass(frozen=True)
class GraphArrow:
    """A result that feeds a step: an SVG path from box to box. `loop`: it feeds the step of the next round."""

    path: str
    source: str
    target: str
    loop: bool


@dataclass(frozen=True)
class GraphBand:
    title: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class GraphPicture:
    width: float
    height: float
    bands: tuple[GraphBand, ...]
    boxes: tuple[GraphBox, ...]
    arrows: tuple[GraphArrow, ...]


def arrow_across(a: GraphBox, b: GraphBox) -> str:
    """From the right of a box to the left of one in the next column."""
    x1, y1, x2, y2 = a.x + a.width, a.y + HEIGHT / 2, b.x, b.y + HEIGHT / 2
    bend = (x2 - x1) / 2
    return f"M{x1:.1f} {y1:.1f}C{x1 + bend:.1f} {y1:.1f} {x2 - bend:.1f} {y2:.1f} {x2:.1f} {y2:.1f}"


def arrow_over(a: GraphBox, b: GraphBox) -> str:
    """From the top of a box to the top of one further on."""
    x1, x2 = a.x + a.width * 0.7, b.x + b.width * 0.3
    top = min(a.y, b.y) - 22
    return f"M{x1:.1f} {a.y:.1f}C{x1 + 16:.1f} {top:.1f} {x2 - 16:.1f} {top:.1f} {x2:.1f} {b.y:.1f}"


def arrow_down(a: GraphBox, b: GraphBox) -> str:
    """From the bottom of a box to the top of one in the next band."""
    x1, y1, x2, y2 = a.x + a.width / 2, a.y + HEIGHT, b.x + b.width / 2, b.y
    bend = max(24.0, (y2 - y1) / 2)
    return f"M{x1:.1f} {y1:.1f}C{x1:.1f} {y1 + bend:.1f} {x2:.1f} {y2 - bend:.1f} {x2:.1f} {y2:.1f}"


def arrow_below(a: GraphBox, b: GraphBox, lane: float) -> str:
    """From the bottom of a box, along a lane under all boxes, to the bottom of another one or of the same."""
    x1, y1, x2, y2 = a.x + a.width * 0.62, a.y + HEIGHT, b.x + b.width * 0.38, b.y + HEIGHT
    r = -6 if x2 < x1 else 6
    return (
        f"M{x1:.1f} {y1:.1f}V{lane - 6:.1f}Q{x1:.1f} {lane:.1f} {x1 + r:.1f} {lane:.1f}"
        f"H{x2 - r:.1f}Q{x2:.1f} {lane:.1f} {x2:.1f} {lane - 6:.1f}V{y2:.1f}"
    )
