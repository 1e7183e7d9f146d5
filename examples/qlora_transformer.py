"""QLoRA on the CPU: a small transformer learns a second task through adapters on a frozen 4-bit base.

The base is trained in float32 to repeat a sequence backwards. The new task is to do so in a cipher, each token replaced
by the next one. Compared are the base as it is, its NF4 version, NF4 with adapters, and fine-tuning of all float
parameters. No downloads; less than a minute. Needs torch: `pip install 'quantcore-quantization[torch]'`.
"""

import argparse
import copy
import sys
from collections.abc import Callable

import torch
from torch import nn

from quantcore.torch import merge_qlora, prepare_qlora

VOCABULARY, LENGTH, WIDTH, HEADS = 24, 12, 64, 4
BATCH_SIZE = 32
RANK = 8


class Block(nn.Module):
    """Attention and a feed-forward network, each added to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH) for _ in range(2)])
        self.query_key_value = nn.Linear(WIDTH, 3 * WIDTH)
        self.mix = nn.Linear(WIDTH, WIDTH)
        self.up = nn.Linear(WIDTH, 4 * WIDTH)
        self.down = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """From (batch, length, width) to the same."""
        parts = self.query_key_value(self.norms[0](x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(*parts)
        x = x + self.mix(attended.transpose(1, 2).flatten(-2))
        return x + self.down(nn.functional.gelu(self.up(self.norms[1](x))))


class Transformer(nn.Module):
    """Tokens in, logits of as many tokens out."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Parameter(torch.randn(LENGTH, WIDTH) / 2)
        self.blocks = nn.Sequential(Block(), Block())
        self.head = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """From (batch, length) to (batch, length, vocabulary)."""
        return self.head(self.blocks(self.tokens(tokens) + self.positions))


def backwards(tokens: torch.Tensor) -> torch.Tensor:
    """The task of the base."""
    return tokens.flip(1)


def in_cipher(tokens: torch.Tensor) -> torch.Tensor:
    """The new task."""
    return (tokens.flip(1) + 1) % VOCABULARY


Task = Callable[[torch.Tensor], torch.Tensor]


def train(model: nn.Module, task: Task, steps: int, rate: float) -> None:
    """Train the parameters that are not frozen."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for _ in range(steps):
        tokens = torch.randint(VOCABULARY, (BATCH_SIZE, LENGTH))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(tokens).flatten(0, 1), task(tokens).flatten()).backward()
        optimizer.step()
        schedule.step()


def accuracy(model: nn.Module, task: Task) -> float:
    """The share of right tokens in sequences that are the same for all models."""
    tokens = torch.randint(VOCABULARY, (512, LENGTH), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return float((model(tokens).argmax(-1) == task(tokens)).float().mean())


def quantized(base: Transformer, rank: int) -> Transformer:
    """The base in NF4 with double quantization, without its head; only adapters of that rank, if any, are trained."""
    model = copy.deepcopy(base)
    prepare_qlora(model, scale_code="dynamic", exclude=["head"], rank=rank, alpha=16.0)
    return model


def block_bytes(model: Transformer) -> int:
    """What the parameters and buffers of the blocks take, adapters included."""
    return sum(tensor.nbytes for tensor in (*model.blocks.parameters(), *model.blocks.buffers()))


def main(steps: int) -> int:
    """Print the table; 1 if the adapters do not learn the task."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    base = Transformer()
    train(base, backwards, steps, 3e-3)
    frozen, adapted, tuned = quantized(base, 0), quantized(base, RANK), copy.deepcopy(base)
    train(adapted, in_cipher, steps, 3e-3)
    train(tuned, in_cipher, steps, 3e-3)
    merged = copy.deepcopy(adapted)
    merge_qlora(merged)
    models = {
        "float base": base,
        "NF4 base": frozen,
        "NF4 base + LoRA": adapted,
        "the same, merged": merged,
        "float, fine-tuned": tuned,
    }
    print(f"{'':20}{'old task':>10}{'new task':>10}{'trained':>10}{'blocks':>12}")
    for name, model in models.items():
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad) if model in (adapted, tuned) else 0
        old, new = accuracy(model, backwards), accuracy(model, in_cipher)
        print(f"{name:20}{old:10.2%}{new:10.2%}{trained:10,}{block_bytes(model):10,} B")
    results = {name: accuracy(model, in_cipher) for name, model in models.items()}
    learned = results["NF4 base + LoRA"] >= results["float, fine-tuned"] - 0.05 and results["NF4 base + LoRA"] > 0.9
    if not learned or results["NF4 base"] > 0.5 or abs(results["the same, merged"] - results["NF4 base + LoRA"]) > 0.01:
        print("the adapters did not learn the task")
        return 1
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300, help="of each training (default: %(default)s)")
    sys.exit(main(parser.parse_args().steps))
