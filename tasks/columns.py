"""Columns that tables of several kinds have, each with one line of documentation."""

import pyarrow as pa


def field(name: str, kind: pa.DataType, text: str, nullable: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=nullable, metadata={"about": text})


_MESSAGE = pa.struct([pa.field(name, pa.string(), name == "extra") for name in ("role", "content", "extra")])
MESSAGES = pa.list_(pa.field("item", _MESSAGE, False))
TOKENS = pa.list_(pa.field("item", pa.int32(), False))
STRINGS = pa.list_(pa.field("item", pa.string(), False))

PROMPT = [
    field("prompt_id", pa.string(), "digest of the prompt's content (32 hex digits)"),
    field("prompt", MESSAGES, "the conversation so far (`tasks/message.py`), ending with the user or a tool"),
]
TRAIN = [
    field("group", pa.string(), "stratum that the row belongs to, for reports and balanced mixing", True),
    field("weight", pa.float64(), "factor of the row's loss; null means 1", True),
]
TRUTH = field("truth", pa.string(), "JSON: what a rule needs to judge an answer", True)
PROMPT_TOKENS = field("prompt_tokens", TOKENS, "ids of the rendered prompt, generation prompt included", True)
COMPLETION = [
    field("completion_id", pa.string(), "names one draw: digest of (policy, prompt_id, seed, stream, k), not a text"),
    field("completion", pa.string(), "the answer's text, without special tokens"),
    PROMPT_TOKENS,
    field(
        "completion_tokens", TOKENS, "ids of the answer, with the token that ends its turn if it ended by itself", True
    ),
]
LABEL = [
    field("completion_ended", pa.bool_(), "False: cut by its length, so it gets no end of turn; null: it ended", True),
    field("label", pa.bool_(), "True: desirable"),
]
SAMPLED = [
    *PROMPT, TRUTH, *TRAIN, *COMPLETION,
    field("stream", pa.int64(), "stream of noise that the draw came from"),
    field("k", pa.int32(), "number of the draw among those of its prompt, from 0"),
    field("token_logps", pa.list_(pa.field("item", pa.float32(), False)),
           "log-probability of each completion token under the untruncated temperature-1 distribution, nats"),
    field("finish_reason", pa.string(), "'stop': ended by a stop token or string; 'length': cut, no token appended"),
]  # fmt: skip
BINS = pa.schema([
    field("name", pa.string(), "what is binned: confidence (of the winner), margin (log-odds), a name of `mine_bins`"),
    field("low", pa.float64(), "lower edge of the bin"),
    field("high", pa.float64(), "upper edge"),
    field("count", pa.int64(), "number of pairs, answers or prompts in it"),
    field("mean", pa.float64(), "their mean of what is binned; null: not measured", True),
    field("value", pa.float64(), "what was measured of them, such as their accuracy; null: nothing", True),
    field("ci_low", pa.float64(), "lower end of its 95% interval over prompts", True),
    field("ci_high", pa.float64(), "upper end", True),
])  # fmt: skip
"""Schema of a Report's histograms: one row = one bin."""
