"""How much of an ONNX file is structure, found before any parser makes objects of it.

A parser turns two bytes of an empty node into a hundred bytes of memory, so a file within its size limit can
still fill the machine. The raw bytes of weights are one block each and cost no more than themselves;
everything else is counted here. Source: protobuf.dev/programming-guides/encoding; field numbers: onnx.proto.
"""

from collections.abc import Iterator

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
FIXED_BYTES = {FIXED64: 8, FIXED32: 4}
LONGEST_VARINT = 10
# A parser spends at least this on a field, however short.
SMALLEST_COST = 16
# ModelProto.graph, GraphProto.initializer, TensorProto.raw_data.
WAY_TO_WEIGHTS = (7, 5, 9)


class WireError(ValueError):
    """The bytes are no protobuf message."""


def structure_bytes(data: bytes, *, limit: int) -> int:
    """Bytes of a model that are not raw data of weights; a short field counts as 16.

    Args:
        data: The file.
        limit: Counting stops beyond it, so that a hostile file costs little.

    Returns:
        The count; some number above ``limit`` where it stopped.

    Raises:
        WireError: A field reaches beyond its message, or has a type that protobuf does not have.
    """
    count = 0
    for cost in _costs(data, 0, len(data), level=0):
        count += cost
        if count > limit:
            break
    return count


def _costs(data: bytes, start: int, end: int, *, level: int) -> Iterator[int]:
    """Bytes of each field of the message between ``start`` and ``end``, without raw data of weights."""
    while start < end:
        key, after_key = _varint(data, start, end)
        number, wire_type = key >> 3, key & 7
        begin, stop = _payload(data, after_key, end, wire_type=wire_type)
        on_the_way = wire_type == LENGTH and number == WAY_TO_WEIGHTS[level]
        if not on_the_way:
            yield max(stop - start, SMALLEST_COST)
        else:
            yield SMALLEST_COST
            if level + 1 < len(WAY_TO_WEIGHTS):
                yield from _costs(data, begin, stop, level=level + 1)
        start = stop


def _payload(data: bytes, start: int, end: int, *, wire_type: int) -> tuple[int, int]:
    """Begin and end of a field's content."""
    if wire_type == VARINT:
        begin, stop = start, _varint(data, start, end)[1]
    elif wire_type == LENGTH:
        length, begin = _varint(data, start, end)
        stop = begin + length
    elif wire_type in FIXED_BYTES:
        begin, stop = start, start + FIXED_BYTES[wire_type]
    else:
        raise WireError(f"byte {start} begins a field of type {wire_type}, which protobuf does not have")
    if stop > end:
        raise WireError(f"the field at byte {start} needs {stop - end} bytes more than there are")
    return begin, stop


def _varint(data: bytes, start: int, end: int) -> tuple[int, int]:
    """Number written from ``start`` on, and where the next field begins."""
    value = 0
    for place, byte in enumerate(data[start : min(end, start + LONGEST_VARINT)]):
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, start + place + 1
    raise WireError(f"the number at byte {start} has no end")
