"""Checks of an operator's tensors: one table an operator, compared before anything is computed.

The kernels index memory by the sizes of their first argument and know no bounds. So every operator compares
all of its tensors with its ``Signature`` first, whatever the backend: in the function that users call,
and again in the registered operator behind it, which ``torch.ops.fftnet`` makes callable as well.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

Sizes = Mapping[Any, int]
"""Letter to size, as bound by the first tensor that has the letter."""

_DTYPES = {"float": None, "int64": torch.int64, "bool": torch.bool}
_EMPTY = {
    "T": "at least one token, got a sequence of length 0",
    "B": "at least one row, got a batch of 0",
}
"""Letter to the words for a size of 0, where there are better ones than its shape."""


class Signature:
    """The tensors of one operator: how many dimensions, which of them agree, on which dtype and device.

    An argument is described by letters such as ``"B T H d"``. A letter is bound to a size where it first
    occurs and must have the same size from there on; a number stands for itself. After a colon comes the
    dtype: ``float`` (the default: any real floating dtype), ``int64`` or ``bool``; a question mark at the end
    says that None may be passed. All tensors must lie on the device of the first. No size that a letter
    is bound to may be 0.

    Args:
        operator: name that begins every message.
        arguments: argument to its description, in the order in which they are passed.
        derived: letter to a function of the sizes bound before it, for a size that follows from others.
        rule: maps the sizes to what is wrong with them, or to None; for rules that letters can't say.
    """

    def __init__(
        self,
        operator: str,
        arguments: Mapping[str, str],
        *,
        derived: Mapping[str, Callable[[Sizes], int]] | None = None,
        rule: Callable[[Sizes], str | None] | None = None,
    ) -> None:
        self.operator = operator
        self.arguments = tuple(arguments)
        self._derived = dict(derived or {})
        self._rule = rule
        self._rows = [(name, *_parse(description)) for name, description in arguments.items()]
        every = {letter for _, letters, *_ in self._rows for letter in letters}
        self._numbers: dict[Any, int] = {number: number for number in every if isinstance(number, int)}

    def __len__(self) -> int:
        return len(self.arguments)

    def check(self, *tensors: Tensor | None, one_dtype: bool = False) -> None:
        """Compare the tensors with their descriptions.

        Args:
            tensors: in the order of the table.
            one_dtype: whether all floating tensors must have the dtype of the first of them.

        Raises:
            ValueError: naming operator and argument, what was expected and what came.
        """
        sizes = self._numbers.copy()
        device = None
        floating = None
        for (name, letters, dtype, optional), x in zip(self._rows, tensors, strict=True):
            if x is None:
                if optional:
                    continue
                raise self._error(name, "be a tensor", None)
            self._check_shape(name, letters, x.shape, sizes)
            if device is None:
                device = x.device
            elif x.device != device:
                raise self._error(name, f"be on {device} like {self.arguments[0]}", x.device)
            actual = x.dtype
            if dtype is not None:
                if actual != dtype:
                    raise self._error(name, f"have dtype {dtype}", actual)
            elif floating is None or not one_dtype:
                floating = actual
                if not actual.is_floating_point:
                    raise self._error(name, "have a real floating dtype", actual)
            elif actual != floating:
                raise self._error(name, f"have dtype {floating}", actual)
        problem = None if self._rule is None else self._rule(sizes)
        if problem is not None:
            raise ValueError(f"{self.operator}: {problem}")

    def _check_shape(
        self, name: str, letters: tuple[Any, ...], shape: tuple[int, ...], sizes: dict[Any, int]
    ) -> None:
        if len(shape) != len(letters):
            raise self._shape_error(name, letters, sizes, shape)
        for letter, size in zip(letters, shape, strict=True):
            if letter not in sizes:
                sizes[letter] = self._bind(letter, size, sizes)
            if sizes[letter] != size:
                raise self._shape_error(name, letters, sizes, shape)

    def _bind(self, letter: str, size: int, sizes: Sizes) -> int:
        if letter in self._derived:
            return self._derived[letter](sizes)
        if size == 0:
            words = _EMPTY.get(letter, f"a size {letter} of at least 1, got 0")
            raise ValueError(f"{self.operator} needs {words}")
        return size

    def _shape_error(
        self, name: str, letters: tuple[Any, ...], sizes: dict[Any, int], shape: tuple[int, ...]
    ) -> ValueError:
        for letter in set(letters) & (self._derived.keys() - sizes.keys()):
            with suppress(KeyError):  # It follows from a letter that is not bound yet.
                sizes[letter] = self._derived[letter](sizes)
        known = ", ".join(str(sizes.get(letter, letter)) for letter in letters)
        comma = "," if len(letters) == 1 else ""
        expected = f"({known}{comma}) ({', '.join(map(str, letters))})"
        return self._error(name, f"have shape {expected}", tuple(shape))

    def _error(self, name: str, expected: str, got: object) -> ValueError:
        return ValueError(f"{self.operator}: {name} must {expected}, got {got}")


def _parse(description: str) -> tuple[tuple[str | int, ...], torch.dtype | None, bool]:
    letters, _, kind = description.removesuffix("?").partition(":")
    words = tuple(int(word) if word.isdigit() else word for word in letters.split())
    return words, _DTYPES[kind.strip() or "float"], description.endswith("?")
