"""Training under active forgetting as it is measured: some steps, with their batches and the forgetting, in our library and in PyTorch."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from experiments.benchmarks.problems import repeated, torch_device
from lexinv.lexinvariance.part_of_speech import ANSWER, LENGTH, PosTask, sample, slots
from lexinv.nn.transformer import TransformerConfig
from lexinv.validation import Checked, Count

LEARNING_RATE, WEIGHT_DECAY, STD = 1e-3, 0.01, 1.0


@dataclass(frozen=True)
class ForgettingProblem(Checked):
    """steps: of one call, after which the loss is fetched. period: steps from one re-initialisation of the table to the next."""

    task: PosTask
    model: TransformerConfig
    batch_size: Count = 128
    period: Count = 200
    steps: Count = 50

    def ours(self) -> Callable[[], Any]:
        """One dispatch of our steps. A call gives the state and their losses."""
        import jax

        from lexinv.lexinvariance.forgetting import Forgetting, initialize, make_optimizer, make_step
        from lexinv.nn.masked_encoder import MaskedEncoder
        from lexinv.training.state import create_state

        task, key = self.task, jax.random.key(0)
        encoder = MaskedEncoder(self.model, ANSWER, marks=2, std=STD, vocab=task.types)
        optimizer = make_optimizer(LEARNING_RATE, WEIGHT_DECAY)
        draw = partial(sample, slots=slots(task, "val"), count=self.batch_size)
        step = make_step(encoder, optimizer, Forgetting(self.period), draw)
        advance = jax.jit(
            lambda state: jax.lax.scan(lambda state, _: step(state), state, length=self.steps), donate_argnums=0
        )
        return repeated(advance, create_state(initialize(key, encoder), optimizer, key))

    def theirs(self, compiled: bool) -> Callable[[], float]:
        """The same steps by a loop in PyTorch."""
        return torch_steps(self, compiled)


def torch_steps(problem: ForgettingProblem, compiled: bool) -> Callable[[], Any]:
    """The same steps by a loop in PyTorch, as its users write it: batches by `multinomial`, fused attention, fused AdamW."""
    import torch
    from torch import nn
    from torch.nn.functional import cross_entropy

    from experiments.benchmarks.torch_language_model import Block

    torch_device()  # for its threads: the loop is on the processor, as in the released code
    task, width, count = problem.task, problem.model.width, problem.batch_size
    noun_law, adjective_law = (torch.from_numpy(law).float() for law in slots(task, "val"))
    copula, mask = task.types, task.types + 1

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(task.types + 2, width)  # the marks are rows of it, as in the released code
            self.positions = nn.Parameter(0.02 * torch.randn(LENGTH, width))
            self.layers = nn.ModuleList(Block(problem.model) for _ in range(problem.model.depth))
            self.final_norm = nn.RMSNorm(width, eps=1e-6)

        def forward(self, tokens):
            x = self.table(tokens) + self.positions
            for layer in self.layers:
                x = layer(x)
            return (self.final_norm(x[:, -ANSWER:]) * width**-0.5) @ self.table.weight[: task.types].T

    model = Encoder()
    body = [parameter for name, parameter in model.named_parameters() if name != "table.weight"]
    groups = [{"params": [model.table.weight]}, {"params": body}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)
    forward = torch.compile(model) if compiled else model
    done = 0

    def batch():
        n, a = (torch.multinomial(law, count, replacement=True) for law in (noun_law, adjective_law))
        copulas, masks = torch.full_like(a, copula), torch.full_like(a, mask)
        first = torch.rand(count) < 0.5
        grammar = [torch.where(first, x, y) for x, y in ((copulas, n), (a, copulas), (n, a))]
        q = torch.where(torch.rand(count) < 0.5, a, n)
        return torch.stack([*grammar, q, masks, masks, masks], dim=1), torch.stack([a, q, q], dim=1)

    def call():
        nonlocal done
        for _ in range(problem.steps):
            if done and done % problem.period == 0:
                with torch.no_grad():
                    model.table.weight.normal_(std=STD)
                optimizer.state.pop(model.table.weight, None)
            tokens, labels = batch()
            loss = cross_entropy(forward(tokens).flatten(0, 1), labels.flatten())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            done += 1
        return loss.item()

    return call
