"""Which tensors an average takes of models that are wrapped, renamed or restored."""

from __future__ import annotations

import copy
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint import checkpoint_wrapper

from onepass.ema import EMA
from tests.averaged import Tied, after, shown, theirs
from tests.layouts import same_bits


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    store = tmp_path_factory.mktemp("gloo") / "store"
    torch.distributed.init_process_group("gloo", f"file://{store}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")  # type: ignore[return-value]


def compiled_inside(model: Any) -> nn.Module:
    model.second = compiled(model.second)
    model.conv = checkpoint_wrapper.checkpoint_wrapper(model.conv)
    return model  # type: ignore[no-any-return]


class Renamed(nn.Module):
    """Holds a model under a name of its own, as a LightningModule does."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.net = model


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "compile": compiled,
    "compile inside": compiled_inside,
    "DataParallel": nn.DataParallel,
    "DDP": nn.parallel.DistributedDataParallel,
    "compiled DDP": lambda m: compiled(nn.parallel.DistributedDataParallel(m)),
    "renamed": Renamed,
}


@pytest.mark.parametrize("use_buffers", [False, True])
@pytest.mark.parametrize("copied", [False, True], ids=["same tensors", "copy"])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_wrapped_model_is_averaged_and_written_as_itself(
    one_process, wrapper: str, copied: bool, use_buffers: bool
) -> None:
    model = Tied()
    ours, want = (EMA(model, 0.9, use_buffers=use_buffers) for _ in range(2))
    other = copy.deepcopy(model) if copied else model
    wrapped = WRAPPERS[wrapper](other)
    for seed in range(3):
        for one in (model, other):
            Tied.train_on(one, seed)
        ours.update(wrapped)
        want.update()
    assert all(same_bits(ours.averages[n], t) for n, t in want.averages.items())
    ours.copy_to(wrapped)
    want.copy_to()
    assert shown(ours, other) == shown(want, model)
    backwards = EMA(wrapped, 0.9, use_buffers=use_buffers)
    backwards.update(model)
    assert list(map(same_bits, backwards.averages.values(), want.averages.values()))


def test_torch_and_this_match_alike_where_torch_matches_by_order() -> None:
    model, other = Tied(), Renamed(Tied())
    ours, want = EMA(model, 0.9), theirs(model, 0.9)
    for seed in range(3):
        other.net.train_on(seed)
        ours.update(other)
        want.update_parameters(other)
    expected = dict(want.module.named_parameters(remove_duplicate=False))
    assert all(same_bits(ours.averages[name], tensor) for name, tensor in expected.items())


def test_names_and_identity_count_more_than_order() -> None:
    """AveragedModel goes by order alone and mixes the tensors up."""

    class Pair(nn.Module):
        def __init__(self, names: str, tensors: dict[str, nn.Parameter]) -> None:
            super().__init__()
            for name in names:
                setattr(self, name, tensors[name])

    tensors = {name: nn.Parameter(torch.full((2,), float(k))) for k, name in enumerate("abc")}
    ours = EMA(Pair("ab", tensors), 0.5)
    reordered = Pair("ba", copy.deepcopy(tensors))
    ours.update(reordered)
    assert [t.tolist() for t in ours.averages.values()] == [[0.0, 0.0], [1.0, 1.0]]
    ours.update(Renamed(Pair("cba", tensors)))  # the same tensors, among others
    assert [t.tolist() for t in ours.averages.values()] == [[0.0, 0.0], [1.0, 1.0]]


def refused(change: Callable[[Any], Any]) -> nn.Module:
    model = Tied()
    change(model)
    return model


OTHERS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "fewer": (lambda: nn.Linear(2, 2), "the model has 2, the average 8.*'bias'"),
    "more": (
        lambda: refused(lambda m: setattr(m, "head", nn.Linear(1, 1))),
        "the model has 10, the average 8.*'head.bias', 'head.weight'",
    ),
    "a shape, renamed": (
        lambda: Renamed(refused(lambda m: setattr(m, "frozen", nn.Parameter(torch.ones(3))))),
        r"'net.frozen', tensor 1 of the model, has shape \[3\], but 'frozen', tensor 1",
    ),
    "a name elsewhere": (
        lambda: nn.ParameterDict({"sliced": torch.ones(()), "what": torch.ones(())}),
        "the model has 2, the average 8",
    ),
    "tied otherwise": (
        lambda: refused(lambda m: setattr(m.second, "weight", nn.Parameter(torch.ones(5, 6)))),
        r"the model has 9, the average 8.*\['second.weight'\]",
    ),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_another_model_is_refused_by_count_shape_and_name(kind: str) -> None:
    model = Tied()
    average, (make, words) = after(2, model, beta=0.5), OTHERS[kind]
    other = make()
    before = shown(average, model), shown(average, other)
    for call in (average.update, average.copy_to):
        with pytest.raises((ValueError, RuntimeError), match=words):
            call(other)
    assert (shown(average, model), shown(average, other)) == before


def test_no_name_may_contradict_the_order() -> None:
    """With equal shapes AveragedModel would average the wrong tensors without a word."""
    average = EMA([("a", torch.zeros(2)), ("b", torch.zeros(2))])
    with pytest.raises(ValueError, match=r"tied or ordered otherwise.*'a', 'c'"):
        average.update(nn.ParameterDict({"b": torch.ones(2), "c": torch.ones(2)}))


# ---- checkpoints


@pytest.mark.parametrize("wrapper", [w for w in WRAPPERS if w != "renamed"])
def test_checkpoints_of_wrapped_models_load_both_ways(one_process, wrapper: str) -> None:
    plain, inner = after(3, Tied()), Tied()
    wrapped = EMA(WRAPPERS[wrapper](inner))
    inner.train_on(5)
    wrapped.update()
    for source, target in ((plain, wrapped), (wrapped, plain), (wrapped, wrapped)):
        fresh = copy.copy(target)
        fresh.load_state_dict(source.state_dict())
        assert fresh.n_averaged == source.n_averaged
        assert [*map(same_bits, fresh.averages.values(), source.averages.values())] == [True] * 9
    if "DDP" not in wrapper:  # which cannot be copied while hooks are on it
        theirs_wrapped = theirs(WRAPPERS[wrapper](Tied()), 0.9)
        plain.load_state_dict(theirs_wrapped.state_dict())
        theirs_wrapped.load_state_dict(wrapped.state_dict(), strict=False)


@pytest.mark.parametrize("wrap", [compiled, nn.DataParallel])
def test_checkpoints_of_a_wrapped_averaged_model_load(wrap: Callable[[Any], nn.Module]) -> None:
    model = Tied()
    want = theirs(model, 0.9)
    for seed in range(2):
        model.train_on(seed)
        want.update_parameters(model)
    ours = EMA(Tied())
    for kind in (dict, OrderedDict, MappingProxyType):
        ours.load_state_dict(kind(wrap(want).state_dict()))
        assert ours.n_averaged == 2
        assert same_bits(ours.averages["sliced"], want.module.sliced.detach())


class Unsaved(nn.Module):
    """Has what a state dict leaves out, and what it has beside tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2)
        self.register_buffer("cache", torch.zeros(2), persistent=False)

    def get_extra_state(self) -> dict[str, int]:
        return {"version": 1}

    def set_extra_state(self, state: Any) -> None:
        assert state == {"version": 1}


def test_what_a_model_does_not_save_is_not_saved_and_what_is_no_tensor_is_passed_over() -> None:
    model = Unsaved()
    ours, want = EMA(model, use_buffers=True), theirs(model, 0.9, use_buffers=True)
    for average in (ours, want):
        average.update_parameters(model)
    state = {k: v for k, v in want.state_dict().items() if k != "module._extra_state"}
    assert ours.state_dict().keys() == state.keys()
    ours.averages["cache"].fill_(3)
    ours.load_state_dict(want.state_dict())
    assert ours.averages["cache"].tolist() == [3, 3]


class NamedAsWrappers(nn.Module):
    """Names that would be the same without the wrappers' parts stay apart."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Linear(1, 1)
        self.weight = nn.Parameter(torch.zeros(1, 1))
        self.n_averaged = nn.Parameter(torch.zeros(1))


def test_names_that_only_wrappers_tell_apart_are_kept_apart() -> None:
    model = NamedAsWrappers()
    ours, want = EMA(model), theirs(model, 0.9)
    for average in (ours, want):
        average.update_parameters(model)
    fresh = EMA(copy.deepcopy(model))
    with torch.no_grad():
        for param in fresh.averages.values():
            param.fill_(7)
    fresh.load_state_dict(want.state_dict())
    want.load_state_dict(ours.state_dict())
    assert all(same_bits(fresh.averages[n], t) for n, t in ours.averages.items())


# ---- classes of tensors


class Labelled(torch.Tensor):
    """A subclass that adds no memory and no dispatch of its own."""


def test_a_parameter_of_a_subclass_is_averaged_where_plain_memory_is_all_it_is() -> None:
    model = nn.Linear(2, 2)
    model.weight = nn.Parameter(torch.ones(2, 2).as_subclass(Labelled))
    ours = EMA(model, 0.5)
    for value in (0.0, 1.0):
        with torch.no_grad():
            model.weight.fill_(value)
        ours.update()
    assert type(ours.averages["weight"]) is torch.Tensor
    assert torch.equal(ours.averages["weight"], torch.full((2, 2), 0.5))
    with ours.swapped():
        assert (model.weight == 0.5).all()
    assert (model.weight == 1.0).all() and type(model.weight) is Labelled


def test_a_parameter_of_tensors_inside_is_refused_in_words_about_the_average() -> None:
    two = pytest.importorskip("torch.testing._internal.two_tensor")
    model = nn.ParameterDict({"w": two.TwoTensor(torch.ones(2), torch.ones(2))})
    with pytest.raises(TypeError, match=r"cannot average a TwoTensor, 'w'") as caught:
        EMA(model)
    assert "step" not in str(caught.value)


# ---- sharded models


def test_a_model_sharded_by_fsdp1_is_averaged_as_itself(one_process) -> None:
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    ours = EMA(model, 0.5)
    options: dict[str, Any] = {"use_orig_params": True, "device_id": torch.device("cpu")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, about a single process and about the CPU
        wrapped = fsdp.FullyShardedDataParallel(model, **options)
    ours.update(wrapped)
    saved = EMA(wrapped)
    saved.load_state_dict(ours.state_dict())
    ours.load_state_dict(saved.state_dict())
    ours.copy_to(wrapped)
    assert all(same_bits(ours.averages[n], saved.averages[k]) for n, k in zip(
        ours.averages, saved.averages, strict=True))  # fmt: skip


def test_an_evaluation_leaves_a_model_under_fully_shard_its_own_weights(one_process) -> None:
    """After a forward pass the outer module keeps its weights gathered: they were stale then."""
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    for module in (model[0], model):
        fsdp.fully_shard(module, mesh=mesh)
    average = EMA(model, 0.5)
    with torch.no_grad():
        for param in model.parameters():
            param.add_(1)

    def evaluated() -> torch.Tensor:
        with torch.no_grad():
            result: torch.Tensor = model.eval()(torch.ones(4, 3))
        return result

    own = evaluated()
    with average.swapped():
        assert not torch.equal(evaluated(), own)
    assert torch.equal(evaluated(), own)
    average.update()
    average.copy_to()
    assert torch.equal(evaluated(), own)  # the first update copies
