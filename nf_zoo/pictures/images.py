"""Pictures in whatever form the user holds them -> uint8 RGB arrays -> the input of a network.

Geometry follows the evaluation transforms of timm, with which the published weights were measured;
Pillow resamples there and here.
"""

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from nf_zoo.extras import require
from nf_zoo.pictures.class_folders import name_some
from nf_zoo.pictures.preprocessing import LUMA, Preprocessing

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
"""The decoders Pillow may use; no other is reachable from an untrusted file, but for HEIC's, and
that only from a file that says it is HEIC."""

_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1"}
_LARGEST_RESIZED = 2**24
"""Number of pixels above which only that part of a long, thin picture is resized that is kept."""


def preprocess(
    images: Any, model: Any, *, input_size: int | tuple[int, int] | None = None
) -> np.ndarray:
    """Turn pictures into the batch that a network expects.

    Args:
        images: a picture or several. A picture is a file path, the bytes of a JPEG, PNG, WebP,
            BMP, GIF, TIFF, AVIF or HEIC file, a PIL image, or an array (H, W), (H, W, 1),
            (H, W, 3) or (H, W, 4) in 0..255; several are a batch array (N, H, W, C), or a list,
            tuple or iterator whose members may differ in kind and size. :func:`load_image`
            says how it takes alpha, grayscale, 16 bits, EXIF rotation and floats.
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


def readable(files: Sequence[str]) -> list[str]:
    """Return the files that can be read, at least one; a warning names the others."""
    errors = {}
    for file in files:
        try:
            load_image(file)
        except (ValueError, OSError) as error:
            errors[file] = error
    if len(errors) == len(files):
        raise ValueError(f"No picture can be read. {errors[files[0]]}")
    if errors:
        warnings.warn(
            f"Pictures that cannot be read are left out, {len(errors)} of {len(files)}: "
            f"{name_some(list(errors), 3)}",
            stacklevel=2,
        )
    return [file for file in files if file not in errors]


def load_image(source: Any) -> np.ndarray:
    """Read one picture as RGB pixels.

    Args:
        source: one of

            - the path of a JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF or, with ``pillow-heif``, HEIC
              file (str or ``pathlib.Path``); its content says what it is, not its suffix;
            - the bytes of such a file;
            - a ``PIL.Image.Image``;
            - an array, or a tensor that NumPy can read, of shape (H, W), (H, W, 1), (H, W, 3) or
              (H, W, 4).

            Integers must lie in 0..255. Floats are rounded and must lie in 0..255 too. A float
            array whose largest value is above 0 and at most 1 is refused, since it was probably
            divided by 255 before; so is one with a negative value, which was probably normalized.
            Each array is judged as a whole, and an array of zeros is a black picture. uint8 is
            never in doubt: convert an array to uint8 to settle the matter.

    Returns:
        uint8 array (H, W, 3), values 0..255, not resized. Files and PIL images are turned upright
        by the orientation in their EXIF record, or else in XMP, as ``ImageOps.exif_transpose``
        does. Transparency is laid over white, in files, PIL images and arrays. Grayscale is
        repeated over the channels. A gray picture of 16 bits or more keeps the high byte of 16
        bits; but if no value reaches 4096, the picture is taken for one of 12 bits, and if none
        reaches 256, for one of 8. 16-bit color keeps its high byte, an animation its first frame,
        and CMYK is converted without a color profile.

    Raises:
        ValueError: the picture is corrupt, truncated, empty, too large for Pillow's
            decompression-bomb limit, of an unsupported format or type, HEIC without
            ``pillow-heif``, or its values are out of range. The message names the file.
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
        return _upright_pixels(lambda: source, "The PIL image")
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
        raise ValueError(
            "Expected a picture file, got a folder. Pass its pictures as a list, as in "
            f"sorted(Path({str(path)!r}).glob('*.jpg')); finetune, evaluate and `nf-zoo predict` "
            f"take folders. Received: {path}"
        )
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise ValueError(f"Expected a picture file. Received: {path}, which is not a file")
    try:
        encoded = path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no such picture file. Received: {path}") from None
    return _decode(encoded, str(path))


def _decode(encoded: bytes, name: str) -> np.ndarray:
    if not encoded:
        raise ValueError(f"{name} is empty (0 bytes).")
    formats = _heif(name) if _is_heif(encoded) else FORMATS

    def read() -> Image.Image:
        image = Image.open(io.BytesIO(encoded), formats=formats)
        if image.format == "PNG" and "transparency" in image.info and encoded[25] == 0:
            # Pillow scales gray of 2 and 4 bits to 0..255, but not the transparent gray.
            image.info["transparency"] *= {2: 85, 4: 17}.get(encoded[24], 1)
        return image

    try:
        return _upright_pixels(read, name)
    except UnidentifiedImageError:
        raise ValueError(
            f"{name} is not a JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF or HEIC picture, or its header "
            f"is damaged. Received: {len(encoded)} bytes starting with {encoded[:12]!r}."
        ) from None


def _is_heif(encoded: bytes) -> bool:
    brands = encoded[8 : min(int.from_bytes(encoded[:4], "big"), 256)]
    brands = {brands[start : start + 4] for start in range(0, len(brands), 4)}
    return (
        encoded[4:8] == b"ftyp" and bool(brands & _HEIF_BRANDS) and not brands & {b"avif", b"avis"}
    )


def _heif(name: str) -> tuple[str]:
    what = f"{name} is a HEIC picture: convert it to JPEG, or install what reads it. Such pictures"
    require("pillow_heif", what, ValueError).register_heif_opener()
    return ("HEIF",)


def _upright_pixels(read: Callable[[], Image.Image], name: str) -> np.ndarray:
    """Decode a picture; whatever Pillow raises becomes a ValueError that names the file."""
    try:
        image = read()
        image.load()
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
    # Damaged metadata around sound pixels: keep the picture as it is stored.
    with contextlib.suppress(Exception):
        image = ImageOps.exif_transpose(image)
    try:
        return _rgb_pixels(image)
    except ValueError as error:
        raise ValueError(f"{name} has no pixels to use: {error}") from error


def _rgb_pixels(image: Image.Image) -> np.ndarray:
    if image.mode == "F":
        return _rgb_array(np.asarray(image))
    if image.mode.startswith("I"):
        values = np.asarray(image)
        pixels = _rgb_array(_eight_bits(values))
        return np.where((values == image.info.get("transparency"))[..., None], 255, pixels)
    return _over_white(image) if image.has_transparency_data else np.asarray(image.convert("RGB"))


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """Gray of 8, 12 or 16 bits, whichever holds the values, as 8 bits; others as they are."""
    low, high = values.min(), values.max()
    if low < 0 or high > 65535:
        return values
    return (values >> (0 if high < 256 else 4 if high < 4096 else 8)).astype(np.uint8)


def _over_white(image: Image.Image) -> np.ndarray:
    white = Image.new("RGBA", image.size, "white")
    return np.asarray(Image.alpha_composite(white, image.convert("RGBA")).convert("RGB"))


def _as_array(source: Any) -> np.ndarray:
    if isinstance(source, np.ndarray) or hasattr(source, "__array__"):
        return np.asarray(source)
    raise ValueError(
        "A picture is a file path, the bytes of a file, a PIL image or an array. "
        f"Received: {type(source).__name__}."
    )


def _rgb_array(array: np.ndarray) -> np.ndarray:
    """Return (H, W), (H, W, C) or (N, H, W, C) of any accepted dtype as uint8 with 3 channels."""
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
    if array.shape[-1] == 4 and array.ndim == 4:
        return np.stack([_rgb_array(one) for one in array])
    if array.shape[-1] == 4:
        return _over_white(Image.fromarray(array))
    return np.repeat(array, 3, axis=-1) if array.shape[-1] == 1 else array


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
    new_sides = _resized_size(*image.shape[:2], preprocessing)
    sides = preprocessing.input_size
    top, left = (_crop_offset(*pair) for pair in zip(new_sides, sides, strict=True))
    box = None
    if new_sides[0] * new_sides[1] > _LARGEST_RESIZED:
        # Only what the crop shows, in pixels of the picture; first columns, then rows.
        scales = [old / new for old, new in zip(image.shape, new_sides, strict=False)]
        new_sides = [min(pair) for pair in zip(new_sides, sides, strict=True)]
        start = max(left, 0) * scales[1], max(top, 0) * scales[0]
        box = (*start, start[0] + new_sides[1] * scales[1], start[1] + new_sides[0] * scales[0])
        top, left = min(top, 0), min(left, 0)
    method = Image.Resampling[preprocessing.interpolation.upper()]
    resized = Image.fromarray(image).resize(new_sides[::-1], method, box)
    crop = Image.new("RGB", sides[::-1], preprocessing.border_color)
    crop.paste(resized, (-left, -top))
    return np.array(crop)


def as_input(pixels: Any, preprocessing: Preprocessing, *, channels: int = 3, raw: bool = False):
    """Give pixels (N, H, W, 3) in 0..255 the form that a network takes, float32.

    ``channels`` is 3, or 1 for gray, which is normalized by the mean of the three. ``raw`` leaves
    the values at 0..255, for a network that normalizes for itself. An array or a float32 tensor of
    TensorFlow stays one.
    """
    pixels = _floats(pixels)
    if channels == 1:
        pixels = sum(share * pixels[..., i : i + 1] for i, share in enumerate(LUMA))
        preprocessing = preprocessing.averaged()
    return pixels if raw else normalize(pixels, preprocessing)


def input_of(model: Any) -> dict[str, Any]:
    """Return ``channels`` and ``raw`` for :func:`as_input`, of a model or Preprocessing."""
    channels = model.input_shape[-1] if hasattr(model, "input_shape") else 3
    if channels not in (1, 3):
        raise ValueError(
            "Pictures give one channel or three: make arrays for this model yourself. "
            f"Received: {model.name!r}, which takes {channels}"
        )
    return {"channels": channels, "raw": bool(getattr(model, "include_preprocessing", False))}


def normalize(pixels: Any, preprocessing: Preprocessing):
    """Return ``(pixels / 255 - mean) / std``, float32, of an array or a float32 tensor (..., 3).

    With one channel the first values of mean and std count.
    """
    mean = np.asarray(preprocessing.mean[: pixels.shape[-1]], np.float32)
    std = np.asarray(preprocessing.std[: pixels.shape[-1]], np.float32)
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
    """Return where the crop starts in the resized side; negative if the side must be padded."""
    return round((length - crop) / 2) if length >= crop else -((crop - length) // 2)
