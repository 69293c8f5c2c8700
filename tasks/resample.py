"""A table's rows drawn anew: how far a result depends on the sample."""

from tasks.contract import DataError, Seed
from tasks.kinds import AnyTable


def bootstrap(table: AnyTable, *, seed: Seed = 0) -> AnyTable:
    """As many rows as the table has, drawn from it with replacement, in the table's order.

    Models trained on several such samples (`train_ensemble`) disagree where the data does not decide. About 1/e of the
    rows are left out, and a row that is drawn twice counts twice. Raises DataError for an empty table.

    Args:
        seed: the draws.
    """
    import numpy as np
    import pyarrow as pa

    if not len(table):
        raise DataError(f"the {type(table).__name__} has no rows to draw from")
    rows = np.sort(np.random.Generator(np.random.PCG64(seed)).integers(0, len(table), len(table)))
    return type(table).of(table.table.take(pa.array(rows)), table.metadata)
