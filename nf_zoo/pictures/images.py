"""Pictures in whatever form the user holds them -> uint8 RGB arrays -> the input of a network.

Geometry follows the evaluation transforms of timm, with which the published weights were measured;
Pillow resamples there and here.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from nf_zoo.pictures.preprocessing import LUMA, Preprocessing

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
"""The decoders Pillow may use; no other is reachable from an untrusted file."""


def preprocess(
    images: Any, model: Any, *, input_size: int | tuple[int, int] | None = None
) -> np.ndarray:
    """Turn pictures into the batch that a network expects.

    Args:
        images: a picture or several. A picture is a file path, the bytes of a JPEG, PNG, WebP,
            BMP, GIF or TIFF file, a PIL image, or an array (H, W), (H, W, 1), (H, W, 3) or
            (H, W, 4) in 0..255; several are a batch array (N, H, W, C), or a list, tuple or
            iterator whose members may differ in kind and size. How alpha, grayscale, 16 bits,
            EXIF rotation and floats are taken: see :func:`load_image`.
        model: a :class:`Preprocessing`, or a model that has one as ``.preprocessing``.
        input_size: (height, width), or one integer, in place of the model's own.

    Returns:
        float32 array (N, height, width, 3), also for a single picture: normalized by mean and
        std, or raw pixels 0..255 if ``model.include_preprocessing`` is true, since that network
        normalizes for itself. A model of one channel gets (N, height, width, 1), gray; one of a
        fixed size gets that size.

    Raises:
        ValueError: a picture cannot be read or is out of range (the message names the file or
            its position in the list), or there is none; or the model takes neither one channel
            nor three.
        FileNotFoundError: there is no such file.
        TypeError: ``model`` has no preprocessing.

    Example:
        >>> import numpy as np, nf_zoo
        >>> pictures = [np.zeros((300, 400, 3), "uint8"), np.zeros((64, 48), "uint8")]
        >>> nf_zoo.preprocess(pictures, nf_zoo.Preprocessing(input_size=224)).shape
        (2, 224, 224, 3)
    """
    preprocessing = getattr(model, "preprocessing", model)
    if not isinstance(preprocessing, Preprocessing):
        raise TypeError(
            "The second argument must be a Preprocessing, or a model that has one as "
            f".preprocessing. Received: {type(model).__name__}"
        )
    if input_size is not None:
        preprocessing = replace(preprocessing, input_size=input_size)
    pixels = [resize_and_crop(image, preprocessing) for image in load_images(images)]
    if not pixels:
        raise ValueError("There are no pictures to preprocess. Received: an empty list.")
    return as_input(np.stack(pixels), preprocessing, **input_of(model))


def load_image(source: Any) -> np.ndarray:
    """Read one picture as RGB pixels.

    Args:
        source: one of

            - the path of a JPEG, PNG, WebP, BMP, GIF or TIFF file (str or ``pathlib.Path``);
            - the bytes of such a file;
            - a ``PIL.Image.Image``;
            - an array, or a tensor that NumPy can read, of shape (H, W), (H, W, 1), (H, W, 3) or
              (H, W, 4).

            Integers must lie in 0..255. Floats are rounded and must lie in 0..255 too. A float
            array whose largest value is above 0 and at most 1 is refused, since it was probably
            divided by 255 before; so is one with a negative value, which was probably normalized.
            Each array is judged as a whole, and an array of zeros is a black picture. uint8 is
            never in doubt: convert to it to settle the matter.

    Returns:
        uint8 array (H, W, 3), values 0..255, not resized. Files and PIL images are turned upright
        by their EXIF orientation. Grayscale is repeated over the channels. Alpha is dropped,
        not blended with a background: the color stored under a transparent pixel shows, as it
        did when the published weights were evaluated. Of 16-bit pictures the high byte is kept,
        of animations the first frame, and CMYK is converted without a color profile.

    Raises:
        ValueError: the picture is corrupt, truncated, empty, too large for Pillow's
            decompression-bomb limit, of an unsupported format or type, or its values are out of
            range. The message names the file.
        FileNotFoundError: there is no such file.

    Example:
        >>> import numpy as np
        >>> load_image(np.full((2, 3), 7, "uint8")).shape
        (2, 3, 3)
    """
    if isinstance(source, str | PathLike):
        return _load_file(Path(source))
    if isinstance(source, bytes | bytearray | memoryview):
        return _decode(bytes(source), "The encoded picture")
    if isinstance(source, Image.Image):
        return _guarded(lambda: _rgb_pixels(source), "The PIL image")
    array = _as_array(source)
    if array.ndim == 4:
        raise ValueError(f"Expected one picture, got a batch. Received: shape {array.shape}.")
    return _rgb_array(array)


def load_images(source: Any) -> Iterator[np.ndarray]:
    """Read one picture or many, one at a time.

    ``source`` is anything that :func:`load_image` takes, a batch array (N, H, W, C), or a list,
    tuple or iterator of pictures, which may differ in kind and size; errors name the position.
    """
    if isinstance(source, list | tuple | Iterator):
        for position, one in enumerate(source):
            try:
                yield load_image(one)
            except ValueError as error:
                raise ValueError(f"Picture at position {position} of the list: {error}") from error
    elif isinstance(source, str | PathLike | bytes | bytearray | memoryview | Image.Image):
        yield load_image(source)
    else:
        array = _as_array(source)
        yield from _rgb_array(array) if array.ndim == 4 else [_rgb_array(array)]


def _load_file(path: Path) -> np.ndarray:
    if path.is_dir():
        raise ValueError(f"Expected a picture file, got a folder. Received: {path}")
    try:
        encoded = path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no such picture file. Received: {path}") from None
    return _decode(encoded, str(path))


def _decode(encoded: bytes, name: str) -> np.ndarray:
    if not encoded:
        raise ValueError(f"{name} is empty (0 bytes).")

    def read() -> np.ndarray:
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
            return _rgb_pixels(image)

    try:
        return _guarded(read, name)
    except UnidentifiedImageError:
        raise ValueError(
            f"{name} is not a JPEG, PNG, WebP, BMP, GIF or TIFF picture, or its header is damaged. "
            f"Received: {len(encoded)} bytes starting with {encoded[:12]!r}."
        ) from None


def _guarded(read, name: str) -> np.ndarray:
    """Run ``read``; whatever Pillow's decoders raise becomes a ValueError that names the file."""
    try:
        return read()
    except (UnidentifiedImageError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{name} is larger than Pillow's decompression-bomb limit allows ({error}). If you "
            "trust it, raise PIL.Image.MAX_IMAGE_PIXELS."
        ) from error
    except Exception as error:
        raise ValueError(
            f"{name} cannot be read; it may be corrupt or cut short: {error}"
        ) from error


def _rgb_pixels(image: Image.Image) -> np.ndarray:
    image.load()
    try:
        image = ImageOps.exif_transpose(image)
    except Exception:
        # Damaged metadata around sound pixels: keep the picture as it is stored.
        image = image.copy()
    if image.mode.startswith("I;16"):
        return _rgb_array((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        return _rgb_array(np.asarray(image))
    if image.mode == "P":
        # Straight to RGB warns about transparency; the colors are the same.
        image = image.convert("RGBA")
    return np.asarray(image.convert("RGB"))


def _as_array(source: Any) -> np.ndarray:
    if isinstance(source, np.ndarray) or hasattr(source, "__array__"):
        return np.asarray(source)
    raise ValueError(
        "A picture is a file path, the bytes of a file, a PIL image or an array. "
        f"Received: {type(source).__name__}."
    )


def _rgb_array(array: np.ndarray) -> np.ndarray:
    """(H, W), (H, W, C) or (N, H, W, C) of any accepted dtype -> uint8 with 3 channels."""
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim not in (3, 4) or array.shape[-1] not in (1, 3, 4):
        raise ValueError(
            "A picture has shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), a batch (N, H, W, C)."
            f"{_shape_hint(array.shape)} Received: shape {array.shape}."
        )
    if array.size == 0:
        raise ValueError(f"The array holds no pixels. Received: shape {array.shape}.")
    array = _as_uint8(array)
    return np.repeat(array, 3, axis=-1) if array.shape[-1] == 1 else array[..., :3]


def _shape_hint(shape: tuple[int, ...]) -> str:
    if len(shape) in (3, 4) and shape[-3] in (1, 3, 4):
        return " Channels come last: np.moveaxis(array, -3, -1) puts them there."
    if len(shape) == 3:
        return " A batch of grayscale pictures needs a channel axis: array[..., None]."
    return ""


def _as_uint8(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind not in "iuf":
        raise ValueError(f"Pixels are integers or floats in 0..255. Received: {array.dtype}.")
    low, high = array.min(), array.max()
    received = f"Received: {array.dtype} values from {low} to {high}."
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError(f"Pixel values must be finite. {received}")
    if array.dtype.kind == "f" and (low < 0 or 0 < high <= 1):
        raise ValueError(
            "Expected raw pixels in 0..255, but these floats look scaled or normalized already. "
            "Multiply 0..1 pixels by 255, or pass uint8 if the picture really is this dark. "
            f"{received}"
        )
    if low < 0 or high > 255:
        raise ValueError(f"Pixel values must lie in 0..255. {received}")
    return np.rint(array).astype(np.uint8)


def resize_and_crop(image: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """Resize a picture, uint8 (H, W, 3), and cut out its center (height, width, 3)."""
    old = np.array(image.shape[:2])
    new, size = np.array(_resized_size(*old.tolist(), preprocessing)), preprocessing.input_size
    offset = np.array([_crop_offset(*sides) for sides in zip(new.tolist(), size, strict=True)])
    start, end = np.zeros_like(new), new
    if new.prod() > (Image.MAX_IMAGE_PIXELS or np.inf):
        # So long and thin that no more than what is seen can be computed.
        start, end = np.maximum(offset, 0), np.minimum(offset + size, new)
    box = (*(start * old / new)[::-1], *(end * old / new)[::-1])
    method = Image.Resampling[preprocessing.interpolation.upper()]
    part = Image.fromarray(image).resize((end - start)[::-1].tolist(), method, box)
    crop = Image.new("RGB", size[::-1], preprocessing.border_color)
    crop.paste(part, tuple((start - offset)[::-1].tolist()))
    return np.array(crop)


def as_input(pixels: Any, preprocessing: Preprocessing, *, channels: int = 3, raw: bool = False):
    """Give pixels the form that a network takes: normalized or not, in color or gray.

    Args:
        pixels: array, or float32 tensor of TensorFlow, (N, H, W, 3), values 0..255.
        preprocessing: mean and std.
        channels: 3, or 1 for gray, which is normalized by the mean of the three.
        raw: leave them at 0..255, for a network that normalizes for itself.

    Returns:
        float32 array or tensor (N, H, W, channels).
    """
    pixels = _floats(pixels)
    if channels == 1:
        pixels = sum(share * pixels[..., i : i + 1] for i, share in enumerate(LUMA))
        preprocessing = preprocessing.averaged()
    return pixels if raw else normalize(pixels, preprocessing)


def input_of(model: Any) -> dict[str, Any]:
    """``channels`` and ``raw``, as :func:`as_input` takes them, of a model or Preprocessing.

    Raises:
        ValueError: if the model takes neither one channel nor three.
    """
    channels = model.input_shape[-1] if hasattr(model, "input_shape") else 3
    if channels not in (1, 3):
        raise ValueError(
            "Pictures give one channel or three: make arrays for this model yourself. "
            f"Received: {model.name!r}, which takes {channels}"
        )
    return {"channels": channels, "raw": bool(getattr(model, "include_preprocessing", False))}


def normalize(pixels: Any, preprocessing: Preprocessing):
    """``(pixels / 255 - mean) / std``, float32, of an array or a float32 tensor (..., 3).

    With one channel the first values of mean and std count.

    Example:
        >>> settings = Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
        >>> normalize(np.array([[0, 255, 255]]), settings).tolist()
        [[-1.0, 1.0, 1.0]]
    """
    mean, std = (
        np.asarray(values[: pixels.shape[-1]], np.float32)
        for values in (preprocessing.mean, preprocessing.std)
    )
    return (_floats(pixels) / 255 - mean) / std


def _floats(pixels):
    return pixels.astype(np.float32) if hasattr(pixels, "astype") else pixels


def _resized_size(height: int, width: int, preprocessing: Preprocessing) -> tuple[int, int]:
    scale_height, scale_width = preprocessing.scale_size
    if preprocessing.crop_mode == "squash":
        return scale_height, scale_width
    if preprocessing.crop_mode == "center" and scale_height == scale_width:
        longer = int(scale_height * max(height, width) / min(height, width))
        return (longer, scale_width) if height > width else (scale_height, longer)
    fit = max if preprocessing.crop_mode == "border" else min
    ratio = fit(height / scale_height, width / scale_width)
    return max(1, round(height / ratio)), max(1, round(width / ratio))


def _crop_offset(length: int, crop: int) -> int:
    """Where the crop starts in the resized side; negative where the side must be padded."""
    return round((length - crop) / 2) if length >= crop else -((crop - length) // 2)
