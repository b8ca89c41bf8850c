"""A small cache of objects, keyed by what they were made from."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Kept(Generic[Key, Value]):
    """The values that were asked for last.

    Args:
        most: How much is kept; the one that nobody asked for the longest goes first, the newest never.
        weigh: What a value counts, from when it is made; 1 each by default.
    """

    def __init__(self, most: int, *, weigh: Callable[[Value], int] = lambda _: 1) -> None:
        self._most, self._weigh, self._values = most, weigh, OrderedDict[Key, tuple[Value, int]]()
        self._kept = 0

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """The value of ``key``, made by ``make`` where it is not kept."""
        if key not in self._values:
            value = make()
            self._values[key] = (value, self._weigh(value))
            self._kept += self._values[key][1]
        self._values.move_to_end(key)
        while self._kept > self._most and len(self._values) > 1:
            _, (_, weight) = self._values.popitem(last=False)
            self._kept -= weight
        return self._values[key][0]
