"""MLflow's model registry: policies as versions of one registered model per pipeline or deployment, by their digests.

The alias `champion` is on the policy that a gate's test accepted last: `models:/sppo__nightly@champion`. Registering or
promoting anything again changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION = "champion"
DIGEST = "digest"
"""Tag of a version: the digest of its content."""


def register_version(client: MlflowClient, family: str, digest: str, model: str) -> None:
    """Make a logged model the next version of a registered model, unless a version has its digest.

    Args:
        family: name of the registered model.
        digest: of the model's content.
        model: MLflow's id of the logged model.
    """
    if not _exists(client, family):
        client.create_registered_model(family, description=f"Policies of {family.replace('__', '/')}, by their digests")
    if _version(client, family, digest) is None:
        made = client.get_logged_model(model)  # a source `models:/ID` is looked up in MLflow's global tracking URI
        client.create_model_version(
            family, made.artifact_location, made.source_run_id, tags={DIGEST: digest}, model_id=model
        )


def promote_version(client: MlflowClient, family: str, digest: str) -> None:
    """Set the alias on the version of a digest; without a digest, or without such a version, remove it."""
    if not _exists(client, family):
        return
    version, now = _version(client, family, digest) if digest else None, _aliases(client, family).get(CHAMPION)
    if version is None and now is not None:
        client.delete_registered_model_alias(family, CHAMPION)
    elif version is not None and version != now:
        client.set_registered_model_alias(family, CHAMPION, version)


def _exists(client: MlflowClient, family: str) -> bool:
    return bool(client.search_registered_models(f"name = '{family}'", max_results=1))


def _version(client: MlflowClient, family: str, digest: str) -> str | None:
    having: list[Any] = client.search_model_versions(f"name = '{family}' and tags.`{DIGEST}` = '{digest}'")
    return str(having[0].version) if having else None


def _aliases(client: MlflowClient, family: str) -> Mapping[str, str]:
    """Alias → version."""
    return {alias: str(version) for alias, version in client.get_registered_model(family).aliases.items()}
