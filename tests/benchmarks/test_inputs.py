"""What the benchmarks train on, and what they count."""

from pathlib import Path

import pytest
import torch

from benchmarks.inputs import SHAPES, Lengths, Shape, TokenCount, count_tokens, random_model, read_pairs, shuffled_back

from benchmarks.inputs import end_answers, useful_flops, write_pairs  # isort: skip


def test_a_prompt_counts_twice_as_read_and_once_as_unique_and_an_answer_has_an_end() -> None:
    pairs = [{"prompt": "w3 w4", "chosen": "w5", "rejected": "w6 w7"}]
    assert count_tokens(pairs) == TokenCount(read=2 * 2 + 2 + 3, unique=2 + 2 + 3, answers=2 + 3)


def test_useful_operations_are_two_for_each_weight_token_and_product() -> None:
    shape = Shape(vocab=10, hidden=4, ffn=5, layers=2, heads=2, kv_heads=1, tied=False, head_dim=2)
    # A layer: queries and output 4·4 each, keys and values 4·2 each, three products of 4·5.
    assert shape.layer_weights == 2 * (16 + 8 + 8 + 16 + 60)
    assert useful_flops(shape, TokenCount(read=9, unique=7, answers=5)) == 6 * (216 * 7 + 40 * 5)
    assert useful_flops(shape, TokenCount(read=9, unique=7, answers=5), products=1) == 2 * (216 * 7 + 40 * 5)


def test_a_shape_counts_the_weights_of_the_model_that_is_made_of_it() -> None:
    shape = SHAPES["tiny"]
    model = random_model(shape)
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "layers" in name]
    assert sum(p.numel() for p in matrices) == shape.layer_weights
    assert sum(inputs * outputs for inputs, outputs in shape.products()) * shape.layers == shape.layer_weights


def test_pairs_have_the_lengths_that_were_asked_for_and_are_equal_for_one_seed(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_pairs(tmp_path / name, 400, Lengths(prompt=50, answer=20), vocab=512)
    pairs = read_pairs(tmp_path / "a")
    assert pairs == read_pairs(tmp_path / "b")
    lengths = sorted(len(pair["prompt"].split()) for pair in pairs)
    assert lengths[200] == pytest.approx(50, rel=0.15)
    assert lengths[-1] <= 150


def test_shuffled_back_undoes_the_trainers_shuffle() -> None:
    from tasks.training.loop import _batches
    from tasks.training.settings import OptimConfig

    pairs = [{"prompt": str(i)} for i in range(10)]
    order = [i for batch in _batches(10, OptimConfig(batch=4), 0) for i in batch.tolist()]
    given = shuffled_back(pairs)
    assert [given[i] for i in order] == pairs


def test_answers_of_random_weights_end_where_they_are_made_to() -> None:
    """Each token ends an answer with a probability near 1/20, whatever was read before."""
    model = random_model(SHAPES["tiny"])
    end_answers(model, 20.0)
    ids = torch.randint(3, SHAPES["tiny"].vocab, (8, 32), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        chances = model(ids).logits.softmax(-1)[..., model.config.eos_token_id]
    assert float(chances.mean()) == pytest.approx(1 / 20, rel=0.1)
    assert float(chances.std()) < 0.02
