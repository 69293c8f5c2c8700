"""The logits processor alone, with vLLM's own messages about its batch."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from tasks.sampling.draw import noisy_scores
from tasks.sampling.noise import Noise
from tasks.sampling.requests import Options, Request

pytest.importorskip("vllm", reason="vLLM is not installed")
from tasks.sampling.vllm_processor import BARRED, KeyedNoise, sampling_params

SEEDS = (11, 2**63 - 1, 13)
OPTIONS = Options(temperature=0.7, top_k=4)
LOGITS = torch.linspace(-1, 1, 6).expand(3, 6)


def completions(options: Options = OPTIONS) -> list[object]:
    """Parameters of three completions of one request, as vLLM derives them."""
    from vllm.v1.engine.parallel_sampling import ParentRequest

    params = sampling_params([Request([1, 2], seed, 8) for seed in SEEDS], options).clone()
    parent = ParentRequest(SimpleNamespace(external_req_id="0", request_id="0-a", params=params))
    return [parent.get_child_info(i)[1] for i in range(3)]


def processor() -> KeyedNoise:
    config = SimpleNamespace(additional_config={BARRED: [5]}, model_config=SimpleNamespace(get_vocab_size=lambda: 6))
    return KeyedNoise(config, torch.device("cpu"), False)


def update(made: KeyedNoise, size: int, **changes: list[object]) -> None:
    from vllm.v1.sample.logits_processor import BatchUpdate

    made.update_state(BatchUpdate(size, **{"removed": [], "added": [], "moved": [], **changes}))


def expected(*rows: tuple[int, int]) -> Tensor:
    """Scores of completions (number, position)."""
    barred = torch.tensor([False] * 5 + [True])
    streams, positions = [Noise(SEEDS[number]) for number, _ in rows], [position for _, position in rows]
    return noisy_scores(LOGITS[: len(rows)], streams, positions, OPTIONS, barred)


def test_every_completion_of_a_request_has_the_noise_of_its_own_seed() -> None:
    made = processor()
    update(made, 3, added=[(i, params, None, []) for i, params in enumerate(completions())])
    assert torch.equal(made.apply(LOGITS.clone()), expected((0, 0), (1, 0), (2, 0)))


def test_rows_follow_the_moves_of_vllms_batch_and_positions_the_sampled_tokens() -> None:
    from vllm.v1.sample.logits_processor import MoveDirectionality

    made, tokens = processor(), [[4], [4, 4], [4, 4, 4]]
    update(made, 3, added=[(i, params, None, tokens[i]) for i, params in enumerate(completions())])
    update(made, 2, removed=[0], moved=[(2, 0, MoveDirectionality.UNIDIRECTIONAL)])
    tokens[1].append(4)
    assert torch.equal(made.apply(LOGITS[:2].clone()), expected((2, 3), (1, 3)))
    update(made, 2, moved=[(0, 1, MoveDirectionality.SWAP)])
    assert torch.equal(made.apply(LOGITS[:2].clone()), expected((1, 3), (2, 3)))
    # Unfinished completions that leave the batch come back with the tokens they had.
    update(made, 2, added=[(0, completions()[0], None, tokens[0])])
    made.update_state(None)
    assert torch.equal(made.apply(LOGITS[:2].clone()), expected((0, 1), (2, 3)))


def test_a_position_that_vllm_computes_twice_has_the_same_noise() -> None:
    """It discards tokens of prompts that it has read only in part."""
    made = processor()
    update(made, 1, added=[(0, completions()[1], None, [])])
    assert torch.equal(made.apply(LOGITS[:1].clone()), made.apply(LOGITS[:1].clone()))


def test_greedy_scores_have_no_noise_and_bar_the_same_ids() -> None:
    made = processor()
    update(made, 1, added=[(0, completions(Options(temperature=0.0))[0], None, [])])
    assert made.apply(LOGITS[:1].clone()).tolist()[0] == [*LOGITS[0, :5].tolist(), -torch.inf]
