"""Muon for the matrices, AdamW for the rest, and the schedule of their learning rates.

Muon (https://kellerjordan.github.io/posts/muon/) orthogonalises the momentum of a matrix. The
stacked experts are a batch of matrices to it.
"""

from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import Tensor, nn

from training.model import DemoModel

#: Step and share of the base learning rate, with straight lines between. A long fall, with a
#: rest on the way: new skills, such as copying a name, appear while the rate is still high, and
#: become reliable only when it is low.
SCHEDULE = (
    (0, 0.02),
    (49, 1.0),
    (1760, 1.0),
    (3250, 0.447),
    (3900, 0.447),
    (3999, 0.396),
    (4000, 0.5),
    (4350, 0.5),
    (4950, 0.01),
    (5000, 0.35),
    (5200, 0.35),
    (5700, 0.01),
)


class Muon(torch.optim.Optimizer):
    """Momentum with orthogonal updates."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.02,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(parameters, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # noqa: ARG002
        """Update every matrix once."""
        for group in self.param_groups:
            for weight in group["params"]:
                buffer = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
                buffer.lerp_(weight.grad, 1 - group["momentum"])
                update = orthogonalise(weight.grad.lerp(buffer, group["momentum"]))
                rows, columns = weight.shape[-2:]
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(update, alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)


def orthogonalise(matrix: Tensor) -> Tensor:
    """Bring all singular values near 1 by five Newton-Schulz steps."""
    tall = matrix.shape[-2] > matrix.shape[-1]
    x = matrix.mT if tall else matrix
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    result: Tensor = x.mT if tall else x
    return result


def make_optimizers(model: DemoModel) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices; AdamW for embedding, router and norms."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, weight in model.named_parameters():
        is_matrix = weight.ndim >= 2 and "embed" not in name and "mlp.gate.weight" not in name
        (matrices if is_matrix else others).append(weight)
    adam = torch.optim.AdamW(others, lr=3e-3, betas=(0.9, 0.98), weight_decay=0.01)
    optimizers: list[torch.optim.Optimizer] = [Muon(matrices), adam]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
    return optimizers


def set_learning_rate(optimizers: list[torch.optim.Optimizer], step: int) -> None:
    """Set all learning rates for a step."""
    factor = learning_rate(step)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor


def learning_rate(step: int) -> float:
    """The share of the base learning rate at a step."""
    for (start, before), (end, after) in pairwise(SCHEDULE):
        if step < end:
            return before + (after - before) * (step - start) / (end - start)
    return SCHEDULE[-1][1]
