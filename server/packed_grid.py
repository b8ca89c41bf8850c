"""A grid over Flower's own whose messages hold one array instead of one for each tensor."""

import contextlib
from collections.abc import Iterable

from flwr.app import Message

from clients.packing import pack, unpack
from server.patience import GridAround


class PackedGrid(GridAround):
    """Packs what is sent, and unpacks what comes back; see `clients.packing`.

    Guarantees:
        The arrays of a reply are those that its client made, in the order of their names. A reply that
        cannot be unpacked is handed on as it came, for whoever screens it.
    """

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Push packed messages."""
        return self._grid.push_messages(_packed(messages))

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Pull, and unpack."""
        return [_unpacked(one) for one in self._grid.pull_messages(message_ids)]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send packed messages, and unpack the replies."""
        return [_unpacked(one) for one in self._grid.send_and_receive(_packed(messages), timeout=timeout)]


def _packed(messages: Iterable[Message]) -> list[Message]:
    kept = list(messages)
    for one in kept:
        if one.has_content():
            pack(one.content)
    return kept


def _unpacked(message: Message) -> Message:
    if message.has_content():
        with contextlib.suppress(ValueError):
            unpack(message.content)
    return message
