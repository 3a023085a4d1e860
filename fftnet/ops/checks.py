"""Checks of an operator's tensors: each operator has a table of shapes, compared before anything is computed.

Kernels index memory by the sizes of their first argument and check no bounds. So the function that users call
compares all tensors with the operator's ``Signature``, and so does the operator in ``torch.ops.fftnet``.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Sizes = Mapping[Any, int]
"""Letter to size, as bound by the first tensor that has the letter."""
Dimension = str | int | tuple[str | int, ...]
"""A letter, a number, or a tuple for a dimension that is a product of both."""

_DTYPES = {"float": None, "int64": torch.int64, "bool": torch.bool}
# Messages for a size of 0; other letters have a general one.
_EMPTY = {"T": "at least one token, got a sequence of length 0", "B": "at least one row, got a batch of 0"}


class Signature:
    """The tensors of one operator: their shapes, dtypes and device.

    An argument is described by letters such as ``"B T H d"``. A letter is bound to a size where it first
    occurs and must have that size from there on. A number stands for itself, and ``H*2*F`` for one dimension
    of that size. After a colon comes the dtype: ``float`` (the default: any real floating dtype), ``int64``
    or ``bool``. A question mark at the end allows None. All tensors must lie on the device of the first. No
    size that a letter is bound to may be 0.

    Args:
        operator: name that begins every message.
        arguments: argument to its description, in the order in which they are passed.
        derived: letter to a function that computes its size from the letters that its parameters name. Such
            a size may be 0.
        rule: maps the sizes to an error message, or to None; for rules that letters can't express.
    """

    def __init__(
        self,
        operator: str,
        arguments: Mapping[str, str],
        *,
        derived: Mapping[str, Callable[..., int]] | None = None,
        rule: Callable[[Sizes], str | None] | None = None,
    ) -> None:
        self.operator = operator
        self.arguments = dict(arguments)
        self.derived = dict(derived or {})
        self.rule = rule
        self._rows = [(name, *parse(description)) for name, description in arguments.items()]
        self._needs = {
            letter: function.__code__.co_varnames[: function.__code__.co_argcount]
            for letter, function in self.derived.items()
        }

    def __len__(self) -> int:
        return len(self.arguments)

    def check(
        self, *tensors: Tensor | None, one_dtype: bool = False, known: Sizes | None = None
    ) -> dict[Any, int]:
        """Return the size of every letter; a ValueError names the wrong tensor and what was expected."""
        sizes: dict[Any, int] = dict(known or {})
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
                raise self._error(name, f"be on {device} like {self._rows[0][0]}", x.device)
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
        self._check_derived(sizes)
        problem = None if self.rule is None else self.rule(sizes)
        if problem is not None:
            raise ValueError(f"{self.operator}: {problem}")
        return sizes

    def size(self, dimension: Dimension, sizes: Sizes) -> int | None:
        """Return the size of a dimension, or None if it depends on a letter that is not bound yet."""
        if isinstance(dimension, int):
            return dimension
        if isinstance(dimension, tuple):
            factors = [self.size(factor, sizes) for factor in dimension]
            return None if any(factor is None for factor in factors) else math.prod(factors)  # pyright: ignore
        if dimension in sizes:
            return sizes[dimension]
        return self._derive(dimension, sizes) if dimension in self.derived else None

    def _derive(self, letter: str, sizes: Sizes) -> int | None:
        values = [self.size(needed, sizes) for needed in self._needs[letter]]
        return None if any(value is None for value in values) else self.derived[letter](*values)

    def _check_shape(
        self, name: str, letters: tuple[Dimension, ...], shape: tuple[int, ...], sizes: dict[Any, int]
    ) -> None:
        if len(shape) != len(letters):
            raise self._shape_error(name, letters, sizes, shape)
        for letter, size in zip(letters, shape, strict=True):
            if letter not in sizes:
                sizes[letter] = self._bind(letter, size, sizes)
            if sizes[letter] != size:
                raise self._shape_error(name, letters, sizes, shape)

    def _bind(self, letter: Dimension, size: int, sizes: Sizes) -> int:
        expected = self.size(letter, sizes)
        if expected is not None:
            return expected
        if size == 0:
            words = _EMPTY.get(str(letter), f"a size {letter} of at least 1, got 0")
            raise ValueError(f"{self.operator} needs {words}")
        return size

    def _check_derived(self, sizes: dict[Any, int]) -> None:
        # A tensor may have bound such a letter before the letters that it follows from.
        for letter in self.derived:
            expected = self._derive(letter, sizes)
            if expected is not None and sizes.setdefault(letter, expected) != expected:
                name = next(name for name, letters, *_ in self._rows if letter in letters)
                raise self._error(name, f"have {letter} = {expected}", sizes[letter])

    def _shape_error(
        self, name: str, letters: tuple[Dimension, ...], sizes: Sizes, shape: tuple[int, ...]
    ) -> ValueError:
        words = ["*".join(map(str, x)) if isinstance(x, tuple) else str(x) for x in letters]
        known = [self.size(letter, sizes) for letter in letters]
        numbers = ", ".join(
            word if size is None else str(size) for word, size in zip(words, known, strict=True)
        )
        comma = "," if len(letters) == 1 else ""
        return self._error(name, f"have shape ({numbers}{comma}) ({', '.join(words)})", tuple(shape))

    def _error(self, name: str, expected: str, got: object) -> ValueError:
        return ValueError(f"{self.operator}: {name} must {expected}, got {got}")


def parse(description: str) -> tuple[tuple[Dimension, ...], torch.dtype | None, bool]:
    """Return the dimensions, the dtype (None: any floating one) and whether None is allowed."""
    letters, _, kind = description.removesuffix("?").partition(":")
    rows = [[int(x) if x.isdigit() else x for x in word.split("*")] for word in letters.split()]
    dimensions = tuple(tuple(row) if len(row) > 1 else row[0] for row in rows)
    return dimensions, _DTYPES[kind.strip() or "float"], description.endswith("?")
