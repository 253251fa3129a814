"""The other ways to train the same model: torch's own pipelining over gloo, and one plain process.

Run as a process of its own by `benchmarks/pipeline.py`; prints the seconds of every step as one JSON line.
Blocks, embedding, head, initial values and samples are the swarm's; the optimizer is torch's fused AdamW.
"""

import json
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B

from swarmtrain.core.config import RunConfig, config_from_json
from swarmtrain.data.stream import Corpus, load_corpus, microbatch
from swarmtrain.model.edge import EdgeStage
from swarmtrain.model.stages import build_edge, build_middle

GLOO_SECONDS = 120


class FirstStage(nn.Module):
    """Embedding and stage 1."""

    def __init__(self, edge: EdgeStage, middle: nn.Module) -> None:
        super().__init__()
        self.embed, self.middle = edge.embed, middle

    def forward(self, tokens_BT: Tensor) -> Tensor:
        y_BTD: Tensor = self.middle(self.embed(tokens_BT))
        return y_BTD


class LastStage(nn.Module):
    """Stage 2, final norm and head."""

    def __init__(self, edge: EdgeStage, middle: nn.Module) -> None:
        super().__init__()
        assert edge.head is not None
        self.middle, self.norm, self.head = middle, edge.norm, edge.head

    def forward(self, x_BTD: Tensor) -> Tensor:
        logits_BTV: Tensor = self.head(self.norm(self.middle(x_BTD)))
        return logits_BTV


def mean_loss(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits_BTV.flatten(0, 1).float(), targets_BT.flatten())


def new_optimizer(config: RunConfig, module: nn.Module) -> torch.optim.Optimizer:
    options = config.optimizer
    return torch.optim.AdamW(
        module.parameters(),
        lr=options.learning_rate,
        betas=(options.beta1, options.beta2),
        eps=options.epsilon,
        weight_decay=options.weight_decay,
        fused=True,
    )


def step_tokens(config: RunConfig, corpus: Corpus, step: int) -> Tensor:
    """All samples of a step, (M x B, T + 1)."""
    train = config.train
    parts = [
        microbatch(
            corpus,
            seed=config.run.seed,
            step=step,
            index=index,
            microbatch_size=train.microbatch_size,
            sequence_length=train.sequence_length,
        )
        for index in range(train.microbatches)
    ]
    return torch.cat([torch.from_numpy(part) for part in parts])


def train_plain(config: RunConfig, corpus: Corpus) -> list[float]:
    """One process, one thread: the whole model, gradients summed over the microbatches."""
    vocab_size = corpus.tokenizer.vocab_size
    edge = build_edge(config.model, vocab_size, config.run.seed)
    middle = [build_middle(config.model, stage, config.run.seed) for stage in (1, 2)]
    model = nn.Sequential(FirstStage(edge, middle[0]), LastStage(edge, middle[1]))
    optimizer = new_optimizer(config, model)
    microbatches = config.train.microbatches
    seconds = []
    for step in range(config.run.steps):
        start = time.perf_counter()
        for tokens_BT in step_tokens(config, corpus, step).chunk(microbatches):
            loss = mean_loss(model(tokens_BT[:, :-1]), tokens_BT[:, 1:])
            (loss / microbatches).backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - start)
    return seconds


def train_1f1b(config: RunConfig, corpus: Corpus, rank: int, store: Path) -> list[float]:
    """One of two processes under torch.distributed.pipelining's Schedule1F1B over gloo."""
    dist.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=GLOO_SECONDS),
    )
    edge = build_edge(config.model, corpus.tokenizer.vocab_size, config.run.seed)
    middle = build_middle(config.model, rank + 1, config.run.seed)
    module = FirstStage(edge, middle) if rank == 0 else LastStage(edge, middle)
    stage = PipelineStage(module, rank, 2, torch.device("cpu"))
    schedule = Schedule1F1B(stage, config.train.microbatches, loss_fn=mean_loss)
    optimizer = new_optimizer(config, module)
    seconds = []
    for step in range(config.run.steps):
        start = time.perf_counter()
        tokens_BT = step_tokens(config, corpus, step)
        if rank == 0:
            schedule.step(tokens_BT[:, :-1].contiguous())
        else:
            schedule.step(target=tokens_BT[:, 1:].contiguous(), losses=[])
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - start)
    dist.destroy_process_group()
    return seconds


def main() -> None:
    """Arguments: plain CONFIG, or 1f1b CONFIG RANK STORE."""
    config = config_from_json(Path(sys.argv[2]).read_text(encoding="utf-8"))
    torch.set_num_threads(1)
    corpus = load_corpus(config.data, None)
    if sys.argv[1] == "plain":
        seconds = train_plain(config, corpus)
    else:
        seconds = train_1f1b(config, corpus, int(sys.argv[3]), Path(sys.argv[4]))
    print(json.dumps(seconds), flush=True)


if __name__ == "__main__":
    main()
