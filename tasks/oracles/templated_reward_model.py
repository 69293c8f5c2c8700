"""An external reward model whose checkpoint does not say how its texts are laid out: a chat template of yours does."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

from tasks.contract import Bounds, DataError, SpecError
from tasks.formats.checkpoint import check_files, model_directory
from tasks.formats.hub import content_or_commits
from tasks.kinds import Scorer
from tasks.training.heads import check_scores

TEMPLATE = "chat_template.jinja"


def templated_reward_model(
    *,
    path: str,
    chat_template: str,
    revision: str | None = None,
    scale: Annotated[float, Bounds(above=0)] = 1.0,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
) -> Scorer:
    """`reward_model` for a checkpoint without a chat template, as many decoders of the hub are, or with a wrong one.

    P(a beats b) = σ(scale·(score(a) − score(b))). The checkpoint is not copied. Raises DataError if it is not whole,
    does not score, or the template does not allow to encode a conversation.

    Args:
        path: a local directory, or a hub id (org/name): config.json with num_labels, safetensors, tokenizer.
        chat_template: a file in Jinja's language, as transformers takes it, with which the model was trained.
        revision: a hub repository's branch, tag or commit; default: its main branch.
        scale: logits that one unit of the score is worth.
        dtype: of the model.
    """
    from tasks.training.device import this_device
    from tasks.training.reward_scorer import reward_scorer

    here, text = model_directory(path, revision).resolve(), _template(Path(chat_template).expanduser())
    _check(here)
    with TemporaryDirectory() as folder:
        for file in here.iterdir():
            if file.name != TEMPLATE:
                (Path(folder) / file.name).symlink_to(file)
        (Path(folder) / TEMPLATE).write_text(text, encoding="utf-8")
        scorer = reward_scorer(path=folder, dtype=dtype)
    device = this_device()
    scorer.scale, scorer.stored_as = scale, f"score, {device.kind}, {device.dtype(dtype)}"
    return scorer


def identity(
    *, online: bool, base: Path, path: str, chat_template: str, revision: str | None = None, **_: object
) -> dict[str, str | Path]:
    """The checkpoint's content, or the hub's commit, and that of the template. Raises DataError, or SpecError where
    the template cannot be read."""
    content = content_or_commits(path, revision, online=online, base=base, kinds=("model",))
    if "model" not in content:
        _check(Path(content["content"]))
    file = base / Path(chat_template).expanduser()
    _template(file)
    return {**{"revision" if n == "model" else n: value for n, value in content.items()}, "chat_template": file}


def _check(path: Path) -> None:
    check_files(path)
    check_scores(path)


def _template(file: Path) -> str:
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise SpecError(f"`chat_template` = {file} cannot be read: {e}") from None
    if "messages" not in text:
        raise DataError(f"{file} is not a chat template: it does not use `messages`")
    return text
