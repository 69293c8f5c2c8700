"""Training a reward model on judged answers."""

from typing import Annotated

from tasks.contract import Bounds, Choice, Chosen, Seed, Workspace
from tasks.declarations import ACCELERATED
from tasks.kinds import Policy, Preferences, Rankings, RewardModel, Scores
from tasks.training.passes import (
    CURVES,
    check_optimizer,
    cost_of_passes,
    memory_of_passes,
    rows_trained,
    training_by_loss,
)
from tasks.training.settings import OptimConfig, TrainComputeConfig

fit_reward_resources = ACCELERATED
fit_reward_cost = cost_of_passes
fit_reward_work = rows_trained
fit_reward_training = training_by_loss
fit_reward_curves = CURVES
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
    seed: Seed = 0,
) -> RewardModel:
    """Minimise a loss over the scores of tokenized answers: a linear head, read at the last token of each.

    From a policy's weights with a new random head, or from a sequence-classification checkpoint with its own. Head
    and loss compute in float32. On pairs and rankings only differences of scores are learnt; a second epoch overfits.
    The result is a Hugging Face directory that AutoModelForSequenceClassification opens with the same scores. A killed
    fit resumes from its last checkpoint and ends in the same bytes on one kind of CPU. Raises DataError if the training
    diverges, if the tokenizer has no EOS or if the architecture has no such head.

    Args:
        loss: what is minimised.
        lr: peak learning rate; no default, because no value serves two models.
        seed: the new head, and the order of the rows.
    """
    import torch

    from tasks.training.examples import examples_of
    from tasks.training.loop import Settings, begin, train_model
    from tasks.training.reward import open_reward_model, save_reward_model
    from tasks.training.rows import rows_of
    from tasks.training.scores import AnswerScores, with_end_token

    begin(seed)
    model = open_reward_model(policy, torch.float32, seed)
    examples = examples_of(data, with_end_token(rows_of(data, policy)), loss, None, RewardModel)
    train_model(AnswerScores(model), examples, loss, Settings(lr, optim, compute, seed), work)
    save_reward_model(model, policy, work.output, compute.save_dtype)
    return RewardModel(work.output)
