"""Sampling with vLLM, offline and in this process: paged memory, continuous batching, shared prefixes.

Consecutive completions of one prompt are one request. Their noise is that of the transformers engine
(`tasks/sampling/noise.py`), so both engines draw the same tokens where their scores agree. The log-probabilities are
vLLM's `raw_logprobs`, before temperature and truncation. Batches depend on timing inside vLLM, so last bits, and with
them a rare token, may differ between two runs. GPUs and `tensor_parallel` are untested so far.

An adapter is applied beside the loaded base, so that the base and all its adapters share one engine. Room for adapters
makes vLLM slower for the base too (`tasks/sampling/vllm_lora.py`): an engine gets it when its first adapter comes, by
loading once more, or from the beginning by `lora_rank`.
"""

from __future__ import annotations

import gc
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import groupby, islice
from typing import Annotated, Any, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tasks.calls import Adapter
from tasks.contract import Bounds, Execution, SpecError
from tasks.declarations import Resources
from tasks.kinds import Model, Policy
from tasks.ranks import this_rank
from tasks.sampling.requests import Engine, OnProgress, Options, Request, SampledAnswer, cached_engine, evict
from tasks.sampling.stopping import finished_answer, ids_without_text
from tasks.sampling.vllm_lora import AdapterSlot, lora_settings
from tasks.sampling.weights import UNFILLED, check_file_names, checked_weights, meta_model, weights_identity
from tasks.template import tokenizer_of
from tasks.training.adapters import TENSORS, add_layers, fill_layers, stored_adapter
from tasks.training.model import vocabulary_of

UNKEYED = {"os.environ": "vLLM's settings of processes, memory and messages, which do not change completions"}
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_USE_V2_MODEL_RUNNER": "0",
}
"""Defaults of unset variables. The engine runs in this process so that weights can be replaced; on a CPU keys and
values get 1 GiB. The V1 model runner is the one that runs everywhere, and whose logits processors are used here."""
OF_RANKS = {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}
"""Besides for one of several ranks, each of which would bind its threads to the same cores of a CPU."""


def resources(*, tensor_parallel: int = 1, **_others: Any) -> Resources:
    return Resources(exclusive=True, gpus=tensor_parallel)


def vllm(
    policy: Policy,
    *,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    tensor_parallel: Execution[int] = 1,
    gpu_memory: Execution[float] = 0.9,
    lora_rank: Execution[Annotated[int, Bounds(min=0)]] = 0,
) -> Engine:
    """Completions by vLLM.

    Args:
        policy: a Hugging Face directory, or an adapter.
        dtype: of the weights; `auto`: float32 on a CPU, bfloat16 on a GPU.
        tensor_parallel: GPUs that share the model.
        gpu_memory: share of a GPU's memory that vLLM may use.
        lora_rank: largest rank of the adapters to come, so that the base is loaded once for itself and for them. 0: it
            is loaded again when the first adapter comes.
    """
    if tensor_parallel > 1 and not torch.cuda.is_available():
        raise SpecError(f"vllm.tensor_parallel = {tensor_parallel}, but this machine has no GPU")
    base, adapter = policy.whole, stored_adapter(policy)
    rank = max(lora_rank, adapter.rank if adapter else 0)
    key = ("vllm", weights_identity(base), dtype, tensor_parallel, gpu_memory)
    return cached_engine(policy, key, lambda: VllmEngine(base, dtype, tensor_parallel, gpu_memory, rank))


class VllmEngine:
    """A loaded engine. See `tasks.sampling.requests.Engine`."""

    def __init__(self, base: Model, dtype: str, tensor_parallel: int, gpu_memory: float, lora_rank: int = 0) -> None:
        self._on_gpu = torch.cuda.is_available()
        if dtype == "auto":
            dtype = "bfloat16" if self._on_gpu else "float32"
        self.tokenizer = tokenizer_of(base)
        self._base, self._several = base, tensor_parallel > 1
        self._layers: tuple[Adapter, nn.Module] | None = None
        self._settings: dict[str, Any] = {
            "model": str(base.path), "tokenizer": str(base.path), "dtype": dtype,
            "tensor_parallel_size": tensor_parallel,
            # On a CPU this is a share of all memory; keys and values have a fixed size.
            "gpu_memory_utilization": gpu_memory if self._on_gpu else 0.3,
            "enforce_eager": not self._on_gpu, "max_model_len": -1 if self._on_gpu else None,
            "logprobs_mode": "raw_logprobs", "generation_config": "vllm", "enable_prefix_caching": True, "seed": 0,
            "enable_sleep_mode": self._on_gpu, "barred": ids_without_text(self.tokenizer, vocabulary_of(base)),
        }  # fmt: skip
        self._load(lora_rank)

    def _load(self, lora_rank: int) -> None:
        self.lora_rank, self._asleep, self._unfilled = lora_rank, False, False
        self._lora: Any = None
        """The LoRARequest of the adapter that answers; None: the base does."""
        self._held: tuple[str, Any] = "", None
        """Identity and LoRARequest of the adapter that is loaded, whether it answers or not."""
        self.llm = _load(**self._settings, **lora_settings(lora_rank))
        self._slot = AdapterSlot(self.llm)

    def use(self, policy: Policy) -> None:
        adapter = stored_adapter(policy)
        if adapter is None:
            self._lora = None
            return
        identity = weights_identity(policy)
        if identity != self._held[0]:
            self._apply(adapter, load_file(policy.path / TENSORS), str(policy.path), identity)
        self._lora = self._held[1]

    def _apply(self, adapter: Adapter, tensors: dict[str, Tensor], where: str, identity: str) -> None:
        """Load an adapter, and the base again where that has no room for it."""
        fill_layers(self._with_layers(adapter), tensors, where)
        if adapter.rank > self.lora_rank:
            self.close()
            self._load(adapter.rank)
        self._wake()
        self._held = identity, self._slot.fill(adapter, tensors)

    def _with_layers(self, adapter: Adapter) -> nn.Module:
        """The base without memory, with an adapter's layers: what the names and shapes of weights are held against."""
        if self._layers is None or self._layers[0] != adapter:
            model = meta_model(self._base)
            add_layers(model, adapter)
            self._layers = adapter, model
        return self._layers[1]

    def generate(self, requests: Sequence[Request], options: Options, on_progress: OnProgress) -> list[SampledAnswer]:
        return next(self.generate_parts([requests], options, on_progress))

    def generate_parts(
        self, parts: Iterable[Sequence[Request]], options: Options, on_progress: OnProgress
    ) -> Iterator[list[SampledAnswer]]:
        """The next part is enqueued together with each, so that the batch stays full while a part ends."""
        self._wake()
        engine, finished = self.llm.llm_engine, 0
        self.llm.reset_prefix_cache()
        coming = (self._enqueue(requests, options) for requests in parts)
        enqueued = deque(islice(coming, 1))
        done: dict[str, list[Any]] = {}
        try:
            while enqueued:
                enqueued.extend(islice(coming, 1))
                while not done.keys() >= enqueued[0].keys():
                    new = {output.request_id: output.outputs for output in engine.step() if output.finished}
                    done |= new
                    finished += sum(map(len, new.values()))
                    on_progress(finished)
                completions = [c for name in enqueued.popleft() for c in done.pop(name)]
                yield [
                    finished_answer(self.tokenizer, list(c.token_ids), c.logprobs.logprobs, options)
                    for c in completions
                ]
        finally:
            engine.abort_request([name for part in enqueued for name in part.values()], internal=True)

    def _enqueue(self, requests: Sequence[Request], options: Options) -> dict[str, str]:
        """Give vLLM the requests of a part, those for one prompt as one. Returns the names in its outputs, in their
        order, and those inside vLLM."""
        from vllm import TokensPrompt

        from tasks.sampling.vllm_processor import sampling_params

        groups = [list(g) for _, g in groupby(requests, key=lambda r: (tuple(r.prompt_tokens), r.max_tokens))]
        prompts = [TokensPrompt(prompt_token_ids=list(group[0].prompt_tokens)) for group in groups]
        params = [sampling_params(group, options) for group in groups]
        names = self.llm.enqueue(prompts, params, lora_request=self._lora, use_tqdm=False) if groups else []
        return {name.rpartition("-")[0]: name for name in names}

    def update(self, weights: Iterable[tuple[str, Tensor]], adapter: Adapter | None = None) -> None:
        """As `Engine.update`, by vLLM's own reload in place.

        It loads layer by layer from the trainer's tensors: on a GPU without a detour, into the memory that captured
        graphs refer to; on a CPU it packs each layer's weights anew. The interface `WeightTransferConfig` of vLLM 0.32
        makes the same reload after a transfer between processes (NCCL, CUDA IPC) that one process cannot make with
        itself. An adapter comes by two files of its own size, because vLLM reads one from nowhere else.
        """
        if adapter is not None:
            self._apply(adapter, dict(weights), "in training", "")
            self._lora = self._held[1]
            return
        if self._several:
            raise SpecError(
                "replacing the weights of a vLLM engine on several GPUs is not supported; use tensor_parallel = 1"
            )
        new = checked_weights(weights, self._meta_model)
        evict(self)
        self._unfilled = False
        self._wake()
        self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(new.items())})
        self.llm.apply_model(_repack)
        self.llm.reset_prefix_cache()
        # vLLM drops its adapters when the weights of the base change.
        self._lora, self._held = None, ("", None)

    @cached_property
    def _meta_model(self) -> nn.Module:
        model = meta_model(self._base)
        check_file_names(self._base, model)
        return model

    def rest(self, *, renewed: bool = False) -> None:
        """On a GPU: keys and values go, and the weights move to the machine's memory, or go too where they are renewed
        anyway."""
        if not self._on_gpu or self._asleep:
            return
        if renewed:
            evict(self)
        self.llm.sleep(level=2 if renewed else 1)
        self._asleep, self._unfilled = True, renewed

    def _wake(self) -> None:
        if self._unfilled:
            raise RuntimeError(UNFILLED)
        if self._asleep:
            torch.cuda.empty_cache()  # vLLM takes its memory beside torch's allocator
            self.llm.wake_up()
            self._asleep = False

    def close(self) -> None:
        from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

        if not hasattr(self, "llm"):  # it could not be loaded again
            return
        self.llm.llm_engine.engine_core.shutdown()
        del self.llm, self._slot
        gc.collect()
        cleanup_dist_env_and_memory()


def _load(*, barred: list[int], **settings: Any) -> Any:
    """A vLLM engine. On a CPU vLLM disables `torch.set_num_threads`, which is restored here."""
    for name, value in (ENVIRONMENT | (OF_RANKS if this_rank().world > 1 else {})).items():
        os.environ.setdefault(name, value)
    from vllm import LLM

    from tasks.sampling.vllm_processor import BARRED, KeyedNoise

    set_threads = torch.set_num_threads
    try:
        return LLM(
            disable_log_stats=True, logits_processors=[KeyedNoise], additional_config={BARRED: barred}, **settings
        )
    finally:
        torch.set_num_threads = set_threads


def _repack(model: nn.Module) -> None:
    """Pack the output head again: on a CPU it uses a packed copy of its weights, which a reload does not update if the
    head is tied to the embeddings."""
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    if not torch.cuda.is_available():
        for module in model.modules():
            if isinstance(module, ParallelLMHead):
                dispatch_cpu_unquantized_gemm(module, remove_weight=False)
