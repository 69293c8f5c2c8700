"""Tasks without inputs: they load prompts, demonstrations, pairs, policies and oracles."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Literal

from tasks.contract import JSON, Bounds, Choice, Chosen, Seed, SpecError, Workspace
from tasks.declarations import HEAVY, StepView
from tasks.formats.early import check_checkpoint, check_rows, check_split, config_of_oracle, config_of_source
from tasks.kinds import Demonstrations, Labels, Model, Oracle, Policy, Preferences, Prompts, Scores, WinProbs
from tasks.skipped import RowLog
from tasks.source import opened

load_prompts_wiring = check_split
load_prompts_files = check_rows
load_demonstrations_wiring = check_split
load_demonstrations_files = check_rows
read_preferences_files = check_rows
read_labels_files = check_rows
read_policy_files = check_checkpoint
read_scores_files = check_rows
read_policy_resources = HEAVY
read_policy_architecture = config_of_source
load_oracle_architecture = config_of_oracle
init_policy_resources = HEAVY


def init_policy_architecture(step: StepView) -> Mapping[str, JSON]:
    p = step.params
    return {
        "hidden_size": p["hidden"], "num_hidden_layers": p["layers"], "num_attention_heads": p["heads"],
        "intermediate_size": p["ffn"], "vocab_size": p["vocab"], "max_position_embeddings": p["positions"],
        "tie_word_embeddings": True,
    }  # fmt: skip


def load_prompts(
    work: Workspace,
    *,
    source: Annotated[Chosen, Choice("sources", other="path")],
    split: str = "train",
    max_skipped: Annotated[float, Bounds(min=0, max=1)] = 0.1,
) -> Prompts:
    """Prompts of one split of a source.

    Args:
        source: a world, or a file, directory or hub dataset.
        split: name of the split; `all` takes every row.
        max_skipped: largest share of a file's rows that may be unusable; above it the step fails and lists them.
    """
    log = RowLog(work, max_skipped)
    return log.save(opened(source).prompts(split, log))


def load_demonstrations(
    work: Workspace,
    *,
    source: Annotated[Chosen, Choice("sources", other="path")],
    split: str = "train",
    answers: Literal["mixed", "golden"] = "mixed",
    max_skipped: Annotated[float, Bounds(min=0, max=1)] = 0.1,
) -> Demonstrations:
    """Gold answers to the prompts of one split of a source.

    Args:
        source: a world, or a file, directory or hub dataset.
        split: name of the split; `all` takes every row.
        answers: `mixed`: all of them; `golden`: only the best ones, if the source marks them.
        max_skipped: largest share of a file's rows that may be unusable; above it the step fails and lists them.
    """
    log = RowLog(work, max_skipped)
    return log.save(opened(source).demonstrations(split, answers, log))


def read_preferences(
    work: Workspace,
    *,
    source: Annotated[Chosen, Choice("sources", other="path")],
    split: str = "train",
    max_skipped: Annotated[float, Bounds(min=0, max=1)] = 0.1,
) -> Preferences:
    """Labelled pairs of one split of a source.

    Args:
        source: a file, directory or hub dataset.
        split: name of the split; `all` takes every row.
        max_skipped: largest share of a file's rows that may be unusable; above it the step fails and lists them.
    """
    log = RowLog(work, max_skipped)
    return log.save(opened(source).preferences(split, log))


def read_labels(
    work: Workspace,
    *,
    source: Annotated[Chosen, Choice("sources", other="path")],
    split: str = "train",
    max_skipped: Annotated[float, Bounds(min=0, max=1)] = 0.1,
) -> Labels:
    """Answers of one split of a source that people called desirable or undesirable (thumbs up or down).

    Raises DataError if all labels are equal.

    Args:
        source: a file, directory or hub dataset of labelled answers, or of pairs, each of which gives two labels.
        split: name of the split; `all` takes every row.
        max_skipped: largest share of a file's rows that may be unusable; above it the step fails and lists them.
    """
    log = RowLog(work, max_skipped)
    return log.save(opened(source).labels(split, log))


def read_scores(
    work: Workspace,
    *,
    source: Annotated[Chosen, Choice("sources", other="path")],
    split: str = "train",
    attributes: list[str] | None = None,
    max_skipped: Annotated[float, Bounds(min=0, max=1)] = 0.1,
) -> Scores:
    """Scored answers of one split of a source: prompt, answer, and columns of numbers, as HelpSteer has them.

    A number that is missing stays so; a row without any is skipped. The score is the mean of the numbers.

    Args:
        source: a file, directory or hub dataset.
        split: name of the split; `all` takes every row.
        attributes: the columns of numbers; default: all that hold nothing else and are not known by name.
        max_skipped: largest share of a file's rows that may be unusable; above it the step fails and lists them.
    """
    log = RowLog(work, max_skipped)
    return log.save(opened(source).scores(split, attributes, log))


def load_judgements(
    work: Workspace,
    *,
    source: Annotated[Chosen, Choice("sources", other="path")],
    split: str = "train",
    annotators: list[str] | None = None,
    players: list[str] | None = None,
    max_skipped: Annotated[float, Bounds(min=0, max=1)] = 0.1,
) -> WinProbs:
    """Verdicts on the pairs of one split of a source, one row for each annotator: people, or judges from elsewhere.

    a is the row's first answer and b its second; p is 1, 0, or ½ for a tie, and null where the column holds something
    else. Without columns of verdicts it is the label of each pair. The answers have the ids that `load_preferences`
    gives them, so what an oracle thinks of the same pairs (`compare_pairs`) stands beside it in `agreement`; `majority`
    makes one verdict of several. With `players`, a_id and b_id are the models that wrote the answers, for `ratings`.

    Args:
        source: a file, directory or hub dataset of pairs.
        split: name of the split; `all` takes every row.
        annotators: columns with a verdict on the row's two answers: 1, 2 or 0, as PandaLM has them; A, B or tie;
            model_a, response_2, chosen, …; default: PandaLM's three, or the label of other pairs.
        players: the columns that name who wrote the first and the second answer, as model_a and model_b; or one that
            names both with `_` between them, as PandaLM's cmp_key.
        max_skipped: largest share of a file's rows that may be unusable; above it the step fails and lists them.
    """
    log = RowLog(work, max_skipped)
    return log.save(opened(source).judgements(split, annotators, log, players))


def read_policy(*, source: Annotated[Chosen, Choice("sources", other="path")]) -> Policy:
    """A real checkpoint, referenced without a copy: config, safetensors, tokenizer and chat template are checked.

    Raises DataError if files are missing or do not fit each other, or if the chat template leaves out messages, has no
    generation prompt, or ends an answer with a token at which sampling does not stop.

    Args:
        source: a local Hugging Face directory, or a hub id.
    """
    from tasks.rendering import Template

    policy = Policy(opened(source).policy())
    Template(policy).check()
    return policy


def init_policy(
    demonstrations: Demonstrations,
    work: Workspace,
    *,
    vocab: Annotated[int, Bounds(min=262)] = 512,
    hidden: Annotated[int, Bounds(min=8)] = 128,
    layers: Annotated[int, Bounds(min=1)] = 3,
    heads: Annotated[int, Bounds(min=1)] = 4,
    ffn: Annotated[int, Bounds(min=8)] = 336,
    positions: Annotated[int, Bounds(min=16)] = 128,
    init_std: Annotated[float, Bounds(above=0)] = 0.06,
    max_new_tokens: Annotated[int, Bounds(min=1)] = 48,
    seed: Seed = 0,
) -> Policy:
    """A Llama with random weights and a byte-level BPE tokenizer trained on the demonstrations and their prompts.

    The tokenizer has pad, bos, eos, unk, user and bot as special tokens (pad is not eos); its chat template renders
    bos once. The defaults make 0.65M parameters.

    Args:
        vocab: entries of the tokenizer; 256 are the bytes, six are special.
        hidden: width of the model.
        layers: its transformer blocks.
        heads: attention heads in each.
        ffn: inner width of their feed-forward part.
        positions: longest sequence, prompt and answer together, in tokens.
        init_std: standard deviation of the random weights. Learning the toy's facts takes twice the steps from the
            customary 0.02, which suits widths of a thousand.
        max_new_tokens: default maximum length of sampled answers, in tokens.
        seed: the random weights.
    """
    from tasks.worlds.untrained import write_llama, write_tokenizer

    if hidden % (2 * heads):
        raise SpecError(f"hidden = {hidden} must be a multiple of 2·heads = {2 * heads}: rotary positions turn pairs")
    rows = demonstrations.table.select(["prompt", "completion"]).to_pylist()
    texts = (text for row in rows for text in (*(m["content"] for m in row["prompt"]), row["completion"]))
    tokenizer = write_tokenizer(work.output, texts, vocab, positions)
    write_llama(
        work.output, tokenizer, seed, init_std, max_new_tokens, hidden_size=hidden, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=heads, intermediate_size=ffn, max_position_embeddings=positions,
    )  # fmt: skip
    return Policy(work.output)


def load_oracle(*, oracle: Annotated[Chosen, Choice("oracles", other="reward_model")]) -> Oracle:
    """A judge of answers, as a specification that later steps open (a model is referenced without a copy).

    Args:
        oracle: a rule or a model; a path or hub id is that of a reward model.
    """
    made = _pinned(oracle)()
    if not isinstance(made, Oracle):
        raise TypeError(f"{oracle.module} must return an Oracle, not {type(made).__name__}")
    return made if isinstance(made, Model) else made.with_choice(oracle)


def _pinned(choice: Chosen) -> Chosen:
    """The choice at the commit in the key, even if the hub's branch has moved."""
    commit = choice.identity.get("revision")
    return replace(choice, params={**choice.params, "revision": commit}) if commit else choice
