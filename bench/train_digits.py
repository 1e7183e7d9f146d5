"""Train the small digit classifier that ships in ``quantcore/demo``.

The data are the 1797 8x8 images of scikit-learn's ``load_digits``: UCI "Optical Recognition of Handwritten Digits",
E. Alpaydin and C. Kaynak, CC BY 4.0. A third of every class is held out and never trained on. The network is an MLP,
64 -> 256 -> 128 -> 10 with ReLU, trained in plain NumPy; every weight row is whole blocks of 32 elements.

The command writes ``digits.safetensors`` (float16 matrices) and ``digits-test.safetensors`` (the
held-out images and labels), reads both back, and prints what float32 and simulated 8-bit and 4-bit weights make of the
held-out images.
The seed is fixed and the matrix products run on one thread, so one machine always writes the same bytes; a different
BLAS or CPU may round differently. Needs scikit-learn and safetensors.
"""

import argparse
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save
from sklearn.datasets import load_digits
from threadpoolctl import threadpool_limits

SEED = 0
SIDE = 8  # pixels along one edge of an image
MAX_PIXEL = 16
LAYERS = {"fc1": (256, 64), "fc2": (128, 256), "fc3": (10, 128)}  # (out, in), as torch.nn.Linear stores it
BLOCK_SIZE = 32

# Chosen by four-fold cross-validation inside the training set; the held-out images had no say.
EPOCHS = 160
BATCH_SIZE = 64
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 0.5
SHIFTED_SHARE = 0.1  # a pixel is an eighth of the image: moving more of them costs accuracy
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8

# One key only: the library writes the metadata in the order of a hash map, and with two keys the bytes would vary.
METADATA = {"dataset": "UCI Optical Recognition of Handwritten Digits (CC BY 4.0)"}


def stratified_split(labels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw a third of every class for the test.

    Parameters
    ----------
    labels : ndarray, shape (n,)
        Class of each image.
    rng : numpy.random.Generator
        Source of the draw.

    Returns
    -------
    train, test : ndarray of int
        Ascending indices; disjoint, and together all of ``range(n)``.
    """
    is_test = np.zeros(labels.size, dtype=bool)
    for digit in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == digit))
        is_test[members[: round(members.size / 3)]] = True
    return np.flatnonzero(~is_test), np.flatnonzero(is_test)


def scaled(pixels: np.ndarray) -> np.ndarray:
    """Map pixel values 0..16 to float32 in [0, 1]."""
    return pixels.astype(np.float32) / np.float32(MAX_PIXEL)


def shifted(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Move a few of the images (rows of 64 pixels) by -1, 0 or 1 pixels along both axes; zeros come in at the edge."""
    n = len(images)
    padded = np.pad(images.reshape(n, SIDE, SIDE), ((0, 0), (1, 1), (1, 1)))
    corner = np.where(rng.random(n) < SHIFTED_SHARE, rng.integers(0, 3, size=(2, n)), 1)
    rows = corner[0][:, None, None] + np.arange(SIDE)[None, :, None]
    cols = corner[1][:, None, None] + np.arange(SIDE)[None, None, :]
    return padded[np.arange(n)[:, None, None], rows, cols].reshape(n, SIDE * SIDE)


def initial_parameters(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Draw weights with variance 2 / fan_in, which keeps the activations' scale through ReLU; biases are zero."""
    parameters = {}
    for name, (n_out, n_in) in LAYERS.items():
        weight = rng.standard_normal((n_out, n_in), dtype=np.float32)
        parameters[f"{name}.weight"] = weight * np.float32(np.sqrt(2 / n_in))
        parameters[f"{name}.bias"] = np.zeros(n_out, dtype=np.float32)
    return parameters


def forward(parameters: dict[str, np.ndarray], images: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Run the network.

    Parameters
    ----------
    parameters : dict
        ``<layer>.weight`` (out, in) and ``<layer>.bias`` (out,) for each of `LAYERS`.
    images : ndarray of float32, shape (n, 64)
        Values in [0, 1].

    Returns
    -------
    inputs : list of ndarray
        What each layer was given.
    logits : ndarray, shape (n, 10)
    """
    inputs: list[np.ndarray] = []
    x = images
    for name in LAYERS:
        if inputs:
            x = np.maximum(x, 0)
        inputs.append(x)
        x = x @ parameters[f"{name}.weight"].T + parameters[f"{name}.bias"]
    return inputs, x


def gradients(parameters: dict[str, np.ndarray], images: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Differentiate the mean cross-entropy of a batch with respect to every parameter."""
    inputs, logits = forward(parameters, images)
    delta = np.exp(logits - logits.max(axis=1, keepdims=True))
    delta /= delta.sum(axis=1, keepdims=True)
    delta[np.arange(labels.size), labels] -= 1
    delta /= labels.size
    grads = {}
    for name, x in zip(reversed(LAYERS), reversed(inputs), strict=True):
        grads[f"{name}.weight"] = delta.T @ x
        grads[f"{name}.bias"] = delta.sum(axis=0)
        # x is what ReLU let through, so its sign is ReLU's derivative (the images themselves need no gradient).
        delta = (delta @ parameters[f"{name}.weight"]) * (x > 0)
    return grads


def train(images: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Fit the network with Adam, decoupled weight decay on the weights and a cosine learning rate."""
    parameters = initial_parameters(rng)
    mean = {name: np.zeros_like(p) for name, p in parameters.items()}
    square = {name: np.zeros_like(p) for name, p in parameters.items()}
    n_batches = -(-labels.size // BATCH_SIZE)
    n_steps = EPOCHS * n_batches
    step = 0
    for _ in range(EPOCHS):
        for batch in np.array_split(rng.permutation(labels.size), n_batches):
            grads = gradients(parameters, shifted(images[batch], rng), labels[batch])
            rate = LEARNING_RATE * (1 + np.cos(np.pi * step / n_steps)) / 2
            step += 1
            for name, grad in grads.items():
                mean[name] += (1 - BETA1) * (grad - mean[name])
                square[name] += (1 - BETA2) * (grad * grad - square[name])
                root = np.sqrt(square[name] / (1 - BETA2**step)) + EPSILON
                if name.endswith(".weight"):
                    parameters[name] *= np.float32(1 - rate * WEIGHT_DECAY)
                parameters[name] -= np.float32(rate / (1 - BETA1**step)) * mean[name] / root
    return parameters


def accuracy(parameters: dict[str, np.ndarray], images: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of images whose largest logit is their label's."""
    return float(np.mean(forward(parameters, images)[1].argmax(axis=1) == labels))


def rounded_8bit(weight: np.ndarray) -> np.ndarray:
    """Round as Q8_0 does: blocks of 32, scale absmax / 127 kept as float16 (an exact tie may go the other way)."""
    x = weight.reshape(-1, BLOCK_SIZE)
    d = np.abs(x).max(axis=1, keepdims=True) / np.float32(127)
    return (np.rint(x / d) * d.astype(np.float16)).astype(np.float32).reshape(weight.shape)


def rounded_4bit(weight: np.ndarray) -> np.ndarray:
    """Round as Q4_0 does: the value of largest magnitude becomes code -8, and codes end at 7."""
    x = weight.reshape(-1, BLOCK_SIZE)
    d = np.take_along_axis(x, np.abs(x).argmax(axis=1)[:, None], axis=1) / np.float32(-8)
    codes = np.minimum(15, np.trunc(x / d + np.float32(8.5))) - 8
    return (codes * d.astype(np.float16)).astype(np.float32).reshape(weight.shape)


def sqnr_db(reference: np.ndarray, values: np.ndarray) -> float:
    """Return the signal-to-quantization-noise ratio in dB."""
    signal = np.square(reference, dtype=np.float64).sum()
    return float(10 * np.log10(signal / np.square(reference - values, dtype=np.float64).sum()))


def report(parameters: dict[str, np.ndarray], images: np.ndarray, labels: np.ndarray) -> None:
    """Print the held-out accuracy with float32 weights and with simulated Q8_0 and Q4_0 weights."""
    n = labels.size
    float_accuracy = accuracy(parameters, images, labels)
    print(f"float32  top-1 {float_accuracy:.4f} ({round(float_accuracy * n)} of {n})")
    for label, rounded in (("Q8_0", rounded_8bit), ("Q4_0", rounded_4bit)):
        weights = {f"{name}.weight": rounded(parameters[f"{name}.weight"]) for name in LAYERS}
        top1 = accuracy(parameters | weights, images, labels)
        ratios = ", ".join(f"{name} {sqnr_db(parameters[name], weight):.1f} dB" for name, weight in weights.items())
        print(f"{label:7}  top-1 {top1:.4f} ({round(top1 * n)} of {n}); SQNR {ratios}")


def main() -> None:
    """Train, write both files, read them back and report."""
    parser = argparse.ArgumentParser(description="Train the digit classifier that ships in quantcore/demo.")
    default = Path(__file__).resolve().parent.parent / "quantcore" / "demo"
    parser.add_argument("--output", type=Path, default=default, metavar="DIR", help="folder to write (%(default)s)")
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)

    digits = load_digits()
    pixels, labels = digits.data.astype(np.uint8), digits.target.astype(np.uint8)
    rng = np.random.default_rng(SEED)
    train_rows, test_rows = stratified_split(labels, rng)
    # One thread: how BLAS splits a sum over threads changes its last bits, and so the file's bytes.
    with threadpool_limits(limits=1):
        trained = train(scaled(pixels[train_rows]), labels[train_rows], rng)
        trained = {name: values.astype(np.float16).astype(np.float32) for name, values in trained.items()}
        train_accuracy = accuracy(trained, scaled(pixels[train_rows]), labels[train_rows])
        print(f"training set ({train_rows.size} images): top-1 {train_accuracy:.4f}")

        # Not save_file: it leaves the file readable by its owner only.
        held_out = {"images": pixels[test_rows], "labels": labels[test_rows]}
        stored = {name: values.astype(np.float16) if values.ndim == 2 else values for name, values in trained.items()}
        (output / "digits.safetensors").write_bytes(save(stored, metadata=METADATA))
        (output / "digits-test.safetensors").write_bytes(save(held_out, metadata=METADATA))

        test = load_file(output / "digits-test.safetensors")
        trained = {name: values.astype(np.float32) for name, values in load_file(output / "digits.safetensors").items()}
        report(trained, scaled(test["images"]), test["labels"])


if __name__ == "__main__":
    main()
