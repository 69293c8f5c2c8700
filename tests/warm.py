"""What the forkserver of `tests.forked_ranks` imports, so that each rank begins in milliseconds."""

import pandas
import torch.distributed.fsdp
import torch.distributed.tensor
import transformers.models.auto.modeling_auto
import transformers.models.auto.tokenization_auto
import transformers.models.llama.modeling_llama
import transformers.tokenization_utils_tokenizers

import tasks.reward
import tasks.train
import tasks.training.examples
import tasks.training.logps
import tasks.training.loop
import tasks.training.reward
import tasks.training.sharded

__all__ = ["pandas", "tasks", "torch", "transformers"]
