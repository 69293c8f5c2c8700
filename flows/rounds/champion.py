"""The champion of a deployment in MLflow's model registry: the model that its gate accepted with the head's round."""

from __future__ import annotations

import os

from flows.reporting.sinks.mlflow_database import database_of
from flows.reporting.sinks.servers import MLFLOW, targets
from flows.reporting.sinks.tracking import chosen_servers, family_name, short_error
from flows.rounds.ledger import Ledger
from flows.store.store import Store


def sync_champion(store: Store, ledger: Ledger) -> str:
    """Make the alias what the ledger says, after the head was moved back. Returns a message if that failed.

    Does nothing where runs are not tracked in MLflow.
    """
    tracked = os.environ.get("MLFLOW_TRACKING_URI") or database_of(store.root).exists()
    if MLFLOW not in chosen_servers([MLFLOW]) or not tracked:
        return ""
    [target] = targets(store.root, [MLFLOW])
    try:
        target.open().promote(family_name(*ledger.name.split("/")), ledger.history().champion)
    except Exception as e:
        return f"; MLflow has another champion until the next tick ({target.where}: {short_error(e)})"
    return ""
