import os
import shutil
import warnings

import numpy as np
import pytest
from PIL import Image

from nf_zoo.finetuning import labeled_pictures
from nf_zoo.finetuning.settings import Settings

pytestmark = pytest.mark.fast


def open_data(data, **options):
    return labeled_pictures.open_data(data, Settings(**options))


def test_copies_are_named_and_stay_on_one_side_of_the_split(few):
    for i in range(6):
        shutil.copy(few / "bar" / "001.png", few / "bar" / f"copy{i}.png")
    # The same pixels in another file.
    Image.open(few / "disc" / "001.png").save(few / "disc" / "again.bmp")
    with pytest.warns(UserWarning, match="9 of 23 pictures have the same pixels as another"):
        opened = open_data(few)
    groups = opened.findings["copies"]
    assert sorted(map(len, groups)) == [2, 7]
    assert ["disc/001.png", "disc/again.bmp"] in groups
    validation = set(opened.validation.names)
    assert all(set(group) <= validation or not set(group) & validation for group in groups)


def test_copies_in_two_classes(few):
    shutil.copy(few / "bar" / "001.png", few / "disc" / "other.png")
    with pytest.warns(UserWarning, match="2 of 17 pictures have the same .*of another class"):
        opened = open_data(few)
    assert opened.findings == {"copies_across_classes": [["bar/001.png", "disc/other.png"]]}


def test_copies_of_training_pictures_among_those_to_validate_on(tmp_path, write_shapes):
    write_shapes(tmp_path / "train", {"bar": 4, "disc": 4})
    write_shapes(tmp_path / "val", {"bar": 3, "disc": 3}, seed=1)
    shutil.copy(tmp_path / "train/bar/000.jpg", tmp_path / "val/bar/seen.jpg")
    with pytest.warns(UserWarning, match="2 of 15 pictures have the same .*in another split"):
        opened = open_data(tmp_path)
    pair = ["train/bar/000.jpg", "validation/bar/seen.jpg"]
    assert opened.findings == {"copies_across_splits": [pair]}
    assert len(opened.validation) == 7


@pytest.mark.filterwarnings("error")
def test_sound_pictures_are_not_warned_of(few):
    black_and_white = np.zeros((20, 20), bool)
    black_and_white[3:9] = True
    Image.fromarray(black_and_white).save(few / "bar" / "glyph.png")
    dark = np.random.default_rng(0).integers(0, 40, (200, 300, 3), np.uint8)
    Image.fromarray(dark).save(few / "disc" / "dark.png")
    assert open_data(few).findings == {}


def test_flattened_pictures_are_named(few):
    Image.new("RGB", (30, 20), (200, 10, 10)).save(few / "bar" / "red.png")
    # As the high byte of a file of more bits looks.
    deep = np.linspace(0, 12, 600).astype(np.uint8).reshape(20, 30)
    Image.fromarray(deep).save(few / "disc" / "deep.tif")
    # All in a corner that a coarse look misses.
    lines = np.zeros((400, 400), np.uint8)
    lines[1, 1] = 255
    Image.fromarray(lines).save(few / "disc" / "dot.png")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        opened = open_data(few)
    assert opened.findings == {"constant": ["bar/red.png"], "few_levels": ["disc/deep.tif"]}
    words = [str(warning.message) for warning in caught]
    assert any("1 of 19 pictures" in x and "a single color: bar/red.png" in x for x in words)
    assert any("fewer than 16 levels" in x and x.endswith("disc/deep.tif") for x in words)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_named(few, mode):
    picture = Image.open(few / "bar" / "001.png").convert(mode)
    if mode == "P":
        picture.info["transparency"] = 0
    else:
        picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    picture.save(few / "bar" / "glass.png")
    with pytest.warns(UserWarning, match=r"1 of 17 .* transparent parts.* white: bar/glass\.png"):
        assert open_data(few).findings["transparent"] == ["bar/glass.png"]


def test_names_that_are_not_utf_8_are_used_and_shown_with_escapes(few):
    (few / "bar" / "001.png").rename(few / "bar" / os.fsdecode(b"caf\xe9.png"))
    (few / "disc" / os.fsdecode(b"\xff.png")).write_bytes(b"broken")
    with pytest.warns(UserWarning, match=r"disc/\\udcff\.png \(") as caught:
        opened = open_data(few)
    assert opened.counts() == {"train": 12, "validation": 4, "skipped": 1}
    assert list(opened.skipped) == [r"disc/\udcff.png"]
    for text in (*map(str, [w.message for w in caught]), *opened.skipped.values()):
        text.encode()
    assert opened.train.fingerprint != opened.validation.fingerprint


def test_of_every_file_it_is_said_what_was_done(few):
    """Files as cameras, editors and storage devices leave them, in two classes."""
    picture = Image.open(few / "bar" / "001.png").rotate(90)
    for suffix in ("webp", "bmp", "gif", "tif", "jfif", "jpeg"):
        picture.save(few / "bar" / f"in.{suffix}", {"jfif": "JPEG", "tif": "TIFF"}.get(suffix))
    picture.convert("CMYK").save(few / "disc" / "cmyk.jpg")
    picture.save(few / "disc" / "no suffix", "PNG")
    picture.resize((1500, 1)).save(few / "disc" / "thin.png")
    picture.resize((1, 1)).save(few / "disc" / "point.png")
    picture.save(few / "disc" / "raw.jp2")
    for name in ("empty.jpg", "page.png", "cut.jpg", "phone.heic"):
        (few / "bar" / name).write_bytes((few / "bar" / "000.jpg").read_bytes()[:400])
    (few / "bar" / "empty.jpg").write_bytes(b"")
    (few / "bar" / "page.png").write_bytes(b"<html></html>")
    (few / "bar" / "away.png").symlink_to(few / "nowhere.png")
    (few / "bar" / "@eaDir").mkdir()
    picture.save(few / "bar" / "@eaDir" / "thumbnail.jpg")
    (few / "disc" / "._1.jpg").write_bytes(b"Mac OS X")
    files = sum(len(names) for _, _, names in os.walk(few))
    with pytest.warns(UserWarning, match="5 files of"):
        opened = open_data(few)
    assert set(opened.skipped) == {
        f"bar/{name}" for name in ("empty.jpg", "page.png", "cut.jpg", "phone.heic", "away.png")
    }
    assert opened.ignored == {".jp2": 1, "hidden": 1, "in @eaDir/": 1}
    counts = opened.counts()
    assert sum(counts.values()) + sum(opened.ignored.values()) == files
    assert opened.findings["constant"] == ["disc/point.png"]
