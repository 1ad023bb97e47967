"""Picture files -> uint8 RGB as TensorFlow ops, as Pillow reads them.

TensorFlow's decoders know neither orientation nor transparent colors, and read some files
otherwise than Pillow. What they need is looked up in the file, and some files are rewritten for
them: a transparent color of a GIF becomes white, an animated WebP declares alpha. A file that no op
reads as Pillow does is refused. docs/deploy.md has the list.
"""

import functools
from collections.abc import Callable

import tensorflow as tf

LARGEST = 178_956_970
"""Number of pixels of the largest picture: Pillow's decompression-bomb limit."""

_ALL = 2**31 - 1
_MARGIN = 80
_BYTES = [bytes([value]) for value in range(256)]
_ADOBE_SEGMENT = b"\xff\xee\0\x0eAdobe\0d\0\0\0\0\0"
_XMP_NAMESPACE = b"http://ns.adobe.com/xap/1.0/\0"
_XMP_KEY, _EXIF_KEY = b"XML:com.adobe.xmp\0", b"Raw profile type exif\0"
_XMP_ORIENTATION = r"\C*?tiff:Orientation(?:=\"|>)([0-9])\C*"
_ORIENTATION_TAG = 0x0112
_Read = tuple[tf.Tensor, tf.Tensor, tf.Tensor]
"""Pixels as they are stored, and the records of EXIF and XMP, empty if there are none."""
_LONGEST_TEXT = 2**16
"""Bytes of compressed metadata; more might be a decompression bomb."""


_traced_once = functools.partial(
    tf.function, input_signature=[tf.TensorSpec((), tf.string)], autograph=False
)
"""Tracing takes a second: pipelines and exported functions share it."""


@_traced_once
def decode(encoded: tf.Tensor) -> tf.Tensor:
    """Decode one picture to (H, W, 3) uint8, as :func:`nf_zoo.pictures.images.load_image` does.

    CMYK may differ by one gray level. ``InvalidArgumentError`` means that the picture is corrupt,
    too large for Pillow's decompression-bomb limit, or of a kind that only Pillow reads
    (docs/deploy.md).
    """
    return _decode(encoded, lambda read, *texts: read(*texts))


@_traced_once
def decode_if_possible(encoded: tf.Tensor) -> tf.Tensor:
    """Decode one picture as ``decode`` does, to an empty picture (0, 0, 3) if it would raise."""

    def attempt(read, *texts):
        # Nothing else goes on after an error. One format at a time, since the call is set up anew
        # for each picture, which takes milliseconds for all formats at once.
        @tf.function(autograph=False, input_signature=[tf.TensorSpec([], tf.string)] * len(texts))
        def run(*texts):
            result = tf.data.Dataset.from_tensors(texts).map(read).ignore_errors()
            nothing = tf.data.Dataset.from_tensors((tf.zeros((0, 0, 3), tf.uint8), "", ""))
            return result.concatenate(nothing).take(1).get_single_element()

        # An op without state, so that tf.map_fn need not do one picture after the other.
        function = run.get_concrete_function()
        kinds = [output.dtype for output in function.outputs]
        return tf.raw_ops.PartitionedCall(args=texts, Tout=kinds, f=function)

    return _decode(encoded, attempt)


def _decode(encoded: tf.Tensor, call: Callable) -> tf.Tensor:
    # Zeros behind the end, so that looking there is no error.
    file = tf.strings.join([encoded, bytes(_MARGIN)])

    def unknown(encoded, _):
        return tf.io.decode_png(encoded, channels=3), "", ""  # raises, since it is no PNG

    @tf.autograph.experimental.do_not_convert
    def reading(read, encoded, file):
        pixels, exif, xmp = read(encoded, file)
        return tf.ensure_shape(pixels, (None, None, 3)), exif, xmp

    def calling(read):
        return lambda: tuple(call(functools.partial(reading, read), encoded, file))

    formats = [
        (_begins(file, b"\xff\xd8\xff"), calling(_decode_jpeg)),
        (_begins(file, b"\x89PNG"), calling(_decode_png)),
        (_begins(file, b"WEBP", at=8), calling(_decode_webp)),
        (_begins(file, b"GIF8"), calling(_decode_gif)),
        (_begins(file, b"BM"), calling(_decode_bmp)),
    ]
    pixels, exif, xmp = tf.case(formats, default=calling(unknown))
    pixels = tf.ensure_shape(pixels, (None, None, 3))
    return tf.ensure_shape(_upright(pixels, exif, xmp), (None, None, 3))


def _decode_jpeg(encoded: tf.Tensor, file: tf.Tensor) -> _Read:
    height, width, channels = tf.unstack(tf.io.extract_jpeg_shape(encoded))
    exif, xmp, adobe = _find(
        file,
        start=2,
        wanted=[
            {0: b"\xff\xe1", 4: b"Exif\0\0"},
            {0: b"\xff\xe1", 4: _XMP_NAMESPACE},
            {0: b"\xff\xee", 4: b"Adobe"},
        ],
        # Bytes of 255 may fill the space before a segment; the picture follows the segment 218.
        step=lambda head, _: tf.where(
            _begins(head, b"\xff", at=1), 1, 2 + _integer(head, 2, 2, big=True)
        ),
        more=lambda head: _begins(head, b"\xff") & ~_begins(head, b"\xda", at=1),
    )
    # Pillow takes inverted CMYK for granted, TensorFlow only behind Adobe's marker.
    encoded = tf.cond(
        (channels == 4) & (adobe == 0),
        lambda: _replaced(encoded, 2, _ADOBE_SEGMENT, old=0),
        lambda: encoded,
    )
    # Pillow's transform; TensorFlow's default is a faster one, off by a gray level on average.
    with _required(_fits(height, width)):
        pixels = tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")

    def payload(place, skipped):
        length = _integer(file, place + 2, 2, big=True) - 2
        return _part(encoded, place, 4 + skipped, length - skipped)

    return pixels, payload(exif, 0), payload(xmp, len(_XMP_NAMESPACE))


def _decode_png(encoded: tf.Tensor, file: tf.Tensor) -> _Read:
    depth, kind = _integer(file, 24, 1), _integer(file, 25, 1)
    clear, exif, profile, xmp = _find(
        file,
        start=8,
        wanted=[{4: b"tRNS"}, {4: b"eXIf"}, {8: _EXIF_KEY}, {4: b"iTXt" + _XMP_KEY}],
        step=lambda head, _: 12 + _integer(head, 0, 4, big=True),
    )

    def gray_of_16_bits():
        deep = tf.cast(tf.io.decode_png(encoded, channels=4, dtype=tf.uint16), tf.int32)
        largest = tf.reduce_max(deep[..., :3])
        bits = tf.where(largest < 256, 1, tf.where(largest < 4096, 16, 256))
        return _over_white(tf.concat([deep[..., :3] // bits, deep[..., 3:] // 257], -1))

    with _required(_fits(*(_integer(file, place, 4, big=True) for place in (20, 16)))):
        pixels = tf.case(
            [
                ((kind == 0) & (depth == 16), gray_of_16_bits),
                # Otherwise TensorFlow may give a wrong alpha, that of opaque gray of few bits.
                (
                    (clear > 0) | (kind >= 4),
                    lambda: _over_white(tf.io.decode_png(encoded, channels=4)),
                ),
            ],
            default=lambda: tf.io.decode_png(encoded, channels=3),
        )

    def payload(place, skipped=0):
        length = _integer(file, place, 4, big=True)
        return _part(encoded, place, 8 + skipped, length - skipped)

    def old_exif():
        """Read ImageMagick's record: three lines of text, then hexadecimal digits."""
        compressed = _integer(file, profile + 4, 1) == ord("z")
        text = tf.cond(
            compressed,
            lambda: _inflated(payload(profile, len(_EXIF_KEY) + 1)),
            lambda: payload(profile, len(_EXIF_KEY)),
        )
        return _from_hexadecimal(tf.strings.regex_replace(text, r"^\n[^\n]*\n[^\n]*\n|\n", ""))

    def text_of_xmp():
        language = len(_XMP_KEY) + 2
        return tf.cond(
            _integer(file, xmp + 8 + len(_XMP_KEY), 1) == 1,
            # Without a language and a translated key, as everybody writes it.
            lambda: _inflated(payload(xmp, language + 2)),
            lambda: payload(xmp, language),
        )

    exif = tf.cond((exif == 0) & (profile > 0), old_exif, lambda: payload(exif))
    return pixels, exif, tf.cond(xmp > 0, text_of_xmp, lambda: "")


def _decode_webp(encoded: tf.Tensor, file: tf.Tensor) -> _Read:
    flags = tf.where(_begins(file, b"VP8X", at=12), _integer(file, 20, 1), 0)
    lossless = _begins(file, b"VP8L", at=12) & (_integer(file, 24, 1) & 16 > 0)
    animated, has_alpha = flags & 2 > 0, (flags & 16 > 0) | lossless

    # The op must be told whether there is alpha, and reads no animation without it: with channels=0
    # it would find out for itself, but then such an animation ends the process (TensorFlow 2.21).
    def with_alpha():
        marked = tf.cond(
            animated,
            lambda: _replaced(encoded, 20, tf.gather(_BYTES, flags | 16), old=1),
            lambda: encoded,
        )
        frame = tf.io.decode_webp(marked, channels=4)[0]
        return tf.cond(has_alpha, lambda: _over_white(frame), lambda: frame[..., :3])

    pixels = tf.cond(
        has_alpha | animated, with_alpha, lambda: tf.io.decode_webp(encoded, channels=3)[0]
    )

    def metadata():
        found = _find(
            file,
            start=12,
            wanted=[{0: b"EXIF"}, {0: b"XMP "}],
            step=lambda head, _: 8 + (_integer(head, 4, 4) + 1) // 2 * 2,
        )
        return [_part(encoded, place, 8, _integer(file, place + 4, 4)) for place in found]

    exif, xmp = tf.cond(flags & 12 > 0, metadata, lambda: ["", ""])
    with _required(_fits(tf.shape(pixels)[0], tf.shape(pixels)[1])):
        return tf.identity(pixels), exif, xmp


def _decode_gif(encoded: tf.Tensor, file: tf.Tensor) -> _Read:
    def size_of_palette(flags):
        return tf.where(flags >= 128, tf.bitwise.left_shift(2, flags % 8), 0)

    def after_blocks(place):
        """Return the place behind blocks that begin with their length, the last with 0."""

        def length(place):
            return _integer(file, tf.minimum(place, end), 1)

        skip = lambda place: [place + 1 + length(place)]  # noqa: E731
        return 1 + tf.while_loop(lambda place: length(place) > 0, skip, [place])[0]

    end = tf.strings.length(encoded)
    canvas = [_integer(file, place, 2) for place in (8, 6)]
    control, frame = _find(
        file,
        start=13 + 3 * size_of_palette(_integer(file, 10, 1)),
        wanted=[{0: b"!\xf9"}, {0: b","}],
        step=lambda _, place: after_blocks(place + 2) - place,
        more=lambda head: _begins(head, b"!"),
    )
    left, top, width, height = (_integer(file, frame + 1 + 2 * i, 2) for i in range(4))
    flags, options = _integer(file, frame + 9, 1), _integer(file, control + 3, 1)
    palette = tf.where(flags >= 128, frame + 10, 13)
    colors = tf.where(flags >= 128, size_of_palette(flags), size_of_palette(_integer(file, 10, 1)))
    clear = _integer(file, control + 6, 1)
    transparent = (control > 0) & (options % 2 == 1)

    def whitened():
        opaque = _replaced(encoded, control + 3, tf.gather(_BYTES, options - 1), old=1)
        return _replaced(opaque, palette + 3 * clear, b"\xff\xff\xff", old=3)

    encoded = tf.cond(transparent & (clear < colors), whitened, lambda: encoded)
    # The op gives the largest frame's size, and cuts off what lies beyond it.
    encoded = _replaced(encoded, frame + 1, b"\0\0\0\0", old=4)
    below, beside = canvas[0] - top - height, canvas[1] - left - width
    with _required(_fits(*canvas) & (frame > 0) & (below >= 0) & (beside >= 0)):
        pixels = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    pixels = pixels[:height, :width]

    def on_canvas():
        # Pillow shows the first color of the palette around the frame.
        color = tf.strings.substr(file, palette, 3)
        around = _bytes(tf.where(transparent, b"\xff\xff\xff", color))
        margins = [[top, below], [left, beside], [0, 0]]
        inside = tf.pad(tf.ones((height, width, 1), tf.bool), margins)
        return tf.where(inside, tf.pad(pixels, margins), around)

    smaller = (below > 0) | (beside > 0) | (top > 0) | (left > 0)
    return tf.cond(smaller, on_canvas, lambda: pixels), "", ""


def _decode_bmp(encoded: tf.Tensor, file: tf.Tensor) -> _Read:
    """Read all that is raw; TensorFlow's op takes indices into a palette for gray levels."""
    start, header, width, lines = (_integer(file, place, 4) for place in (10, 14, 18, 22))
    bits, compression = _integer(file, 28, 2), _integer(file, 30, 4)
    height = tf.abs(lines)
    masks = _begins(file, b"\0\0\xff\0\0\xff\0\0\xff\0\0\0", at=54)
    has_alpha = (compression == 3) & (header >= 56) & (_integer(file, 69, 1) == 255)
    plain = (compression == 0) | ((compression == 3) & (bits == 32) & masks)
    known = plain & (header >= 40) & tf.reduce_any(bits == [1, 4, 8, 24, 32])
    with _required(known & _fits(height, width) & (start > 0)):
        stride = (width * bits + 31) // 32 * 4
    raw = _bytes(encoded)
    rows = tf.reshape(raw[start : start + height * stride], (height, stride))
    rows = tf.cond(lines > 0, lambda: rows[::-1], lambda: rows)

    def direct():
        channels = bits // 8
        pixels = tf.reshape(rows[:, : width * channels], (height, width, channels))
        color = pixels[..., 2::-1]
        return tf.cond(
            has_alpha, lambda: _over_white(tf.concat([color, pixels[..., 3:]], -1)), lambda: color
        )

    def indexed():
        shifts = tf.cast(tf.range(8 - bits, -1, -bits), tf.uint8)
        parts = tf.bitwise.right_shift(rows[..., None], shifts)
        indices = tf.cast(tf.reshape(parts, (height, -1))[:, :width], tf.int32)
        indices = indices % tf.bitwise.left_shift(1, bits)
        colors = (start - 14 - header) // 4
        palette = tf.reshape(raw[14 + header :][: 4 * colors], (colors, 4))[:, 2::-1]
        return tf.gather(palette, tf.minimum(indices, colors - 1))

    return tf.cond(bits > 8, direct, indexed), "", ""


def _over_white(pixels: tf.Tensor) -> tf.Tensor:
    """Turn (H, W, 4) in 0..255 into uint8 (H, W, 3), as ``PIL.Image.alpha_composite`` rounds."""
    pixels = tf.cast(pixels, tf.int32)
    color, alpha = pixels[..., :3], pixels[..., 3:]
    return tf.cast(255 - ((255 - color) * alpha + 127) // 255, tf.uint8)


# Orientation


def _upright(pixels: tf.Tensor, exif: tf.Tensor, xmp: tf.Tensor) -> tf.Tensor:
    """Turn a picture by its records, strings that are empty if there is none."""

    def turned():
        orientation = _exif_orientation(exif)
        orientation = tf.where(orientation < 0, _xmp_orientation(xmp), orientation)

        def among(*values: int) -> tf.Tensor:
            return tf.reduce_any(orientation == tf.constant(values))

        turned = tf.cond(among(5, 6, 7, 8), lambda: tf.transpose(pixels, (1, 0, 2)), lambda: pixels)
        turned = tf.cond(among(2, 3, 6, 7), lambda: turned[:, ::-1], lambda: turned)
        return tf.cond(among(3, 4, 7, 8), lambda: turned[::-1], lambda: turned)

    empty = tf.strings.length(exif) + tf.strings.length(xmp) == 0
    return tf.cond(empty, lambda: pixels, turned)


def _exif_orientation(record: tf.Tensor) -> tf.Tensor:
    """Return the orientation that an EXIF record gives; -1 if it gives none."""
    record = tf.strings.regex_replace(record, r"^(Exif\x00\x00){1,2}", "")
    known = tf.strings.regex_full_match(record, r"(II\*\x00|MM\x00\*)\C{6,}")

    def look():
        file = tf.strings.join([record, bytes(_MARGIN)])
        big, end = _begins(file, b"M"), tf.strings.length(record)

        def read(place, count: int) -> tf.Tensor:
            return tf.where(
                big, _integer(file, place, count, big=True), _integer(file, place, count)
            )

        directory = tf.clip_by_value(read(4, 4), 0, end)
        entries = directory + 2 + 12 * tf.range(read(directory, 2))
        entries = entries[: tf.maximum(end - directory - 2, 0) // 12]
        kind = read(entries + 2, 2)
        long = (kind == 4) | (kind == 9)
        values = tf.where(long, read(entries + 8, 4), read(entries + 8, 2))
        values = tf.where(long | (kind == 3) | (kind == 8), values, 0)
        values = tf.where(read(entries, 2) == _ORIENTATION_TAG, values, -1)
        return tf.reduce_max(tf.concat([values, [-1]], axis=0))

    return tf.cond(known, look, lambda: -1)


def _xmp_orientation(text: tf.Tensor) -> tf.Tensor:
    return tf.cond(
        tf.strings.regex_full_match(text, _XMP_ORIENTATION),
        lambda: tf.strings.to_number(
            tf.strings.regex_replace(text, _XMP_ORIENTATION, r"\1"), tf.int32
        ),
        lambda: 1,
    )


# Bytes


def _find(
    file: tf.Tensor,
    start: int | tf.Tensor,
    wanted: list[dict[int, bytes]],
    step: Callable,
    more: Callable = lambda head: True,
) -> list[tf.Tensor]:
    """Walk along the parts of a file, and return where each wanted one lies first; 0 if nowhere.

    ``wanted`` has the bytes that tell a part, by their distance from its start. ``step``: (first
    bytes of a part, its place) -> the distance to the next part. ``more``: first bytes -> whether
    another part follows.
    """
    size = tf.strings.length(file) - _MARGIN
    length = max(at + len(word) for words in wanted for at, word in words.items())

    def look(place, found):
        head = tf.strings.substr(file, place, max(length, 8))
        matches = [
            functools.reduce(tf.logical_and, (_begins(head, word, at) for at, word in one.items()))
            for one in wanted
        ]
        found = tf.where(tf.stack(matches) & (found == 0), place, found)
        distance = step(head, place)
        on = more(head) & (distance > 0) & (distance < size - place)
        return tf.where(on, place + distance, size), found

    start = tf.convert_to_tensor(start)
    nowhere = tf.zeros(len(wanted), tf.int32)
    _, found = tf.while_loop(lambda place, _: place < size, look, (start, nowhere))
    return tf.unstack(found)


def _bytes(text: tf.Tensor) -> tf.Tensor:
    return tf.io.decode_raw(text, tf.uint8)


def _begins(text: tf.Tensor, word: bytes, at: int = 0) -> tf.Tensor:
    return tf.strings.substr(text, at, len(word)) == word


def _integer(text: tf.Tensor, place, count: int, big: bool = False) -> tf.Tensor:
    """Return the integer of 1, 2 or 4 bytes at a place, or at several, as int32."""
    kind = {1: tf.uint8, 2: tf.uint16, 4: tf.int32}[count]
    digits = tf.strings.substr(text, place, tf.zeros_like(place) + count)
    values = tf.io.decode_raw(digits, kind, little_endian=not big)
    return tf.cast(tf.reshape(values, tf.shape(digits)), tf.int32)


def _part(encoded: tf.Tensor, place: tf.Tensor, skipped: int, length: tf.Tensor) -> tf.Tensor:
    """Return a piece of the file behind a place; empty if the place is 0: not found."""
    return tf.cond(
        place > 0,
        lambda: tf.strings.substr(encoded, place + skipped, tf.maximum(length, 0)),
        lambda: "",
    )


def _replaced(encoded: tf.Tensor, place, new, old: int) -> tf.Tensor:
    """Put new bytes in the place of ``old`` ones."""
    rest = tf.strings.substr(encoded, place + old, _ALL)
    return tf.strings.join([tf.strings.substr(encoded, 0, place), new, rest])


def _inflated(compressed: tf.Tensor) -> tf.Tensor:
    with _required(tf.strings.length(compressed) < _LONGEST_TEXT):
        return tf.io.decode_compressed(compressed, "ZLIB")


def _from_hexadecimal(text: tf.Tensor) -> tf.Tensor:
    digits = tf.cast(_bytes(text), tf.int32)
    digits = tf.where(digits > 64, digits % 32 + 9, digits - 48)
    pairs = tf.reshape(digits[: tf.size(digits) // 2 * 2], (-1, 2))
    return tf.strings.reduce_join(tf.gather(_BYTES, pairs[:, 0] * 16 + pairs[:, 1]))


def _fits(height: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
    """Check that a picture has pixels, and no more than Pillow accepts."""
    area = tf.cast(height, tf.float64) * tf.cast(width, tf.float64)
    return (height > 0) & (width > 0) & (area <= LARGEST)


def _required(condition: tf.Tensor):
    """Context of ops that must not run unless the condition holds."""
    reason = "The picture is damaged, too large, or of a kind that only Pillow reads."
    return tf.control_dependencies([tf.debugging.Assert(condition, [reason])])
