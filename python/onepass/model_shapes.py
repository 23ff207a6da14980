"""The shapes of well-known models' parameters, in the order in which the models list them."""

from __future__ import annotations

from collections.abc import Callable

from .convert import did_you_mean

Shapes = tuple[tuple[int, ...], ...]


def norm(width: int) -> Shapes:
    """Scale and shift of a norm."""
    return (width,), (width,)


def linear(inputs: int, outputs: int) -> Shapes:
    """Weight and bias of a linear layer."""
    return (outputs, inputs), (outputs,)


def gpt_2_small(width: int = 768) -> Shapes:
    """GPT-2 small, with its output layer that is the embedding: 124 million, in 148 tensors."""
    attention = (*norm(width), *linear(width, 3 * width), *linear(width, width))
    perceptron = (*norm(width), *linear(width, 4 * width), *linear(4 * width, width))
    return ((50257, width), (1024, width), *(attention + perceptron) * 12, *norm(width))


def resnet_50() -> Shapes:
    """ResNet-50, its convolutions without bias before batch norm: 25.6 million, in 161 tensors."""
    convolutions, inputs = [(64, 3, 7, 7)], 64
    for blocks, width in ((3, 64), (4, 128), (6, 256), (3, 512)):
        for block in range(blocks):
            convolutions += [(width, inputs, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)]
            convolutions += [(4 * width, inputs, 1, 1)] if block == 0 else []
            inputs = 4 * width
    with_norm = (shape for one in convolutions for shape in (one, *norm(one[0])))
    return (*with_norm, *linear(2048, 1000))


def _small() -> Shapes:
    return (*linear(784, 256), *linear(256, 256), *linear(256, 10))


MODELS: dict[str, Callable[[], Shapes]] = {
    "gpt2": gpt_2_small,
    "resnet50": resnet_50,
    "small": _small,
}


def shapes_of(text: str) -> Shapes:
    """Returns the shapes of a model's name, or of a list such as 1000x1000,1000."""
    if text in MODELS:
        return MODELS[text]()
    sizes = [part.split("x") for part in text.split(",")]
    if not all(size.isdecimal() and int(size) for part in sizes for size in part):
        raise ValueError(
            f"--shape must be {', '.join(MODELS)} or a list such as 1000x1000,1000, got {text}"
            f"{did_you_mean(text, MODELS)}"
        )
    return tuple(tuple(map(int, part)) for part in sizes)
