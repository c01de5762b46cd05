"""What a clip's work takes at least, from the shape of the network and the figures of a device.

Matrix products and attention alone are counted, two operations for a multiplication and an
addition; of memory, the weights that a step reads and the keys and values of the past.
"""

from __future__ import annotations

from dataclasses import dataclass

from qwen2_audio import Shape


@dataclass(frozen=True, slots=True)
class Work:
    """Operations, and bytes read from memory."""

    flops: float
    bytes: float = 0.0

    def seconds(self, flops: float, bandwidth: float) -> float:
        """The least it takes on a device with so many operations and bytes a second."""
        return max(self.flops / flops, self.bytes / bandwidth)

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.bytes + other.bytes)


def layer_weights(shape: Shape) -> int:
    """Weights of the decoder's layers."""
    return shape.layers * (4 * shape.width**2 + 3 * shape.width * shape.ffn)


def encode(shape: Shape, positions: int) -> Work:
    """One clip through the encoder, `positions` frames of 20 ms, and the projector."""
    n, w = positions, shape.encoder_width
    convolutions = 2 * (2 * n) * 3 * shape.mels * w + 2 * n * 3 * w**2
    layers = shape.encoder_layers * (2 * n * 12 * w**2 + 4 * n**2 * w)
    return Work(convolutions + layers + 2 * (n // 2) * w * shape.width)


def prefill(shape: Shape, tokens: int) -> Work:
    """One prompt through the decoder; scores of its last row only."""
    attention = 4 * shape.width * shape.layers * tokens**2 / 2
    head = 2 * shape.vocabulary * shape.width
    return Work(2 * layer_weights(shape) * tokens + attention + head)


def decode(shape: Shape, prompt: int, tokens: int, seats: float, size: int) -> Work:
    """The further tokens of one answer, `seats` clips sharing the reads of the weights.

    `size` is that of a weight and of a value of the cache, in bytes.
    """
    weights = layer_weights(shape) + shape.vocabulary * shape.width
    past = tokens * (prompt + tokens / 2)
    flops = 2 * weights * tokens + 4 * shape.width * shape.layers * past
    cache_row = 2 * shape.layers * shape.width * size
    return Work(flops, past * cache_row + tokens / seats * weights * size)
