"""From pairs to labelled answers."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.ids import digest

compute: Any = pc


def labels_of(pairs: pa.Table) -> tuple[pa.Table, int]:
    """Rows of Labels, two for each row of Preferences with the desirable one first, and how many pairs were left out.

    Left out are pairs whose answers are equal but for whitespace at their ends.
    """
    texts = (compute.utf8_trim_whitespace(pairs.column(side)) for side in ("chosen", "rejected"))
    differ = compute.not_equal(*texts)
    used = pairs.filter(differ)
    sides = [_side(used, side, label=label) for side, label in (("chosen", True), ("rejected", False))]
    order = np.arange(2 * len(used)).reshape(2, -1).T.ravel()
    return pa.concat_tables(sides).take(pa.array(order)), len(pairs) - len(used)


def _side(pairs: pa.Table, side: str, *, label: bool) -> pa.Table:
    shared = ("prompt_id", "prompt", "truth", "group", "weight", "prompt_tokens")
    ids = zip(*(pairs.column(f"{each}_id").to_pylist() for each in ("chosen", "rejected")), strict=True)
    return pa.table({
        **{name: pairs.column(name) for name in shared},
        "completion_id": pa.array([digest(*both, side) for both in ids], pa.string()),
        "completion": pairs.column(side), "completion_tokens": pairs.column(f"{side}_tokens"),
        "completion_ended": pairs.column(f"{side}_ended"), "label": pa.repeat(pa.scalar(label), len(pairs)),
    })  # fmt: skip
