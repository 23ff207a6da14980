"""The tables of workloads."""

from benchmarks.contestants import BASELINE, FASTEST, FOREACH, SWEEP
from benchmarks.models import bert_base, in_groups, llama_1b, vit_b_16
from benchmarks.workloads import KI, MI, Workload, group_per_tensor, one_group, one_tensor, sized
from onepass.model_shapes import gpt_2_small, resnet_50

# The README's table.
STEP = (
    Workload("4 Ki", one_tensor(4 * KI), {FASTEST: 2.5}),
    Workload("64 Ki", one_tensor(64 * KI), {FASTEST: 2.0}),
    Workload("256 Ki", one_tensor(256 * KI), {FASTEST: 1.3}),
    Workload("16 Mi", one_tensor(16 * MI), {FASTEST: 0.97, SWEEP: 0.97}),
    Workload("1000 x 64", one_group(1000, 64), {BASELINE: 30.0, FOREACH: 75.0}),
    Workload("465 groups x 64", group_per_tensor(465, 64), {BASELINE: 80.0}),
    Workload("465 groups x 1 Ki", group_per_tensor(465, KI)),
    Workload("ResNet-50", (resnet_50(),), {BASELINE: 1.1, SWEEP: 0.95}),
    Workload("ResNet-50, 161 groups", in_groups(resnet_50(), 161), {BASELINE: 1.25}),
)

SIZES = tuple(Workload(sized(256 << k), one_tensor(256 << k)) for k in range(0, 19, 2))

TENSORS = tuple(
    Workload(f"{tensors} x {sized(elements)}", one_group(tensors, elements))
    for elements in (64, KI, 16 * KI)
    for tensors in (10, 100, 1000, 10_000)
)

MODELS = tuple(
    Workload(f"{name}, {groups} groups", in_groups(shapes, groups))
    for name, shapes in {
        "ResNet-50": resnet_50(),
        "ViT-B/16": vit_b_16(),
        "GPT-2 small": gpt_2_small(),
        "BERT base": bert_base(),
        "Llama-like": llama_1b(),
    }.items()
    for groups in (2, 50, 465)
)

SUITES = {"promised": STEP, "sizes": SIZES, "tensors": TENSORS, "models": MODELS}

GPU = (
    *(
        Workload(f"{size} Mi {dtype}", one_tensor(size * MI), dtype=dtype)
        for dtype in ("float32", "bfloat16")
        for size in (1, 16, 64, 256)
    ),
    Workload("1000 x 64", one_group(1000, 64)),
    Workload("465 groups x 64", group_per_tensor(465, 64)),
    Workload("465 groups x 1024", group_per_tensor(465, 1024)),
    Workload("ResNet-50", (resnet_50(),)),
    Workload("GPT-2 small", (gpt_2_small(),)),
)
