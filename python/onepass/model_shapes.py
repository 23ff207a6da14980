"""The shapes of the parameters of well-known models, for `python -m onepass bench`."""

from __future__ import annotations

from collections.abc import Callable

from .convert import did_you_mean

Shapes = tuple[tuple[int, ...], ...]


def _linear(inputs: int, outputs: int) -> Shapes:
    return (outputs, inputs), (outputs,)


def _gpt2(width: int = 768) -> Shapes:
    """GPT-2 small, whose output layer is its embedding: 124 million parameters."""
    norm = (width,), (width,)
    attention = (*norm, *_linear(width, 3 * width), *_linear(width, width))
    perceptron = (*norm, *_linear(width, 4 * width), *_linear(4 * width, width))
    return ((50257, width), (1024, width), *(attention + perceptron) * 12, *norm)


def _resnet50() -> Shapes:
    """ResNet-50, its convolutions without bias before batch norm: 25.6 million parameters."""
    convolutions, inputs = [(64, 3, 7, 7)], 64
    for blocks, width in ((3, 64), (4, 128), (6, 256), (3, 512)):
        for block in range(blocks):
            convolutions += [(width, inputs, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)]
            convolutions += [(4 * width, inputs, 1, 1)] if block == 0 else []
            inputs = 4 * width
    with_norm = (shape for one in convolutions for shape in (one, one[:1], one[:1]))
    return (*with_norm, *_linear(2048, 1000))


def _small() -> Shapes:
    return (*_linear(784, 256), *_linear(256, 256), *_linear(256, 10))


MODELS: dict[str, Callable[[], Shapes]] = {"gpt2": _gpt2, "resnet50": _resnet50, "small": _small}


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
