"""The training loop: batches of similar length, one step each, a checkpoint now and then."""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from torch import Tensor
from torch.nn import functional

from training.data import FIRST_SEED, Example, ExampleMaker, mix_at
from training.model import DemoModel
from training.optim import make_optimizers, set_learning_rate

_log = logging.getLogger(__name__)

#: Padded tokens in a batch.
BATCH_TOKENS = 4096
#: By then the words for cities had embeddings too much alike (a mean cosine of 0.73, against
#: 0.35 for names), and the model copied every word but them. It began to copy
#: some of them in the last few hundred steps.
SPREAD_STEP = 4250
_SPREAD = 2.5
_POOL_SIZE = 2000
_LOAD_WEIGHT = 0.01
_LOG_EVERY = 25


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """How long, from which seed, and where to keep the state.

    Attributes:
        steps: How many steps in all.
        seed: Of the weights and of the examples.
        checkpoint: The file for the state.
        checkpoint_every: Steps from one checkpoint to the next.
        spread_tokens: Tokens whose embeddings are pulled apart late in the training.
    """

    steps: int
    seed: int
    checkpoint: Path
    checkpoint_every: int = 250
    spread_tokens: tuple[int, ...] = ()


def batches(maker: ExampleMaker, seed: int) -> Iterator[list[Example]]:
    """Endless batches; examples of a pool are sorted by length so that little is padding."""
    pool_number = step = 0
    while True:
        mix = mix_at(step)
        rng = Random(FIRST_SEED + seed * 100_000 + pool_number)
        pool = sorted((maker.draw(rng, mix) for _ in range(_POOL_SIZE)), key=lambda e: len(e.ids))
        cut: list[list[Example]] = [[]]
        for example in pool:
            if len(example.ids) * (len(cut[-1]) + 1) > BATCH_TOKENS:
                cut.append([])
            cut[-1].append(example)
        rng.shuffle(cut)
        yield from cut
        step += len(cut)
        pool_number += 1


def collate(batch: list[Example]) -> tuple[Tensor, Tensor]:
    """Ids and weights of a batch, padded on the right."""
    length = max(len(example.ids) for example in batch)
    ids = torch.zeros(len(batch), length, dtype=torch.long)
    weights = torch.zeros(len(batch), length)
    for row, example in enumerate(batch):
        ids[row, : len(example.ids)] = torch.tensor(example.ids)
        weights[row, : len(example.ids)] = torch.tensor(example.weights)
    return ids, weights


def loss_of(model: DemoModel, batch: list[Example]) -> tuple[Tensor, Tensor]:
    """The weighted loss of the next tokens, and the load of the experts."""
    ids, weights = collate(batch)
    hidden, load = model(ids[:, :-1])
    weights = weights[:, 1:]
    # Most tokens are prompt: scores over the vocabulary are computed only where they count.
    counted = weights > 0
    losses = functional.cross_entropy(
        model.logits(hidden[counted]), ids[:, 1:][counted], reduction="none"
    )
    kept = weights[counted]
    return (losses * kept).sum() / kept.sum(), load


@torch.no_grad()
def spread_embeddings(model: DemoModel, tokens: tuple[int, ...]) -> None:
    """Move the embeddings of some tokens away from their mean, to tell them apart."""
    if not tokens:
        return
    rows = torch.tensor(tokens)
    weight = model.embed_tokens.weight
    mean = weight[rows].mean(0)
    weight[rows] = mean + _SPREAD * (weight[rows] - mean)


def train(model: DemoModel, maker: ExampleMaker, plan: TrainingPlan, *, resume: bool) -> None:
    """Train the model in place."""
    optimizers = make_optimizers(model)
    first = _load(model, optimizers, plan.checkpoint) if resume else 0
    started, total = time.monotonic(), 0.0
    source = batches(maker, plan.seed)
    for _ in range(first):
        next(source)
    for step in range(first, plan.steps):
        if step == SPREAD_STEP:
            spread_embeddings(model, plan.spread_tokens)
        set_learning_rate(optimizers, step)
        loss, load = loss_of(model, next(source))
        torch.autograd.backward(loss + _LOAD_WEIGHT * load)
        torch.nn.utils.clip_grad_norm_(optimizers[1].param_groups[0]["params"], 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        total += loss.item()
        if (step + 1) % _LOG_EVERY == 0:
            pace = (time.monotonic() - started) / (step + 1 - first)
            _log.info(
                "step %d loss %.4f load %.3f %.3f s/step",
                *(step + 1, total / _LOG_EVERY, load.item(), pace),
            )
            total = 0.0
        if (step + 1) % plan.checkpoint_every == 0 or step + 1 == plan.steps:
            _save(model, optimizers, step + 1, plan.checkpoint)


def _save(model: DemoModel, optimizers: list[torch.optim.Optimizer], step: int, path: Path) -> None:
    state = {
        "step": step,
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
    }
    # Written beside and renamed, so that a reader or a crash never meets half a file.
    beside = path.with_suffix(".tmp")
    torch.save(state, beside)
    beside.replace(path)


def _load(model: DemoModel, optimizers: list[torch.optim.Optimizer], path: Path) -> int:
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    step: int = state["step"]
    return step
