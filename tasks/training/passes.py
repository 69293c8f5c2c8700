"""What trainings that go over a table declare. Light: a plan asks."""

from __future__ import annotations

from tasks.declarations import Cost, StepView, Training


def optimizer_steps(step: StepView) -> float:
    """As many as its `steps` says, else those of all passes over the rows of its `data`."""
    rows, params = step.rows_of("data"), step.params
    return params["steps"] or -(-rows // params["batch"]) * params["epochs"]


def cost_of_passes(step: StepView) -> Cost:
    return {"steps": optimizer_steps(step)}


def rows_trained(step: StepView) -> float:
    return optimizer_steps(step) * step.params["batch"]


def training_by_loss(step: StepView) -> Training:
    constants = {name: step.params.get(name) for name in ("lr", "epochs", "batch")}
    return Training(step.choices["loss"].name, constants=constants)


CURVES = {
    "train/loss": "loss", "rewards/margins": "reward margin", "rewards/accuracies": "reward accuracy",
    "rewards/chosen": "reward of chosen", "logps/chosen": "log-prob. of chosen (nats)", "grad_norm": "gradient norm",
    "lr": "learning rate", "tokens_per_second": "tokens per second",
}  # fmt: skip
