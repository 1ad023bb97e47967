"""Every kind of picture file, read by Pillow and by TensorFlow's ops."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from photographs import encode, photograph
from picture_files import CASES, FILES, PHOTO, chunk
from PIL import Image, ImageOps

from nf_zoo.pictures.images import load_image
from nf_zoo.pictures.tensorflow_decoding import decode, decode_if_possible

pytestmark = pytest.mark.fast
GUIDE = Path(__file__).parents[2] / "docs" / "deploy.md"
PILLOW_ALONE = {"BMP with compression", "GIF with a frame larger than its canvas", "TIFF", "AVIF"}
WITHIN_ONE = {"JPEG in CMYK or YCCK"}


@pytest.fixture(scope="module")
def decode_graph():
    return tf.function(decode, input_signature=[tf.TensorSpec((), tf.string)])


def reference(encoded: bytes) -> np.ndarray:
    """Pixels that Pillow by itself shows, over white."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded)))
    if image.mode == "CMYK":
        return np.asarray(image.convert("RGB"))
    over = Image.new("RGBA", image.size, "white")
    over.alpha_composite(image.convert("RGBA"))
    return np.asarray(over.convert("RGB"))


def gap(first, second) -> int:
    assert first.shape == second.shape
    return int(np.abs(np.int32(first) - np.int32(second)).max())


@pytest.mark.parametrize(
    "row, name", [(row, name) for row in FILES for name in FILES[row]], ids=lambda text: text[:20]
)
def test_both_decoders_agree_or_tensorflow_refuses(row, name, decode_graph):
    encoded = FILES[row][name]
    read = load_image(encoded)
    assert np.ptp(read) > 40 or name == "rle"
    # Pillow by itself does not know what 16 bits are for, nor a transparent gray of few bits.
    if not (row.startswith("16 bits") or "12 bits" in name or name.startswith("png gray")):
        assert gap(read, reference(encoded)) == 0
    if row in PILLOW_ALONE:
        with pytest.raises(tf.errors.InvalidArgumentError):
            decode_graph(encoded)
    else:
        found = decode_graph(encoded)
        assert found.dtype == tf.uint8
        assert gap(found.numpy(), read) <= (row in WITHIN_ONE)


def test_the_guide_lists_what_each_decoder_does():
    for row in FILES:
        known = {True: "the same", False: "not valid"}[row not in PILLOW_ALONE]
        known = "within one gray level" if row in WITHIN_ONE else known
        assert f"| {row} | yes | {known} |\n" in GUIDE.read_text(encoding="utf-8")


@pytest.mark.skipif(not CASES.is_dir(), reason="the collection lies beside a checkout")
@pytest.mark.filterwarnings("ignore")
def test_a_collection_of_cameras_and_editors(decode_graph):
    alone = set()
    for path in sorted(CASES.iterdir()):
        try:
            read = load_image(path)
        except ValueError as error:
            assert str(path) in str(error)
            read = None
        try:
            found = decode_graph(path.read_bytes()).numpy()
        except tf.errors.InvalidArgumentError:
            found = None
        if found is None and read is not None:
            alone.add(path.name)
        elif found is not None:
            assert gap(found, read) <= path.name.startswith(("cmyk", "ycck")), path.name
    # HEIC, if pillow-heif is there.
    alone.discard("heic_as.jpg")
    others = {"avif.avif", "avif_as.jpg", "trunc_end.jpg"}
    assert others <= alone and {name[:4] for name in alone - others} == {"tiff"}


def test_the_transparent_color_of_few_bits_is_white(decode_graph):
    for bits in (1, 2, 4, 8):
        encoded = FILES["transparency, of PNG, WebP and GIF"][f"png gray {bits} bits"]
        size = Image.open(io.BytesIO(encoded)).size
        packed = np.random.default_rng(3).integers(0, 256, (16, 16), np.uint8)
        values = np.unpackbits(packed, axis=1).reshape(16, -1, bits)
        values = (values * 2 ** np.arange(bits)[::-1]).sum(-1)
        expected = np.where(values == 1, 255, values * (255 // (2**bits - 1)))
        assert expected.shape == size[::-1]
        for found in (load_image(encoded), decode_graph(encoded).numpy()):
            np.testing.assert_array_equal(found[..., 0], expected)


def test_gray_of_12_bits_keeps_its_levels(decode_graph):
    values = np.random.default_rng(5).integers(0, 65536, (20, 30)).astype(np.uint16)
    for divisor, shift in ((1, 8), (16, 4), (256, 0)):
        some = values // divisor
        for form in ("PNG", "TIFF"):
            found = load_image(encode(Image.fromarray(some), form))
            np.testing.assert_array_equal(found[..., 0], some >> shift)
        found = decode_graph(encode(Image.fromarray(some), "PNG"))
        np.testing.assert_array_equal(found[..., 0], some >> shift)


def test_pipelines_and_functions_share_one_trace(decode_graph):
    encoded = encode(PHOTO, "PNG")
    shown = [decode(encoded), decode_graph(encoded)]
    shown += tf.data.Dataset.from_tensors(encoded).map(decode)
    for found in shown[1:]:
        np.testing.assert_array_equal(found, shown[0])
    assert decode.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("kind", ["png", "gif", "bmp"])
def test_a_bomb_is_refused_before_it_is_decoded(kind, decode_graph):
    size = 20_000, 20_000
    encoded = {
        "png": b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 1, 0, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(bytes(20_000 * 2_501))),
        "gif": b"GIF89a" + struct.pack("<HH", *size) + encode(PHOTO.quantize(9), "GIF")[10:],
        "bmp": b"BM" + bytes(12) + struct.pack("<IIIHH", 40, *size, 1, 24) + bytes(24),
    }[kind]
    with pytest.raises(ValueError, match="decompression-bomb"):
        load_image(encoded)
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode_graph(encoded)


@pytest.mark.filterwarnings("ignore")
def test_damaged_files_never_decode_to_other_pixels(decode_graph):
    """Bytes changed in the head, where the structure is: refused by one of them, or the same."""
    rng = np.random.default_rng(7)
    files = [
        *(FILES["orientation in EXIF or XMP, of JPEG, PNG and WebP"][x] for x in ("png", "webp")),
        FILES["GIF, also with a frame smaller than its canvas"]["small frame"],
        *(FILES["BMP without compression, of 1, 4, 8, 24 or 32 bits"][x] for x in ("4 bits",)),
    ]
    for file in files:
        for _ in range(15):
            changed = bytearray(file)
            changed[rng.integers(4, 60)] = rng.integers(0, 256)
            try:
                found = decode_graph(bytes(changed)).numpy()
                read = load_image(bytes(changed))
            except (tf.errors.InvalidArgumentError, ValueError):
                continue
            assert found.shape == read.shape


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_turns_jpegs_upright_as_pillow_does(orientation, byte_order, decode_graph):
    exif = Image.Exif()
    exif.endian = byte_order
    exif[0x010F] = "maker"
    exif[0x0112] = orientation
    encoded = encode(photograph(48, 64), "JPEG", exif=exif)
    assert (b"Exif\0\0II" if byte_order == "<" else b"Exif\0\0MM") in encoded
    found = decode_graph(encoded)
    assert found.shape == ((48, 64, 3) if orientation < 5 else (64, 48, 3))
    np.testing.assert_array_equal(found, load_image(encoded))


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"MM\0*",
        b"MM\0*\0\0\0\x08\xff\xff\x01\x12",
        b"MM\0*\xff\xff\xff\xff",
        b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x09\0\0\0",
        b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\0\0\0\0",
    ],
    ids=["empty", "cut", "cut entry", "far away", "nine", "zero"],
)
def test_senseless_exif_turns_nothing(record, decode_graph):
    image = photograph(48, 64)
    found = decode_graph(encode(image, "JPEG", exif=b"Exif\0\0" + record))
    np.testing.assert_array_equal(found, decode_graph(encode(image, "JPEG")))


@pytest.mark.parametrize(
    "encoded",
    [
        b"",
        b"\xff\xd8\xff",
        b"<html></html>",
        *(encode(PHOTO, form)[:600] for form in ("JPEG", "PNG", "WEBP", "BMP", "GIF")),
    ],
    ids=["empty", "start", "html", "jpeg", "png", "webp", "bmp", "gif"],
)
def test_what_cannot_be_decoded_raises(encoded, decode_graph):
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode_graph(encoded)
    assert decode_if_possible(encoded).shape == (0, 0, 3)
