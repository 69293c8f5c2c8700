"""The example runs from top to bottom, and learns."""

import re
from math import log
from pathlib import Path

import pytest

from examples.dpo_by_hand import main


def test_dpo_by_hand_begins_at_log_2_and_agrees_with_pairs_that_it_did_not_see(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(tmp_path)
    printed = capsys.readouterr().out
    losses = [float(loss) for loss in re.findall(r"loss (\d\.\d+)", printed)]
    assert losses[0] == pytest.approx(log(2), abs=1e-3), "policy and reference are equal"
    assert min(losses[-3:]) < 0.2
    found = re.search(r"eval/accuracy +([\d.]+)", printed)
    assert found
    assert float(found[1]) > 0.8
