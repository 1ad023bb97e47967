"""Pictures in every form and format, and what is refused."""

from __future__ import annotations

import io
import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from photographs import encode, photograph
from PIL import Image

from nf_zoo.pictures import images
from nf_zoo.pictures.images import load_image, load_images, preprocess, readable
from nf_zoo.pictures.preprocessing import Preprocessing

pytestmark = pytest.mark.fast


def raw_model(**settings) -> SimpleNamespace:
    return SimpleNamespace(preprocessing=Preprocessing(**settings), include_preprocessing=True)


def differs(first, second) -> bool:
    """More than one gray level apart on average."""
    return np.abs(np.float32(first) - np.float32(second)).mean() > 1


# Kinds of input


def test_every_way_to_pass_pictures_gives_the_same_batch(tmp_path):
    image = photograph(80, 120)
    array = np.asarray(image)
    path = tmp_path / "photograph.png"
    image.save(path)
    alpha = np.dstack([array, np.full((80, 120), 255, np.uint8)])
    kinds = [
        *(
            array,
            alpha,
            array.astype(np.int64),
            array.astype(np.float32),
            np.maximum(array - 0.25, 0),
        ),
        *(image, path, str(path), path.read_bytes(), bytearray(path.read_bytes())),
    ]
    settings = Preprocessing(input_size=32)
    expected = preprocess(array, settings)
    for kind in kinds:
        np.testing.assert_array_equal(preprocess(kind, settings), expected)
    for many in (kinds, tuple(kinds), iter(kinds)):
        np.testing.assert_array_equal(
            preprocess(many, settings), np.repeat(expected, len(kinds), axis=0)
        )


def test_a_batch_array_is_a_list_of_pictures():
    batch = np.stack([np.asarray(photograph(50, 70, which)) for which in (0, 1)])
    settings = Preprocessing(input_size=32)
    expected = preprocess(list(batch), settings)
    np.testing.assert_array_equal(preprocess(batch, settings), expected)
    np.testing.assert_array_equal(preprocess(batch.astype(np.float16), settings), expected)
    assert not np.array_equal(expected[0], expected[1])


def test_a_tensor_of_another_library_is_an_array():
    array = np.asarray(photograph(40, 40))
    tensor = SimpleNamespace(values=array)
    type_with_array = type("Tensor", (), {"__array__": lambda self, *_, **__: tensor.values})
    np.testing.assert_array_equal(load_image(type_with_array()), array)


def test_grayscale_arrays_are_repeated_over_the_channels():
    gray = np.asarray(photograph(40, 60).convert("L"))
    for array in (gray, gray[..., None]):
        np.testing.assert_array_equal(load_image(array), np.dstack([gray] * 3))
    batch = preprocess(np.stack([gray] * 2)[..., None], raw_model(input_size=32))
    assert batch.shape == (2, 32, 32, 3)
    np.testing.assert_array_equal(batch[..., 0], batch[..., 2])


def test_floats_are_rounded_and_black_is_a_picture():
    assert load_image(np.full((2, 2), 99.6)).tolist() == [[[100] * 3] * 2] * 2
    assert load_image(np.zeros((2, 2, 3), np.float32)).max() == 0
    batch = np.stack([np.zeros((4, 4, 3)), np.full((4, 4, 3), 255.0)])
    assert preprocess(batch, raw_model(input_size=4))[:, 0, 0, 0].tolist() == [0, 255]


# Files


@pytest.mark.parametrize(
    "form, options, suffix",
    [
        ("JPEG", {"quality": 90}, "jpg"),
        ("JPEG", {"progressive": True}, "jpeg"),
        ("PNG", {}, "png"),
        ("WEBP", {}, "webp"),
        ("WEBP", {"lossless": True}, "WEBP"),
        ("BMP", {}, "bmp"),
        ("TIFF", {}, "tif"),
    ],
)
def test_reads_every_format_from_files_and_bytes(tmp_path, form, options, suffix):
    image = photograph(48, 64)
    path = tmp_path / f"picture.{suffix}"
    image.save(path, form, **options)
    pixels = load_image(path)
    assert pixels.shape == (48, 64, 3) and pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, np.asarray(Image.open(path)))
    assert np.abs(pixels - np.float32(image)).mean() < 8
    np.testing.assert_array_equal(pixels, load_image(path.read_bytes()))


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_reads_the_first_frame_of_an_animation(form):
    frames = [photograph(48, 64, which).quantize(64).convert("RGB") for which in (0, 1)]
    options = {"lossless": True} if form == "WEBP" else {}
    animation = encode(frames[0], form, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(animation)).n_frames == 2
    assert not differs(load_image(animation), frames[0])
    assert differs(load_image(animation), frames[1])


@pytest.mark.parametrize("mode, form", [("L", "PNG"), ("1", "PNG"), ("L", "JPEG"), ("P", "BMP")])
def test_reads_files_of_other_modes(mode, form):
    image = photograph(48, 64).convert(mode)
    encoded = encode(image, form)
    reference = Image.open(io.BytesIO(encoded))
    assert reference.mode == mode
    np.testing.assert_array_equal(load_image(encoded), np.asarray(reference.convert("RGB")))


def test_reads_cmyk():
    image = photograph(48, 64)
    encoded = encode(image.convert("CMYK"), "JPEG", quality=95)
    assert Image.open(io.BytesIO(encoded)).mode == "CMYK"
    assert np.abs(load_image(encoded) - np.float32(image)).mean() < 4


@pytest.mark.parametrize("kind", ["file", "PIL", "array", "batch"])
def test_black_glyphs_on_transparency_stay_visible(kind):
    glyph = Image.new("RGBA", (48, 32))
    glyph.paste((0, 0, 0, 255), (8, 8, 24, 24))
    glyph.putpixel((0, 0), (10, 20, 200, 51))  # a fifth of this color, four of white
    array = np.asarray(glyph)
    source = {"file": encode(glyph, "PNG"), "PIL": glyph, "array": array, "batch": array[None]}[
        kind
    ]
    (pixels,) = load_images(source)
    assert (pixels[8:24, 8:24] == 0).all() and (pixels[:, 24:] == 255).all()
    assert pixels[0, 0].tolist() == [206, 208, 244]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "mode, form", [("LA", "PNG"), ("RGBA", "WEBP"), ("P", "PNG"), ("P", "GIF")]
)
def test_transparency_is_white_in_every_mode(mode, form):
    image = photograph(48, 64).convert("RGB" if mode == "P" else mode)
    if mode == "P":
        image, options = image.quantize(16), {"transparency": 3}
        clear = np.asarray(image) == 3
    else:
        clear = np.tile(np.arange(64) % 2 == 0, (48, 1))
        image.putalpha(Image.fromarray(np.uint8(~clear) * 255))
        options = {"lossless": True, "exact": True} if form == "WEBP" else {}
    pixels = load_image(encode(image, form, **options))
    assert (pixels[clear] == 255).all()
    np.testing.assert_array_equal(pixels[~clear], np.asarray(image.convert("RGB"))[~clear])


def test_reads_avif_and_heic_by_their_content(tmp_path, monkeypatch):
    image = photograph(48, 64)
    path = tmp_path / "picture.jpg"
    image.save(path, "AVIF", quality=95)
    assert np.abs(load_image(path) - np.float32(image)).mean() < 8
    brands = b"heic\0\0\0\0mif1heic"
    path.write_bytes(bytes([0, 0, 0, 8 + len(brands)]) + b"ftyp" + brands + bytes(200))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    wanted = r"picture\.jpg is a HEIC picture: convert it.* need pillow_heif.*\[heic\]"
    with pytest.raises(ValueError, match=wanted):
        load_image(path)


def test_reads_heic(tmp_path):
    heif = pytest.importorskip("pillow_heif", reason="HEIC is an extra")
    image = photograph(48, 64)
    exif = Image.Exif()
    exif[0x0112] = 6
    heif.from_pillow(image).save(tmp_path / "picture.png", quality=95, exif=exif.tobytes())
    pixels = load_image(tmp_path / "picture.png")
    upright = image.transpose(Image.Transpose.ROTATE_270)
    assert np.abs(pixels - np.float32(upright)).mean() < 8


@pytest.mark.parametrize("shape", [(1, 100_000), (100_000, 1), (3, 40_000)])
def test_a_sliver_is_resized_where_the_crop_is(shape):
    ramp = np.linspace(0, 250, max(shape)).round().astype(np.uint8)
    sliver = np.broadcast_to(
        ramp.reshape([-1 if side == max(shape) else 1 for side in shape]), shape
    )
    # The middle has one color; a resized sliver of this length would take gigabytes.
    pixels = preprocess(np.ascontiguousarray(sliver), raw_model(input_size=224))
    assert pixels.shape == (1, 224, 224, 3) and set(np.unique(pixels)) <= {124, 125, 126}


def test_the_crop_of_a_long_picture_is_that_of_the_whole(monkeypatch):
    image = np.asarray(photograph(60, 400))
    settings = Preprocessing((64, 48), 0.9, mean=(0, 0, 0), std=(1, 1, 1))
    whole = preprocess(image, settings)
    monkeypatch.setattr(images, "_LARGEST_RESIZED", 1000)
    assert np.abs(preprocess(image, settings) - whole).max() <= 1.01 / 255


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_keeps_the_high_byte_of_sixteen_bits(form):
    values = np.random.default_rng(0).integers(0, 65536, (20, 30)).astype(np.uint16)
    encoded = encode(Image.fromarray(values), form)
    pixels = load_image(encoded)
    np.testing.assert_array_equal(pixels, np.dstack([values >> 8] * 3))


def test_float_files_follow_the_rule_for_float_arrays(tmp_path):
    path = tmp_path / "floats.tiff"
    Image.fromarray(np.full((4, 4), 99.6, np.float32)).save(path)
    assert (load_image(path) == 100).all()
    Image.fromarray(np.full((4, 4), 0.4, np.float32)).save(path)
    with pytest.raises(ValueError, match=r"floats\.tiff.*look scaled"):
        load_image(path)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_turns_pictures_upright_by_their_exif_orientation(orientation, form):
    # What each orientation did to the upright picture, as NumPy, from the EXIF standard's table.
    stored = {
        1: lambda p: p,
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.transpose(1, 0, 2),
        6: lambda p: np.rot90(p, 1),
        7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
        8: lambda p: np.rot90(p, -1),
    }[orientation]
    upright = np.asarray(photograph(64, 96))
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = Image.fromarray(np.ascontiguousarray(stored(upright)))
    pixels = load_image(encode(turned, form, exif=exif))
    assert pixels.shape == upright.shape
    assert np.abs(pixels - np.float32(upright)).mean() < 8
    mirrored = np.abs(pixels[:, ::-1] - np.float32(upright)).mean()
    assert mirrored > 20


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_spoil_a_sound_picture():
    image = photograph(32, 32)
    encoded = encode(image, "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12")
    np.testing.assert_array_equal(load_image(encoded), np.asarray(image))


# Errors


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("part", [0.0, 0.001, 0.5], ids=["empty", "header", "half"])
def test_names_a_file_that_is_cut_short(tmp_path, form, part):
    whole = encode(photograph(96, 96), form)
    path = tmp_path / f"cut.{form.lower()}"
    path.write_bytes(whole[: math.ceil(len(whole) * part)])
    with pytest.raises(ValueError, match=r"cut\.\w+ (is|cannot be read)"):
        load_image(path)


def test_names_the_position_in_a_list():
    good = encode(photograph(16, 16), "PNG")
    for bad in (b"", b"GIF89a", good[:200], b"<html></html>", None, np.zeros(3), -np.ones((4, 4))):
        with pytest.raises(ValueError, match="position 2 of the list"):
            preprocess([good, good, bad, good], Preprocessing())


def test_refuses_other_formats_even_if_pillow_knows_them(tmp_path):
    path = tmp_path / "picture.jpg"
    photograph(16, 16).save(path, "PPM")
    with pytest.raises(ValueError, match=r"picture\.jpg is not a JPEG.*b'P6"):
        load_image(path)


def test_paths_that_are_no_picture_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png"):
        load_image(tmp_path / "nowhere.png")
    with pytest.raises(ValueError, match=r"got a folder.*glob\('\*\.jpg'\)"):
        load_image(tmp_path)


def test_the_decompression_bomb_limit_stays_on(monkeypatch):
    encoded = encode(photograph(100, 100), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)
    with pytest.raises(ValueError, match="decompression-bomb limit"):
        load_image(encoded)


@pytest.mark.parametrize(
    "array, message",
    [
        (np.random.default_rng(0).random((8, 8, 3)), "look scaled"),
        (np.full((8, 8, 3), 1.0), "look scaled"),
        (np.random.default_rng(0).standard_normal((8, 8, 3)) * 90, "look scaled or normalized"),
        (np.full((8, 8, 3), np.nan), "finite"),
        (np.full((8, 8, 3), np.inf), "finite"),
        (np.full((8, 8, 3), 256.0), r"0\.\.255"),
        (np.full((8, 8, 3), 300, np.int32), r"0\.\.255"),
        (np.full((8, 8, 3), -1, np.int8), r"0\.\.255"),
        (np.full((8, 8, 3), 40000, np.uint16), r"0\.\.255"),
        (np.zeros((8, 8, 3), bool), "bool"),
        (np.zeros((8, 8, 3), complex), "complex"),
        (np.zeros((3, 8, 8), np.uint8), "Channels come last"),
        (np.zeros((2, 3, 8, 8), np.uint8), "Channels come last"),
        (np.zeros((5, 8, 8), np.uint8), "grayscale"),
        (np.zeros((8, 8, 2), np.uint8), r"\(8, 8, 2\)"),
        (np.zeros(8, np.uint8), r"\(8,\)"),
        (np.zeros((0, 8, 3), np.uint8), "no pixels"),
        (np.zeros((0, 8, 8, 3), np.uint8), "no pixels"),
        ([], "no pictures"),
        (None, "NoneType"),
        (7, "int"),
        ({"image": 1}, "dict"),
    ],
)
def test_refuses_what_is_not_raw_pixels(array, message):
    with pytest.raises(ValueError, match=message):
        preprocess(array, Preprocessing(input_size=8))


def test_load_image_takes_one_picture():
    with pytest.raises(ValueError, match="got a batch"):
        load_image(np.zeros((2, 8, 8, 3), np.uint8))


def test_pictures_that_can_be_read_are_kept_and_others_named(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "whole.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "whole.png").read_bytes()[:40])
    whole, broken = (str(tmp_path / name) for name in ("whole.png", "broken.png"))
    with pytest.warns(UserWarning, match=r"left out, 1 of 2: .*broken\.png"):
        assert readable([broken, whole]) == [whole]
    with pytest.raises(ValueError, match=r"No picture can be read.*broken\.png"):
        readable([broken])
