"""Geometry on batches of pictures: resizing of windows, rectangles, on any backend."""


class _Late:
    """``keras.ops``, imported at its first use: the command line reads the table for its help."""

    def __getattr__(self, name: str):
        import keras

        return getattr(keras.ops, name)


ops = _Late()

GRAY = 128.0
"""The pixels around a picture."""


def resample(images, window, size: int):
    """Resize a window of each picture bilinearly and without aliasing, as Pillow resizes a box.

    Resizing is linear, so that a matrix for each axis does it, on any device. The window is (top,
    left, height, width), each (N,), in pixels; what lies outside of the picture is gray. Of (N, H,
    W, C) it makes float32 (N, size, size, C).
    """
    top, left, tall, wide = window
    rows, row_inside = _resizing_matrix(images.shape[1], top, tall, size)
    columns, column_inside = _resizing_matrix(images.shape[2], left, wide, size)
    pixels = ops.einsum("nah,nhwc->nawc", rows, images)
    pixels = ops.einsum("nbw,nawc->nabc", columns, pixels)
    inside = row_inside[:, :, None, None] & column_inside[:, None, :, None]
    return ops.where(inside, pixels, GRAY)


def _resizing_matrix(length: int, first, extent, size: int):
    """Return the weights (N, size, length) of a line's pixels, and which are inside (N, size)."""
    scale = ops.cast(extent, "float32")[:, None] / size
    centers = (
        ops.cast(first, "float32")[:, None] + (ops.arange(size, dtype="float32") + 0.5) * scale
    )
    distance = ops.arange(length, dtype="float32") + 0.5 - centers[:, :, None]
    weights = ops.maximum(1.0 - ops.abs(distance) / ops.maximum(scale, 1.0)[:, :, None], 0.0)
    weights = weights / ops.maximum(ops.sum(weights, -1, keepdims=True), 1e-6)
    # A center on the border is outside, however it is rounded.
    return weights, (centers > 1e-4) & (centers < length - 1e-4)


def rectangle(height: int, width: int, top, left, tall, wide):
    """Return (N, H, W, 1): whether a pixel's center is inside of it."""

    def within(length, first, extent):
        place = ops.arange(length, dtype="float32")[None] + 0.5
        return (place >= first[:, None]) & (place < (first + extent)[:, None])

    rows, columns = within(height, top, tall), within(width, left, wide)
    return rows[:, :, None, None] & columns[:, None, :, None]


def each(values):
    """Turn (N,) into (N, 1, 1, 1)."""
    return values[:, None, None, None]
