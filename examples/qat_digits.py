"""Quantization-aware training of the digits network: what weights of 4, 3 and 2 bits cost without it, and with it.

The network and its held-out test images come with quantcore; the training images are scikit-learn's `load_digits`
without those. Ten epochs of fine-tuning with fake-quantized weights and learned scales (LSQ) for each width, half a
minute in all. Needs torch and scikit-learn: `pip install 'quantcore-quantization[torch]' scikit-learn`.
"""

import argparse
import copy
import sys

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from quantcore.demo.digits import digits_test_set, digits_weights
from quantcore.torch import FakeQuantize, convert, disable_observer, prepare_qat

LAYERS = ("fc1", "fc2", "fc3")
BATCH_SIZE = 64
LEARNING_RATE = 2e-3
LEAST_GAINS = {4: -0.005, 3: 0.1, 2: 0.3}  # of accuracy over post-training quantization, by bits


def pretrained() -> nn.Sequential:
    """The float network: 64 -> 256 -> 128 -> 10 with ReLU."""
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))
    tensors = {name: torch.tensor(value) for name, value in digits_weights().items()}
    for layer, name in zip(model[::2], LAYERS, strict=True):
        layer.load_state_dict({key: tensors[f"{name}.{key}"] for key in ("weight", "bias")})
    return model


def pixels(images: np.ndarray) -> torch.Tensor:
    """Images with values 0 to 16 as float32 in [0, 1]."""
    return torch.from_numpy(images.astype(np.float32) / 16)


def training_set() -> tuple[torch.Tensor, torch.Tensor]:
    """All digits but the held-out ones, which are recognised by their pixels."""
    digits = load_digits()
    images = digits.data.astype(np.uint8)
    held_out = {image.tobytes() for image in digits_test_set()[0]}
    is_free = np.array([image.tobytes() not in held_out for image in images])
    return pixels(images[is_free]), torch.from_numpy(digits.target[is_free])


def accuracy(model: nn.Module) -> float:
    """The share of held-out images that the model classifies correctly."""
    images, labels = digits_test_set()
    with torch.no_grad():
        return float((model(pixels(images)).argmax(1).numpy() == labels).mean())


def train(model: nn.Module, epochs: int) -> None:
    """Fine-tune all parameters, the scales among them."""
    images, labels = training_set()
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(BATCH_SIZE):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
        schedule.step()


def main(epochs: int, widths: list[int]) -> int:
    """Print the table; 1 if training does not help (or costs something, with 4 bits) or converting is not exact."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = pretrained()
    failures = []
    print(f"{'weights':8}{'float':>10}{'PTQ':>10}{'QAT':>10}{'converted':>12}")
    for bits in widths:
        weight = FakeQuantize(bits, learn_scale=True)
        post_training = accuracy(convert(prepare_qat(copy.deepcopy(model), weight=weight)))
        trained = prepare_qat(copy.deepcopy(model), weight=weight)
        train(trained, epochs)
        trained.eval().apply(disable_observer)
        aware = accuracy(trained)
        converted = accuracy(convert(trained))
        print(f"{bits} bit   {accuracy(model):10.2%}{post_training:10.2%}{aware:10.2%}{converted:12.2%}")
        if aware < post_training + LEAST_GAINS[bits]:
            failures.append(f"{bits} bit: QAT is not {LEAST_GAINS[bits]:+.1%} above PTQ")
        if converted != aware:
            failures.append(f"{bits} bit: converting changes the accuracy")
    print(*failures, sep="\n", end="\n" if failures else "")
    return 1 if failures else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=10, help="of fine-tuning (default: %(default)s)")
    parser.add_argument("--bits", type=int, nargs="+", choices=LEAST_GAINS, default=[4, 3, 2], help="of the weights")
    options = parser.parse_args()
    sys.exit(main(options.epochs, options.bits))
