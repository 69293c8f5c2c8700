"""The picture of a run's graph: composites and rounds folded, nothing on top of anything else."""

from itertools import combinations

from flows.reporting.report.graph import graph_picture
from flows.reporting.report.picture import HEIGHT, GraphPicture
from flows.store.runs import Run, RunStep

ROUND = {
    "batch": ("prompts",), "completions": ("batch", "prev.policy"), "win_probs": ("completions", "judge"),
    "targets": ("win_probs", "completions"), "policy/logps": ("targets", "base"), "policy": ("policy/logps",),
    "report/sample": ("policy", "heldout"), "report": ("report/sample", "base"),
}  # fmt: skip
"""A round of self-play: the steps, and what feeds them."""


def _picture(rounds: int = 3, **states: str) -> GraphPicture:
    """The picture of a run. states: of steps, `policy_2` for the step `policy` of round 2; else `made`."""
    run = Run("20990101-000000-x-0000", "x", {})
    for name in ("prompts", "heldout", "judge", "base"):
        run.steps[name] = RunStep(name, (name,), "load", name, state="made")
    for number in range(1, rounds + 1):
        for name, fed_by in ROUND.items():
            before = f"policy@{number - 1}" if number > 1 else "base"
            sources = (before if s == "prev.policy" else f"{s}@{number}" if s in ROUND else s for s in fed_by)
            state = states.get(f"{name}_{number}", "made")
            run.steps[f"{name}@{number}"] = RunStep(
                f"{name}@{number}", (f"{name}@{number}",), "fit", name, number, state, fed_by=tuple(sources)
            )
    run.steps["average"] = RunStep("average", ("average",), "mean", "average", fed_by=(f"policy@{rounds}",))
    picture = graph_picture(run, ())
    assert picture
    return picture


def test_a_composite_is_one_box_and_so_is_a_step_of_every_round() -> None:
    picture = _picture()
    names = [box.name for box in picture.boxes]
    assert sorted(names) == sorted(
        ["prompts", "heldout", "judge", "base", "batch", "completions", "win_probs", "targets", "policy", "report",
         "average"]
    )  # fmt: skip
    assert [band.title for band in picture.bands] == [
        "before the rounds", "3 rounds, drawn as one", "after the rounds"
    ]  # fmt: skip


def test_a_box_shows_how_the_step_of_each_round_ended_and_the_worst_of_a_composite() -> None:
    states = {box.name: box.states for box in _picture(**{"policy/logps_2": "failed", "policy_2": "skipped"}).boxes}
    assert states["policy"] == ("made", "failed", "made")
    assert states["base"] == ("made",)
    assert states["average"] == ("pending",)


def test_many_rounds_share_cells_which_show_the_worst_of_them() -> None:
    states = {box.name: box.states for box in _picture(rounds=100, report_3="failed").boxes}
    assert states["report"] == ("failed", *["made"] * 33), "34 cells of three rounds"


def test_only_what_feeds_the_next_round_is_drawn_as_a_loop() -> None:
    picture = _picture()
    names = {box.id: box.name for box in picture.boxes}
    edges = {(names[a.source], names[a.target]): a.loop for a in picture.arrows}
    assert {edge for edge, loop in edges.items() if loop} == {("policy", "completions")}
    assert edges["base", "completions"] is False, "in the first round"
    assert edges["policy", "average"] is False
    assert ("policy", "policy") not in edges, "inside a composite"
    assert len(picture.arrows) == len(edges)


def test_no_box_lies_on_another_or_outside_its_band() -> None:
    picture = _picture(rounds=40)
    for a, b in combinations(picture.boxes, 2):
        beside = a.x + a.width <= b.x or b.x + b.width <= a.x
        assert beside or a.y + HEIGHT <= b.y or b.y + HEIGHT <= a.y, (a.name, b.name)
    for box in picture.boxes:
        assert any(band.y < box.y and box.y + HEIGHT < band.y + band.height for band in picture.bands), box.name
        assert box.x > 0
        assert box.x + box.width < picture.width


def test_arrows_within_a_band_go_to_the_right() -> None:
    boxes = {box.id: box for box in _picture().boxes}
    for arrow in _picture().arrows:
        source, target = boxes[arrow.source], boxes[arrow.target]
        if not arrow.loop and source.y == target.y:
            assert source.x + source.width < target.x, (source.name, target.name)


def test_a_run_without_steps_has_no_picture() -> None:
    assert graph_picture(Run("20990101-000000-x-0000", "x", {}), ()) is None
