"""The tables of docs/migration.md say what is so, of every argument of every class."""

from __future__ import annotations

import pytest
import torch

import onepass
from tests.migration import (
    NOTHING,
    PAGE,
    REQUIREMENTS,
    TABLES,
    Row,
    Table,
    each_cpu_table,
    each_peer,
    each_table,
    marked,
    parameters_of,
)
from tests.migration_walks import (
    BASE,
    SAME_RESULT,
    SHAPES,
    UNSEEN,
    Walk,
    assert_alike,
    assert_apart,
    base_of,
    varied,
    walk,
)
from tests.support import ROOT, make_params, raw, set_grads

pytestmark = pytest.mark.usefixtures("without_compiler")
each_row = pytest.mark.parametrize(
    ("table", "row"),
    [
        marked(table, row)
        for table in TABLES
        for row in table.rows
        if not table.needs_gpu and row.argument not in UNSEEN
    ],
)


# ---- the tables


@each_table
def test_a_table_names_arguments_of_ours_and_their_defaults(table: Table) -> None:
    ours = parameters_of(table.our_class)
    for row in table.rows:
        if row.ours is None:
            assert row.argument not in ours or row.remark, f"{row} is an argument of ours"
            continue
        wanted = row.default if row.our_default is NOTHING else row.our_default
        assert ours[row.ours].default == wanted, row
        assert row.our_default != row.default, f"{row}: a default that is the same is left out"


@pytest.mark.parametrize(
    "table", [marked(table, steps=False) for table in TABLES if table.package != "apex"]
)
def test_a_table_has_every_argument_of_theirs_and_its_default(table: Table) -> None:
    theirs, *others = (parameters_of(cls) for cls in table.their_classes)
    assert [row.argument for row in table.rows] == list(theirs)
    for row in table.rows:
        default = theirs[row.argument].default
        assert default == row.default or (callable(default) and callable(row.default)), row
    for other in others:
        assert other.keys() <= theirs.keys()


def test_the_page_names_the_versions_that_are_tested() -> None:
    pins = [line for line in (ROOT / REQUIREMENTS).read_text().splitlines() if "==" in line]
    versions = dict(pin.split()[0].split("==") for pin in pins)
    named = (
        "deepspeed",
        "bitsandbytes",
        "torchao",
        "flashoptim",
        "torch-optimi",
        "pytorch-optimizer",
    )
    for name in named:
        assert f"{name} {versions[name]}" in PAGE.read_text().replace("\n", " ")


# ---- the rows


@each_row
def test_a_row_holds(table: Table, row: Row) -> None:
    """At the options of BASE both classes take the same way; then one argument changes."""
    theirs, base = table.their_class, base_of(table, row)
    before = walk(table, theirs, base)
    ours = walk(table, table.our_class, table.translated(base))
    assert_alike(ours, before)
    changed = varied(row, base)
    if row.is_refused:
        with pytest.raises((NotImplementedError, RuntimeError, ValueError)):
            walk(table, theirs, changed)
        return
    after = walk(table, theirs, changed)
    if row.ours is not None:
        ours = walk(table, table.our_class, table.translated(changed))
    if row.is_ignored:
        assert_alike(before, after)
        assert row.ours is None or ours.error(before) >= 100.0
    elif row.must_be is not NOTHING:
        assert_apart(ours, after)
    else:
        assert_alike(ours, after)
        assert row.ours is None or row.argument in SAME_RESULT or before.error(after) >= 100.0


@each_cpu_table
def test_classes_of_the_same_arguments_step_alike(table: Table) -> None:
    """Those of 8 bits too, where parameters are small."""
    shapes = SHAPES[:1] if table.theirs == "pytorch_optimizer.LARS" else SHAPES[:2]
    for cls in table.their_classes:
        known = parameters_of(cls).keys() - {"optim_bits"}
        options = {key: value for key, value in base_of(table).items() if key in known}
        ours = walk(table, table.our_class, table.translated(options), shapes)
        assert_alike(ours, walk(table, cls, options, shapes))


# ---- what the page says besides


@each_peer("torchao.optim.Adam8bit", "torchao.optim.AdamW8bit")
def test_states_of_few_bits_go_another_way(table: Table) -> None:
    for cls in table.their_classes:
        theirs = walk(table, cls, {"lr": 0.02}, SHAPES[2:])
        ours = walk(table, table.our_class, {"lr": 0.02}, SHAPES[2:])
        keeps_32_bits = cls.__name__ == "_AdamW"
        assert (ours.error(theirs) <= 1.0) == keeps_32_bits


@each_peer("torchao.optim.Adam8bit")
def test_torchao_rounds_its_bias_corrections_and_wants_tensors_for_rates(table: Table) -> None:
    theirs, ours = (cls(make_params(((5,),)), 0.1) for cls in (table.their_class, onepass.Adam))
    moved = []
    for optimizer in (theirs, ours):
        (param,) = optimizer.param_groups[0]["params"]
        start = param.detach().double()
        set_grads([param], 7)
        optimizer.step()
        moved.append(param.detach().double() - start)
    assert 5e-6 < float((moved[0] / moved[1] - 1).abs().max()) < 1e-5
    theirs.param_groups[0]["lr"] = 0.1
    with pytest.raises(RuntimeError, match="lr was changed to a non-Tensor"):
        theirs.step()


@each_peer("optimi.Adam", "optimi.AdamW", "optimi.Lion", "optimi.RAdam", "optimi.SGD-Momentum")
def test_the_largest_rate_of_optimi_is_the_reference_rate_of_a_group(table: Table) -> None:
    flag = table.row("decouple_lr")
    options = {**base_of(table, flag), "decouple_lr": True}
    theirs = walk(table, table.their_class, {**options, "max_lr": 0.1})
    group = {"params": make_params(SHAPES), "reference_lr": 0.1}
    ours = Walk(table.our_class([group], **table.translated(options))).go()
    assert_alike(ours, theirs)
    assert_apart(theirs, walk(table, table.our_class, table.translated(options)))


@each_peer("optimi.SGD-SGD")
def test_dampening_of_optimi_that_begins_as_torch_is_that_of_sgd(table: Table) -> None:
    theirs = {"lr": 0.02, "momentum": 0.8, "dampening": True, "torch_init": True}
    ours = {"lr": 0.02, "momentum": 0.8, "dampening": 0.8}
    assert_alike(walk(table, onepass.SGD, ours), walk(table, table.their_class, theirs))


@each_peer("pytorch_optimizer.Lion")
def test_a_fixed_decay_is_a_decay_that_is_decoupled_from_a_constant_rate(table: Table) -> None:
    options = {"lr": 0.02, "weight_decay": 0.1}
    theirs = table.their_class(make_params(SHAPES), **options, fixed_decay=True)
    ours = onepass.Lion(make_params(SHAPES), **options, decouple_lr=True)
    assert_alike(Walk(ours, constant_lr=True).go(), Walk(theirs, constant_lr=True).go())


@each_peer("pytorch_optimizer.Lion")
def test_a_cautious_step_of_pytorch_optimizer_counts_one_element_more(table: Table) -> None:
    """In the first step no element rests."""
    lengths = []
    for cls in (table.their_class, onepass.Lion):
        param = torch.zeros(99, requires_grad=True)
        param.grad = torch.ones(99)
        cls([param], lr=1.0, cautious=True).step()
        lengths.append(float(param.detach()[0]))
    assert lengths == pytest.approx([-0.99, -1.0], rel=1e-6)


@each_peer("bitsandbytes.optim.SGD", "bitsandbytes.optim.LARS")
def test_bitsandbytes_refuses_sgd_without_momentum(table: Table) -> None:
    with pytest.raises(NotImplementedError, match="without momentum"):
        table.their_class(make_params(SHAPES), lr=0.1)


@each_peer("bitsandbytes.optim.Adam")
def test_bitsandbytes_makes_parameters_contiguous_and_moments_float32(table: Table) -> None:
    param = torch.ones(3, 4, dtype=torch.bfloat16).t().requires_grad_()
    optimizer = table.their_class([param])
    set_grads([param], 7)
    optimizer.step()
    assert param.is_contiguous()
    assert optimizer.state[param]["state1"].dtype == torch.float32


@each_peer("deepspeed.ops.adam.DeepSpeedCPUAdam")
def test_deepspeed_keeps_the_moments_that_the_table_says(table: Table) -> None:
    row = table.row("fp32_optimizer_states")
    for value in (True, False):
        dtypes = []
        for cls, options in (
            (table.their_class, {row.argument: value}),
            (table.our_class, table.translated({row.argument: value})),
        ):
            (param,) = make_params(((33,),), torch.bfloat16)
            optimizer = cls([param], **options)
            set_grads([param], 7)
            optimizer.step()
            dtypes.append(optimizer.state[param]["exp_avg"].dtype)
        assert dtypes[0] == dtypes[1] == (torch.float32 if value else torch.bfloat16)


@each_peer("deepspeed.ops.lion.DeepSpeedCPULion")
def test_the_lion_of_deepspeed_moves_what_has_no_gradient(table: Table) -> None:
    for cls, moves in ((table.their_class, True), (onepass.Lion, False)):
        param = torch.ones(33, requires_grad=True)
        param.grad = torch.zeros(33)
        cls([param], lr=0.1).step()
        assert bool((param != 1.0).all()) == moves


@each_peer(
    "optimi.Adam",
    "deepspeed.ops.adagrad.DeepSpeedCPUAdagrad",
    "pytorch_optimizer.NovoGrad",
)
def test_some_write_into_gradients_and_ours_does_not(table: Table) -> None:
    options = {"lr": BASE["lr"], "weight_decay": BASE["weight_decay"]}
    for cls, writes in ((table.their_class, True), (table.our_class, False)):
        (param,) = make_params(((33,),))
        set_grads([param], 7)
        before = raw(param.grad) if param.grad is not None else b""
        cls([param], **options).step()
        assert (raw(param.grad) != before) == writes  # type: ignore[arg-type]
