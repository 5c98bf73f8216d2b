"""Train the embedded demo model and write all its files.

    python scripts/train_demo.py --out build/demo

The same seed and steps give the same model on the same machine. One CPU thread is enough; with
`--resume` a run goes on from its last checkpoint. The files lie in OUT/model; then measure them
and write the model card (this needs llama-cpp-python, and no torch):

    python -m training.evaluate build/demo/model/demo.gguf --card
"""

import argparse
import logging
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from local_worker.demo.words import CITIES
from training.data import ExampleMaker, corpus
from training.export import export
from training.loop import TrainingPlan, train
from training.model import DemoModel, ModelConfig, initialize
from training.optim import SCHEDULE
from training.tokenizer import build_tokenizer, learn_merges


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="folder for the model's files")
    steps = SCHEDULE[-1][0]
    parser.add_argument("--steps", type=int, default=steps, help="stop early, for a trial")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="go on from OUT/checkpoint.pt")
    return parser.parse_args()


def main() -> None:
    """Train, then export."""
    arguments = parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer(learn_merges(corpus(4000)))
    model = DemoModel(ModelConfig(vocab_size=tokenizer.get_vocab_size()))
    initialize(model, arguments.seed)
    plan = TrainingPlan(
        arguments.steps,
        arguments.seed,
        arguments.out / "checkpoint.pt",
        spread_tokens=tuple(tokenizer.encode(city).ids[0] for city in CITIES),
    )
    train(model, ExampleMaker(tokenizer), plan, resume=arguments.resume)
    export(model, tokenizer, arguments.out / "model")


if __name__ == "__main__":
    main()
