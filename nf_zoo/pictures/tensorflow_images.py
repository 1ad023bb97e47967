"""``nf_zoo.pictures.images`` as TensorFlow ops: for input pipelines and SavedModels.

Every function takes sizes that are known only at run time, and works in ``tf.function``,
``tf.map_fn`` and ``tf.data``. Resizing has a CPU kernel only.
"""

import functools

import tensorflow as tf

from nf_zoo.pictures.preprocessing import Preprocessing
from nf_zoo.pictures.tensorflow_decoding import decode

_KERNELS = {"bicubic": "keyscubic", "bilinear": "triangle", "lanczos": "lanczos3"}
_METHODS = {"bicubic": "bicubic", "bilinear": "bilinear", "nearest": "nearest"}
_METHODS["lanczos"] = "lanczos3"
_ORIENTED = r"\C*?(?:Exif\x00|tiff:Orientation)\C*"


def resize_and_crop(image: tf.Tensor, preprocessing: Preprocessing) -> tf.Tensor:
    """Resize one picture and cut out its center, without normalizing.

    The geometry is that of :func:`nf_zoo.pictures.images.resize_and_crop`. Pixels differ by a
    fraction of a gray level on average, since Pillow computes with integers; with ``"nearest"`` the
    neighbor may be another one where two are equally near.

    Of a uint8 or float tensor (H, W, 3) it makes float32 (height, width, 3) of whole numbers in
    0..255.
    """
    image = tf.cast(image, tf.float32)
    size = tf.shape(image, out_type=tf.int64)[:2]
    crop = tf.constant(preprocessing.input_size, tf.int64)
    resized = _resized_size(size, preprocessing)
    offset = _crop_offset(resized, crop)
    if preprocessing.interpolation == "nearest":
        pixels = _nearest(image, size, resized, offset, preprocessing.input_size)
    else:
        # One op resizes and cuts, so that no more than the crop is ever computed.
        pixels = tf.raw_ops.ScaleAndTranslate(
            images=image[None],
            size=tf.cast(crop, tf.int32),
            scale=tf.cast(resized / size, tf.float32),
            translation=-tf.cast(offset, tf.float32),
            kernel_type=_KERNELS[preprocessing.interpolation],
            antialias=True,
        )[0]
    pixels = tf.round(tf.clip_by_value(pixels, 0.0, 255.0))
    if preprocessing.crop_mode == "border":
        pixels = _with_border(pixels, resized, offset, preprocessing)
    return tf.ensure_shape(pixels, (*preprocessing.input_size, 3))


def random_view(
    picture: tf.Tensor,
    preprocessing: Preprocessing,
    seed: tf.Tensor,
    crop: str = "resized",
    smallest_area: float = 0.25,
) -> tf.Tensor:
    """Return a random view, float32 (height, width, 3) in 0..255, of one picture at the input size.

    The picture is uint8 (H, W, 3), or the bytes of a file; of a JPEG that is stored upright only
    what is cropped is decoded. ``seed``, two integers, decides the crop: ``"resized"`` takes a part
    of at least ``smallest_area`` at an aspect ratio of 3/4 to 4/3 (Szegedy et al. 2015, "Going
    deeper with convolutions"); ``"shift"`` moves the picture as it is evaluated by up to an eighth,
    with gray around it; ``"none"`` leaves it there.
    """
    height, width = preprocessing.input_size
    if crop == "resized":
        part = tf.cast(_part(picture, seed, smallest_area, width / height), tf.float32)
        method = _METHODS[preprocessing.interpolation]
        view = tf.image.resize(part, (height, width), method, antialias=True)
        return tf.clip_by_value(tf.ensure_shape(view, (height, width, 3)), 0.0, 255.0)
    pixels = decode(picture) if picture.dtype == tf.string else picture
    view = resize_and_crop(pixels, preprocessing)
    if crop == "shift":
        room = [[height // 8] * 2, [width // 8] * 2, [0, 0]]
        view = tf.pad(view, room, constant_values=128.0)
        view = tf.image.stateless_random_crop(view, (height, width, 3), seed)
    return view


def _part(picture: tf.Tensor, seed: tf.Tensor, smallest_area: float, aspect: float) -> tf.Tensor:
    def window(shape):
        begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
            shape,
            bounding_boxes=tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
            seed=seed,
            min_object_covered=0.0,
            aspect_ratio_range=(3 / 4 * aspect, 4 / 3 * aspect),
            area_range=(smallest_area, 1.0),
            max_attempts=10,
            use_image_if_no_bounding_boxes=True,
        )
        return begin, extent

    def of_pixels(pixels):
        return tf.slice(pixels, *window(tf.shape(pixels)))

    def of_file():
        return of_pixels(decode(picture))

    def of_plain_jpeg():
        shape = tf.io.extract_jpeg_shape(picture)
        begin, extent = window(shape)
        cut = tf.concat([begin[:2], extent[:2]], 0)
        crop = functools.partial(tf.io.decode_and_crop_jpeg, picture, cut, channels=3)
        return tf.cond(shape[2] < 4, lambda: crop(dct_method="INTEGER_ACCURATE"), of_file)

    if picture.dtype != tf.string:
        return of_pixels(picture)
    is_jpeg = tf.strings.substr(picture, 0, 3) == b"\xff\xd8\xff"
    may_be_turned = tf.strings.regex_full_match(picture, _ORIENTED)
    part = tf.cond(is_jpeg & ~may_be_turned, of_plain_jpeg, of_file)
    return tf.ensure_shape(part, (None, None, 3))


def _resized_size(size: tf.Tensor, preprocessing: Preprocessing) -> tf.Tensor:
    """Return the int64 (height, width) before the crop."""
    scale = tf.constant(preprocessing.scale_size, tf.int64)
    if preprocessing.crop_mode == "squash":
        return scale
    if preprocessing.crop_mode == "center" and len(set(preprocessing.scale_size)) == 1:
        return scale * size // tf.reduce_min(size)
    fit = tf.reduce_max if preprocessing.crop_mode == "border" else tf.reduce_min
    # Graph optimization turns division by a constant into a product, which rounds differently at
    # ties; it leaves this op alone.
    ratios = tf.math.divide_no_nan(tf.cast(size, tf.float64), tf.cast(scale, tf.float64))
    rounded = tf.round(tf.cast(size, tf.float64) / fit(ratios))
    return tf.maximum(tf.cast(rounded, tf.int64), 1)


def _crop_offset(resized: tf.Tensor, crop: tf.Tensor) -> tf.Tensor:
    """Return where the crop starts on each side; negative if the side must be padded."""
    spare = resized - crop
    return tf.where(spare >= 0, tf.cast(tf.round(spare / 2), tf.int64), -(-spare // 2))


def _nearest(image, size, resized, offset, crop: tuple[int, int]) -> tf.Tensor:
    for axis in (0, 1):
        centers = tf.range(crop[axis], dtype=tf.float64) + 0.5
        centers = (centers + tf.cast(offset[axis], tf.float64)) * (size / resized)[axis]
        source = tf.clip_by_value(tf.cast(tf.floor(centers), tf.int64), 0, size[axis] - 1)
        image = tf.gather(image, source, axis=axis)
    return image


def _with_border(pixels, resized, offset, preprocessing: Preprocessing) -> tf.Tensor:
    rows, columns = (
        (position >= 0) & (position < resized[axis])
        for axis, length in enumerate(preprocessing.input_size)
        for position in [tf.range(length, dtype=tf.int64) + offset[axis]]
    )
    inside = rows[:, None, None] & columns[None, :, None]
    return tf.where(inside, pixels, tf.constant(preprocessing.border_color, tf.float32))
