"""The average of a model's weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..optimizer import OnePass
from ..state import bytes_of
from .arithmetic import checked_beta
from .following import Following
from .names import distinct, fitting, matched, named, positions, unsaved
from .snapshot import Snapshot
from .tensors import average_of, count, loaded, write
from .walk import ModelWalk


class EMA:
    r"""The exponential moving average of a model's weights, for evaluation.

    .. code-block:: text

        first update:   average  = weight
        later:          average += (1 - beta) (weight - average)
        bias_correction, update t:
                        average += (1 - beta) / (1 - beta^t) (weight - average)

    Without bias correction the first weights count like all that came before them: after t updates
    they keep the share beta^(t - 1). With it they have the share of any other.

    Args:
        params: a module, or tensors, (name, tensor) pairs or a dict of them. A module is looked
            through anew at every update: weights that were replaced are found. Tied weights are
            averaged once.
        beta: the average's share of itself in the next one, in [0, 1); the attribute ``beta`` may
            be changed at any time (0.999).
        bias_correction: weigh by 1 - beta over what an average from zero would have seen (False).
        use_buffers: average the module's buffers too; those that hold whole numbers are copied
            (False).
        dtype: dtype of the averages: float32, float64, bfloat16 or float16; None is the weight's
            own, and float32 for 16-bit weights (None).
        optimizer: an optimizer of onepass whose ``step()`` updates the averages in its own pass
            over memory, with the bits of ``update()`` after it. A skipped step updates nothing.
            Averages must not share memory with what it steps; copies do not follow (None).
        update_every: update at every so many of its steps, from 1 up (1).

    State:
        ``averages``: a tensor for each name, shaped as the weight; 4 bytes per float32 element.
        ``n_averaged``: the updates so far. ``state_bytes()`` counts the bytes. A copy or a pickle
        takes the module along; ``state_dict()`` does not.

    Raises:
        ValueError: an argument is out of its range, the module has other tensors than before, or
            the optimizer steps none of them.
        TypeError: the optimizer is not one of onepass.
        RuntimeError: a tensor does not fit. Nothing has changed then.

    Use it for:
        evaluating and keeping smoother weights than those of the last step. ``window(beta)`` is how
        many updates the average spans.

    Source:
        Polyak and Juditsky 1992 for averages of weights; Kingma and Ba 2015, section 3 for the
        correction.

    Differs from torch.optim.swa_utils.AveragedModel in:
        the numbers are those of ``AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(beta))``,
        but: averages of 16-bit weights are float32, because 8 bits do not hold a thousandth of a
        difference; buffers of whole numbers are copied, not averaged and cut off. It keeps tensors
        and no second module: ``swapped()`` lends them to the model. State dicts have the same keys
        and load both ways where both average the same tensors. Another model's tensors are matched
        by identity, by name without what wrappers add (torch.compile, DDP, FSDP), and only where
        names differ by order, as there; one with other counts or shapes is refused.

    Example:
        >>> import torch, onepass
        >>> model = torch.nn.Linear(2, 1)
        >>> ema = onepass.ema.EMA(model, beta=0.9)
        >>> for value in (0.0, 1.0):
        ...     _ = torch.nn.init.constant_(model.weight, value)
        ...     ema.update()  # after opt.step()
        >>> with ema.swapped():
        ...     print(model.weight.tolist())
        [[0.10000000149011612, 0.10000000149011612]]
        >>> model.weight.tolist()
        [[1.0, 1.0]]
    """

    averages: dict[str, Tensor]
    n_averaged: int
    _following: Following | None = None  # of this class, for pickles that lack it

    def __init__(
        self,
        params: torch.nn.Module
        | Iterable[Tensor]
        | Iterable[tuple[str, Tensor]]
        | dict[str, Tensor],
        beta: float = 0.999,
        *,
        bias_correction: bool = False,
        use_buffers: bool = False,
        dtype: torch.dtype | None = None,
        optimizer: OnePass | None = None,
        update_every: int = 1,
    ) -> None:
        """Copies the weights; the arguments are described at the class."""
        self.beta = checked_beta(beta)
        self.bias_correction = bias_correction
        self.use_buffers = use_buffers
        self.n_averaged = 0
        self._is_swapped = False
        self._walk: ModelWalk | None = None
        weights = named(params, use_buffers)
        self._source = params if isinstance(params, torch.nn.Module) else weights
        self._positions = positions(weights)
        averages = [average_of(weight, dtype) for weight in distinct(weights)]
        self.averages = {name: averages[at] for name, at in self._positions.items()}
        names, own, source = self._pairs(None)
        write(names, own, source)
        if optimizer is not None:
            self._following = Following(self, optimizer, update_every, source)
        elif update_every != 1:
            raise ValueError("update_every is for averages that follow an optimizer; pass it too")

    def update(self, model: torch.nn.Module | None = None) -> None:
        """Moves the averages towards the weights: one call, one pass over memory.

        Args:
            model: takes the weights from another module with the same tensors, for example the
                wrapped one; None is what the average was made of (None).

        Raises:
            ValueError: beta is out of range, or the tensors are others than before.
            RuntimeError: a tensor does not fit, or the averages are swapped in. Nothing has
                changed.
        """
        names, averages, weights, step = self._next(model)
        write(names, averages, weights, self.beta, step)
        self.n_averaged += 1

    update_parameters = update  # the name of AveragedModel

    def unfollow(self) -> None:
        """Ends the updates by the optimizer's steps; ``update()`` makes them again."""
        if self._following is not None:
            self._following.end()
            self._following = None

    def copy_to(self, model: torch.nn.Module | None = None) -> None:
        """Writes the averages into the weights, for good.

        Args:
            model: another module with the same tensors; None is what the average was made of
                (None).

        Raises:
            ValueError, RuntimeError: a tensor does not fit, or the averages are swapped in. Nothing
                has changed.
        """
        self._refuse_while_swapped("be copied")
        names, averages, weights = self._pairs(model)
        write(names, weights, averages)

    @contextlib.contextmanager
    def swapped(self) -> Iterator[None]:
        """Puts the averages in place of the weights, and the weights back at the end of the block.

        The model leaves the block as it entered it. Its weights and all its buffers, also those
        that are not averaged, are the same tensors in the same memory with the same values,
        whatever the block did: trained, loaded, moved to another dtype or device, replaced, added
        or removed buffers, raised. ``update_bn`` in the block serves the averages alone. Meanwhile
        weights and buffers take their own bytes once more.

        What the block shares with the weights is theirs again afterwards: save or copy a state dict
        of the model before leaving. Gradients, train() and eval() stay as the block left them.

        Raises:
            RuntimeError: they are swapped in already, or a tensor does not fit; nothing has
                changed. Or the block gave the model other modules or parameters: all tensors that
                were there have their values back, the others are named.
        """
        self._refuse_while_swapped("be swapped in")
        names, averages, weights = self._pairs(None)
        before = Snapshot(self._source, weights)
        try:
            write(names, weights, averages)
            self._is_swapped = True
            yield
        except BaseException:
            before.restore()
            raise
        else:
            lost = before.restore()
        finally:
            self._is_swapped = False
        if lost:
            raise RuntimeError(
                f"not all of the model is what it was before swapped(): {lost}; change modules and "
                "parameters outside of the block"
            )

    def __repr__(self) -> str:
        """Returns the options, and how many averages there are of how many updates."""
        return (
            f"EMA(beta={self.beta}, bias_correction={self.bias_correction}, "
            f"use_buffers={self.use_buffers}, averages={len(self.averages)}, "
            f"n_averaged={self.n_averaged})"
        )

    def state_bytes(self) -> int:
        """Returns the bytes of memory that the averages take."""
        return bytes_of({"averages": self.averages})

    # ---- saving

    def state_dict(self) -> dict[str, Tensor]:
        """Returns ``n_averaged`` and the averages, not copied, under the keys of AveragedModel.

        As there, the options are not among them: the averages go on under any.
        """
        left_out = unsaved(self._source)
        averages = {
            f"module.{name}": average
            for name, average in self.averages.items()
            if name not in left_out
        }
        return {"n_averaged": torch.tensor(self.n_averaged), **averages}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Loads copies from a state dict of this class or of AveragedModel, all or nothing.

        The averages keep their dtype and device. Buffers in it that are not averaged here are
        passed over. It fits whether or not either model is wrapped by torch.compile, DDP,
        DataParallel, FSDP or activation checkpointing.

        Raises:
            ValueError, RuntimeError: the state dict does not fit, or the averages are swapped in;
                nothing has changed.
        """
        self._refuse_while_swapped("be loaded")
        if not isinstance(state_dict, Mapping):
            raise ValueError(f"a state dict must be a dict, got {state_dict!r}")
        at, keys = fitting(state_dict, self.averages, self._source)
        fresh: dict[int, Tensor] = {}
        for name, key in keys.items():
            value = loaded(key, state_dict[key], self.averages[name])
            fresh.setdefault(self._positions[name], value)
        self.n_averaged = count(state_dict[at])
        self.averages = {
            name: fresh.get(position, self.averages[name])
            for name, position in self._positions.items()
        }

    def __getstate__(self) -> dict[str, Any]:
        """Returns what is copied and pickled: the averages, and what they were made of."""
        self._refuse_while_swapped("be copied or pickled")
        return {**self.__dict__, "_walk": None, "_following": None}

    # ---- the tensors

    def _next(
        self, model: torch.nn.Module | None = None
    ) -> tuple[list[str], list[Tensor], list[Tensor], int | None]:
        """Returns what the next update is made of; its number where it is corrected."""
        self._refuse_while_swapped("be updated")
        step = self.n_averaged + 1
        corrected = self.bias_correction or step == 1
        return (*self._pairs(model), step if corrected else None)

    def _refuse_while_swapped(self, what: str) -> None:
        if self._is_swapped:
            raise RuntimeError(
                f"the average cannot {what} while it is swapped in: the model holds the averages; "
                "leave the block of swapped() first"
            )

    def _pairs(self, model: torch.nn.Module | None) -> tuple[list[str], list[Tensor], list[Tensor]]:
        """Returns names, averages and weights, tied ones once."""
        if model is None and self._walk is not None and self._walk.holds():
            names, weights = self._walk.result
            return names, [self.averages[name] for name in names], weights
        weights_by_name = named(self._source, self.use_buffers)
        if model is not None:
            given = named(model, self.use_buffers)
            if not {*map(id, weights_by_name.values())} <= {*map(id, given.values())}:
                weights_by_name = given
        names = []
        for name, position in self._positions.items():
            if position == len(names):
                names.append(name)
        averages = [self.averages[name] for name in names]
        weights = matched(averages, self._positions, weights_by_name)
        if model is None and isinstance(self._source, torch.nn.Module):
            self._walk = ModelWalk(self._source, (names, weights))
        return names, averages, weights
