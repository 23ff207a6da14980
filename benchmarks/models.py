"""The shapes of more models' parameters, and groups of them."""

import itertools
from collections.abc import Sequence

from onepass.model_shapes import Shapes, linear, norm

Shape = tuple[int, ...]
Groups = tuple[Shapes, ...]


def vit_b_16(width: int = 768) -> Shapes:
    """ViT-B/16 (Dosovitskiy et al. 2020): 86.6 million parameters in 152 tensors."""
    attention = (*norm(width), *linear(width, 3 * width), *linear(width, width))
    perceptron = (*norm(width), *linear(width, 4 * width), *linear(4 * width, width))
    patches = ((1, 1, width), (1, 197, width), (width, 3, 16, 16), (width,))
    return (*patches, *(attention + perceptron) * 12, *norm(width), *linear(width, 1000))


def bert_base(width: int = 768) -> Shapes:
    """BERT base, uncased (Devlin et al. 2018): 109 million parameters in 199 tensors."""
    embeddings = ((30522, width), (512, width), (2, width), *norm(width))
    attention = (*linear(width, width) * 4, *norm(width))
    perceptron = (*linear(width, 4 * width), *linear(4 * width, width), *norm(width))
    return (*embeddings, *(attention + perceptron) * 12, *linear(width, width))


def llama_1b(layers: int = 2, width: int = 2048) -> Shapes:
    """TinyLlama (Zhang et al. 2024) with 2 of its 22 layers, which fit memory beside the peers'."""
    queries, keys = (width, width), (256, width)  # 32 heads of which groups of 8 share keys
    attention = (queries, keys, keys, queries)
    perceptron = ((5632, width), (5632, width), (width, 5632))
    layer = (*attention, *perceptron, (width,), (width,))
    return ((32000, width), *layer * layers, (width,), (32000, width))


def in_groups(shapes: Shapes, count: int) -> Groups:
    """Cut a list of shapes into so many groups, or one for each where there are fewer.

    Two are those with weight decay and those without; more are runs of neighbours, as for rates
    that differ from layer to layer.
    """
    if count == 2:
        return (
            tuple(shape for shape in shapes if len(shape) > 1),
            tuple(shape for shape in shapes if len(shape) <= 1),
        )
    return runs(shapes, min(count, len(shapes)))


def runs(shapes: Sequence[Shape], count: int) -> Groups:
    """Cut a list into runs of about the same length."""
    bounds = [len(shapes) * k // count for k in range(count + 1)]
    return tuple(tuple(shapes[a:b]) for a, b in itertools.pairwise(bounds))
