"""Training a reward model on judged answers."""

from typing import Annotated, Any

from tasks.contract import Bounds, Choice, Chosen, Seed, SpecError, Workspace
from tasks.declarations import SHARED
from tasks.kinds import Policy, Preferences, Rankings, RewardModel, Scores
from tasks.ranks import barrier, this_rank
from tasks.training.learner import check_adapter
from tasks.training.passes import (
    CURVES,
    check_optimizer,
    cost_of_passes,
    memory_of_passes,
    rows_trained,
    training_by_loss,
)
from tasks.training.settings import OptimConfig, TrainComputeConfig

fit_reward_resources = SHARED
fit_reward_cost = cost_of_passes
fit_reward_work = rows_trained
fit_reward_training = training_by_loss
fit_reward_curves = CURVES
fit_reward_wiring = check_adapter
fit_reward_files = check_optimizer
fit_reward_memory = memory_of_passes


def fit_reward(
    policy: Policy | RewardModel,
    data: Preferences | Rankings | Scores,
    work: Workspace,
    *,
    loss: Annotated[Chosen, Choice("losses/reward")],
    lr: Annotated[float, Bounds(above=0)],
    optim: OptimConfig = OptimConfig(batch=64, schedule="cosine", warmup=0.03),
    compute: TrainComputeConfig = TrainComputeConfig(),
    adapter: Annotated[Chosen, Choice("adapters")] | None = None,
    seed: Seed = 0,
) -> RewardModel:
    """Minimise a loss over the scores of tokenized answers: a linear head, read at the last token of each.

    A checkpoint whose tokenizer has a separator and no chat template is an encoder, such as DeBERTa: it reads prompt
    and answer as a pair of texts, in padded batches, through its own forward pass and pooling.
    On a table of scores the head has an output for each of its attributes. They learn the values in standard deviations
    from the mean, both of the rows that are trained on; `attributes.json` beside the weights has them, and names them.
    From a policy's weights with a new random head, or from a sequence-classification checkpoint with its own. Head
    and loss compute in float32. On pairs and rankings only differences of scores are learnt. Large models overfit in a
    second epoch (arXiv 2203.02155, C.2); the small ones of the toy world gain from three.
    The result is a Hugging Face directory that AutoModelForSequenceClassification opens with the same scores; with
    `adapter` it is an adapter and the head, as `fit` describes. A killed fit resumes from its last checkpoint and ends
    in the same bytes on one kind of CPU. Raises DataError if the training diverges, if the tokenizer has no EOS or if
    the architecture has no such head.

    Args:
        loss: what is minimised.
        lr: peak learning rate; no default, because no value serves two models.
        adapter: what learns beside a frozen model, with the head; default: nothing, the whole model learns.
        seed: the new head, the order of the rows, and a new adapter.
    """
    import torch

    from tasks.training.adapters import chosen_adapter
    from tasks.training.attribute_targets import learnt_attributes
    from tasks.training.examples import arguments_of, examples_of
    from tasks.training.learner import check_learner, open_learner
    from tasks.training.loop import Settings, begin, train_model
    from tasks.training.opening import open_on_ranks
    from tasks.training.pair_texts import PairScores, reads_pairs
    from tasks.training.reward import name_outputs, open_classifier, open_reward_model, save_reward_model
    from tasks.training.rows import rows_of
    from tasks.training.scores import AnswerScores, with_end_token

    def opening(dtype: torch.dtype) -> Any:
        if pairs:
            return open_classifier(policy, dtype)
        return open_reward_model(policy, dtype, seed, head=torch.float32, attributes=attributes)

    def scoring(model: Any) -> Any:
        return PairScores(model, policy) if pairs else AnswerScores(model)

    attributes = learnt_attributes(policy, data, loss, arguments_of(loss))
    pairs, learning = reads_pairs(policy), chosen_adapter(adapter)
    if pairs and learning is not None:
        raise SpecError(f"adapter: {policy.path} is an encoder, which is trained as a whole: leave `adapter` out")
    check_learner(policy, learning, compute.save_dtype)
    begin(len(data), optim, seed)
    scorer = open_on_ranks(lambda: open_learner(policy, learning, opening, scoring, compute, seed))
    examples = examples_of(
        data, with_end_token(rows_of(data, policy)), loss, None, RewardModel, average_over=optim.average_over,
        attributes=attributes,
    )  # fmt: skip
    settings = Settings(lr, optim, compute, seed, learning.rank if learning else 0)
    train_model(scorer, examples, loss, settings, work)
    if this_rank().is_first:
        name_outputs(scorer.model.config, attributes)
        save_reward_model(scorer.model, policy, work.output, compute.save_dtype, attributes=attributes)
    barrier()
    return RewardModel(work.output, base=policy.whole if learning else None)
