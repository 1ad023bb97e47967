"""Picture files of the kinds that cameras and editors write, by the row of docs/deploy.md's table.

What Pillow cannot write is put together from bytes here.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from photographs import encode, photograph
from PIL import Image

CASES = Path(__file__).parents[2] / "shared" / "cases" / "pictures"
"""A hundred more such files, beside a developer's checkout; tests do without."""
XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
PHOTO = photograph(48, 64)


def exif(orientation: int, order: str = "<", kind: int = 3) -> bytes:
    """A TIFF header and a directory of two entries, without "Exif\\0\\0"."""
    value = struct.pack(order + ("H2x" if kind == 3 else "I"), orientation)
    entries = struct.pack(f"{order}HHI4s", 0x0100, 4, 1, b"\1\0\0\0")
    entries += struct.pack(f"{order}HHI", 0x0112, kind, 1) + value
    start = b"II*\0" if order == "<" else b"MM\0*"
    return start + struct.pack(f"{order}IH", 8, 2) + entries + bytes(4)


def with_segments(jpeg: bytes, *segments: tuple[int, bytes]) -> bytes:
    """A JPEG with segments (marker, content) before all others."""
    made = [bytes([255, at]) + struct.pack(">H", len(x) + 2) + x for at, x in segments]
    return jpeg[:2] + b"".join(made) + jpeg[2:]


def without_adobe(jpeg: bytes) -> bytes:
    start = jpeg.index(b"\xff\xee\0\x0eAdobe")
    return jpeg[:start] + jpeg[start + 16 :]


def chunk(kind: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def with_chunks(png: bytes, *chunks: tuple[bytes, bytes], last: bool = False) -> bytes:
    """A PNG with chunks behind its header, or before its end."""
    at = len(png) - 12 if last else 33
    return png[:at] + b"".join(chunk(*one) for one in chunks) + png[at:]


def gray_png(depth: int, rows: np.ndarray, clear: int | None = None) -> bytes:
    """A gray PNG of 1, 2, 4, 8 or 16 bits, from rows of packed bytes."""
    width = rows.shape[1] * 8 // depth
    header = struct.pack(">IIBBBBB", width, len(rows), depth, 0, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    made = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    made += b"" if clear is None else chunk(b"tRNS", struct.pack(">H", clear))
    return made + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def raw_profile(text_kind: bytes) -> tuple[bytes, bytes]:
    """The record that ImageMagick wrote before PNG had one for EXIF."""
    digits = (b"Exif\0\0" + exif(6)).hex()
    lines = "\n".join(digits[start : start + 72] for start in range(0, len(digits), 72))
    text = f"\nexif\n{len(digits) // 2:8}\n{lines}\n".encode()
    key = b"Raw profile type exif\0"
    return text_kind, key + (b"\0" + zlib.compress(text) if text_kind == b"zTXt" else text)


def with_webp_chunks(webp: bytes, flags: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A lossy WebP in the extended format, with chunks behind the picture."""
    size = b"".join((side - 1).to_bytes(3, "little") for side in PHOTO.size)
    body = b"VP8X" + struct.pack("<IB3x", 10, flags) + size + webp[12:]
    for kind, content in chunks:
        body += kind + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def opaque_animation() -> bytes:
    """An animated WebP that says it has no alpha."""
    other = photograph(48, 64, which=1)
    made = bytearray(encode(PHOTO, "WEBP", save_all=True, append_images=[other]))
    made[20] &= ~16
    return bytes(made)


def gif_on_canvas(gif: bytes, top: int, left: int, height: int, width: int) -> bytes:
    """A GIF whose frame lies on a larger canvas."""
    made = bytearray(gif)
    made[6:10] = struct.pack("<HH", width, height)
    place = made.index(b",\0\0\0\0" + gif[6:10])
    made[place + 1 : place + 5] = struct.pack("<HH", left, top)
    return bytes(made)


def bmp(bits: int, rows: bytes, palette: bytes = b"", masks: bytes = b"", height=48) -> bytes:
    """A BMP of raw rows; masks of 16 bytes need the header of 56 bytes."""
    header = 40 + len(masks)
    start = 14 + header + len(palette)
    made = struct.pack("<2sIHHI", b"BM", start + len(rows), 0, 0, start)
    made += struct.pack("<IiiHHI", header, 64, height, 1, bits, 3 if masks else 0)
    return made + struct.pack("<IiiII", len(rows), 0, 0, 0, 0) + masks + palette + rows


def with_alpha(mode: str = "RGBA") -> Image.Image:
    image = PHOTO.convert(mode[:-1]).copy()
    alpha = np.random.default_rng(0).integers(0, 256, (48, 64), np.uint8)
    image.putalpha(Image.fromarray(alpha))
    return image


def _bmps() -> dict[str, bytes]:
    packed = np.random.default_rng(1).integers(0, 256, (48, 64 // 2), np.uint8)
    colors = np.random.default_rng(2).integers(0, 256, (16, 4), np.uint8).tobytes()
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    four = np.asarray(with_alpha())[..., [2, 1, 0, 3]].tobytes()
    return {
        "24 bits": encode(PHOTO, "BMP"),
        "32 bits": encode(with_alpha(), "BMP"),
        "gray": encode(PHOTO.convert("L"), "BMP"),
        "8 bits": encode(PHOTO.quantize(30), "BMP"),
        "4 bits": bmp(4, packed.tobytes(), colors),
        "1 bit": encode(PHOTO.convert("1"), "BMP"),
        "top down": bmp(32, four, height=-48),
        "alpha": bmp(32, four, masks=masks),
    }


def _animations() -> dict[str, bytes]:
    frames = [PHOTO.quantize(64), photograph(48, 64, which=1).quantize(64)]
    lossless = {"lossless": True, "save_all": True}
    return {
        "webp": opaque_animation(),
        "webp alpha": encode(with_alpha(), "WEBP", append_images=[with_alpha()], **lossless),
        "gif": encode(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "apng": encode(PHOTO, "PNG", save_all=True, append_images=[photograph(48, 64, 1)]),
    }


def _oriented() -> dict[str, bytes]:
    jpeg, png, webp = (encode(PHOTO, form) for form in ("JPEG", "PNG", "WEBP"))
    app1 = 0xE1, b"Exif\0\0" + exif(6)
    namespace = b"http://ns.adobe.com/xap/1.0/\0"
    key = b"XML:com.adobe.xmp\0"
    files = {
        f"jpeg {turn}{order}": with_segments(jpeg, (0xE1, b"Exif\0\0" + exif(turn, order)))
        for turn in range(1, 9)
        for order in "<>"
    }
    return {
        **files,
        "jpeg long": with_segments(jpeg, (0xE1, b"Exif\0\0" + exif(6, ">", kind=4))),
        "jpeg behind 64 KB": with_segments(jpeg, (0xE2, bytes(65000)), (0xE3, bytes(9000)), app1),
        "jpeg text in a comment": with_segments(jpeg, (0xFE, b"\xff\xe1\0\x30Exif\0\0" + exif(6))),
        "jpeg xmp": with_segments(jpeg, (0xE1, namespace + XMP)),
        "jpeg xmp element": with_segments(
            jpeg, (0xE1, namespace + b"<tiff:Orientation>8</tiff:Orientation>")
        ),
        "jpeg exif before xmp": with_segments(
            jpeg, (0xE1, namespace + XMP), (0xE1, b"Exif\0\0" + exif(3))
        ),
        "jpeg filled": jpeg[:2] + b"\xff\xff" + with_segments(jpeg, app1)[2:],
        "png": with_chunks(png, (b"eXIf", exif(6, ">"))),
        "png at the end": with_chunks(png, (b"eXIf", exif(7)), last=True),
        "png xmp": with_chunks(png, (b"iTXt", key + b"\0\0\0\0" + XMP)),
        "png compressed xmp": with_chunks(png, (b"iTXt", key + b"\1\0\0\0" + zlib.compress(XMP))),
        "png imagemagick": with_chunks(png, raw_profile(b"zTXt")),
        "png imagemagick text": with_chunks(png, raw_profile(b"tEXt")),
        "webp": with_webp_chunks(webp, 8, (b"EXIF", exif(6))),
        "webp with its name": with_webp_chunks(webp, 8, (b"EXIF", b"Exif\0\0" + exif(5, ">"))),
        "webp xmp": with_webp_chunks(webp, 4, (b"XMP ", XMP)),
        "webp alpha": encode(with_alpha(), "WEBP", lossless=True, exif=b"Exif\0\0" + exif(8)),
    }


def _transparent() -> dict[str, bytes]:
    palette = PHOTO.quantize(16)
    packed = np.random.default_rng(3).integers(0, 256, (16, 16), np.uint8)
    deep = np.random.default_rng(4).integers(0, 65536, (16, 16)).astype(">u2")
    shades = bytes(range(0, 256, 16))
    gif = encode(palette, "GIF", transparency=5)
    return {
        **{f"png {mode}": encode(with_alpha(mode), "PNG") for mode in ("RGBA", "LA")},
        "png palette": encode(palette, "PNG", transparency=shades),
        "png palette 4 bits": encode(palette, "PNG", transparency=shades, bits=4),
        "png color": encode(PHOTO, "PNG", transparency=PHOTO.getpixel((3, 4))),
        **{f"png gray {n} bits": gray_png(n, packed, clear=1) for n in (1, 2, 4, 8)},
        "png gray 16 bits": gray_png(16, deep.view(np.uint8), clear=int(deep[3, 3])),
        "webp": encode(with_alpha(), "WEBP"),
        "webp lossless": encode(with_alpha(), "WEBP", lossless=True, exact=True),
        "gif": gif,
        "gif on a canvas": gif_on_canvas(gif, 5, 7, 60, 90),
        "gif own palette": encode(
            palette, "GIF", transparency=5, save_all=True, append_images=[PHOTO.quantize(9)]
        ),
    }


def _deep() -> dict[str, bytes]:
    values = np.random.default_rng(5).integers(0, 65536, (20, 30)).astype(np.uint16)
    gray = {f"gray {65536 // n}": encode(Image.fromarray(values // n), "PNG") for n in (1, 16, 256)}
    header = struct.pack(">IIBBBBB", 5, 20, 16, 2, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + row.astype(">u2").tobytes() for row in values[:, :15]))
    color = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows)
    return {**gray, "color": color + chunk(b"IEND", b"")}


def _jpegs() -> dict[str, bytes]:
    return {
        "plain": encode(PHOTO, "JPEG", quality=85),
        "progressive": encode(PHOTO, "JPEG", progressive=True),
        "gray": encode(PHOTO.convert("L"), "JPEG"),
        "4:2:0": encode(PHOTO, "JPEG", subsampling=2),
        "rgb": encode(PHOTO, "JPEG", keep_rgb=True),
        "with bytes behind": encode(PHOTO, "JPEG") + b"more",
    }


def _cmyk() -> dict[str, bytes]:
    shares = np.random.default_rng(6).integers(0, 128, (4, 6, 4), np.uint8)
    image = Image.fromarray(shares, "CMYK").resize((64, 48))
    adobe = encode(image, "JPEG", quality=95)
    return {"adobe": adobe, "without adobe": without_adobe(adobe)}


def _tiffs() -> dict[str, bytes]:
    values = np.random.default_rng(5).integers(0, 4096, (20, 30)).astype(np.uint16)
    return {"rgb": encode(PHOTO, "TIFF"), "12 bits": encode(Image.fromarray(values), "TIFF")}


def _pngs() -> dict[str, bytes]:
    packed = np.random.default_rng(3).integers(0, 256, (16, 16), np.uint8)
    return {
        "rgb": encode(PHOTO, "PNG"),
        "palette": encode(PHOTO.quantize(30), "PNG"),
        **{f"gray {n} bits": gray_png(n, packed) for n in (1, 2, 4, 8)},
    }


def _webps() -> dict[str, bytes]:
    return {"lossy": encode(PHOTO, "WEBP"), "lossless": encode(PHOTO, "WEBP", lossless=True)}


def _gifs() -> dict[str, bytes]:
    gif = encode(PHOTO.quantize(30), "GIF")
    return {"whole": gif, "small frame": gif_on_canvas(gif, 5, 7, 60, 90)}


def _rle_bmp() -> dict[str, bytes]:
    palette = bytes(range(256)) * 4
    made = bytearray(bmp(8, b"\x40\x07\0\0" * 48 + b"\0\1", palette))
    made[30] = 1
    return {"rle": bytes(made)}


FILES = {
    "JPEG in color or gray, progressive or not": _jpegs(),
    "JPEG in CMYK or YCCK": _cmyk(),
    "PNG of 1 to 8 bits, palettes, interlaced": _pngs(),
    "16 bits in PNG": _deep(),
    "WebP, lossy or lossless": _webps(),
    "GIF, also with a frame smaller than its canvas": _gifs(),
    "BMP without compression, of 1, 4, 8, 24 or 32 bits": _bmps(),
    "orientation in EXIF or XMP, of JPEG, PNG and WebP": _oriented(),
    "transparency, of PNG, WebP and GIF": _transparent(),
    "animations": _animations(),
    "BMP with compression": _rle_bmp(),
    "GIF with a frame larger than its canvas": {
        "larger": gif_on_canvas(encode(PHOTO.quantize(30), "GIF"), 5, 7, 48, 64)
    },
    "TIFF": _tiffs(),
    "AVIF": {"avif": encode(PHOTO, "AVIF")},
}
"""Row of the table -> name -> file."""
