"""What the stand-in for ai.onnxruntime computes with: arrays come in, outputs go out."""

import struct
import sys

import numpy as np
import onnxruntime


def text(value: str) -> bytes:
    """As Java's readUTF takes it."""
    data = value.encode()[:60_000]
    return struct.pack(">H", len(data)) + data


def main() -> None:
    """Answer until the other side closes."""
    read, write = sys.stdin.buffer.read, sys.stdout.buffer.write
    try:
        session = onnxruntime.InferenceSession(sys.argv[1])
    except Exception as error:  # onnxruntime raises a dozen types of its own
        write(text(str(error) or "no model"))
        sys.stdout.buffer.flush()
        return
    write(text(""))
    sys.stdout.buffer.flush()
    while length := read(2):
        name = read(struct.unpack(">H", length)[0]).decode()
        shape = np.frombuffer(read(4 * struct.unpack(">i", read(4))[0]), ">i4")
        values = np.frombuffer(read(4 * int(shape.prod())), ">f4").astype(np.float32).reshape(shape)
        outputs = [one.name for one in session.get_outputs()]
        write(struct.pack(">i", len(outputs)))
        for output, found in zip(outputs, session.run(outputs, {name: values}), strict=True):
            write(text(output) + struct.pack(">i", found.size) + found.astype(">f4").tobytes())
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
