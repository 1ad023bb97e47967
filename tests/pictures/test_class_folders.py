import os

import numpy as np
import pytest

from nf_zoo.pictures.class_folders import (
    FolderError,
    find_splits,
    pictures_in,
    printable,
    scan,
    stratified_split,
)

pytestmark = pytest.mark.fast


def touch(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"")
    return root


def test_class_folders_are_sorted_and_walked(tmp_path):
    touch(tmp_path, "b/2.PNG", "b/deep/er/1.jpeg", "a/z.webp", "a/notes.txt", "a/table", "B/x.bmp")
    found = scan(tmp_path)
    assert found.labels == ("B", "a", "b")
    assert found.files == ("B/x.bmp", "a/z.webp", "b/2.PNG", "b/deep/er/1.jpeg")
    assert found.classes.tolist() == [0, 1, 2, 2]
    assert found.ignored == {".txt": 1, "no suffix": 1}


def test_hidden_files_and_folders_are_passed_over(tmp_path):
    touch(
        tmp_path, "a/1.png", "a/.2.png", "a/.cache/3.png", "b/1.png", ".git/4.png", "__MACOSX/5.png"
    )
    found = scan(tmp_path)
    assert found.files == ("a/1.png", "b/1.png")
    assert found.ignored == {"hidden": 1, "in .cache/": 1, "in .git/": 1, "in __MACOSX/": 1}


def test_thumbnails_of_storage_devices_are_counted_and_not_learned_from(tmp_path):
    touch(tmp_path, "a/1.png", "a/@eaDir/1.png/thumb.jpg", "a/@eaDir/1.png/info", "b/1.png")
    touch(tmp_path, "@eaDir/a/1.png", ".thumbnails/1.png", "a/._1.png", "a/.DS_Store")
    found = scan(tmp_path)
    assert (found.labels, found.files) == (("a", "b"), ("a/1.png", "b/1.png"))
    assert found.ignored == {"hidden": 1, "in .thumbnails/": 1, "in @eaDir/": 2}


def test_the_folder_of_a_run_is_no_class(tmp_path):
    """Whether the run is finished or interrupted, and wherever its output is."""
    touch(tmp_path, "a/1.png", "b/1.png", "run/report.json", "run/model.keras", "run/curve.png")
    touch(tmp_path, "c.partial/run.json", "a/old/report.json", "a/old/model.keras", "a/old/x.png")
    touch(tmp_path, "b/run.json")  # a name that a class folder may hold too
    found = scan(tmp_path)
    assert (found.labels, found.files) == (("a", "b"), ("a/1.png", "b/1.png"))
    assert found.ignored == {"in run/": 1, "in old/": 1, ".json": 1}
    assert find_splits(tmp_path) == {"train": tmp_path}


def test_a_pipe_is_no_picture(tmp_path):
    touch(tmp_path, "a/1.png", "b/1.png")
    os.mkfifo(tmp_path / "b" / "2.png")
    os.symlink("nowhere.png", tmp_path / "b" / "3.png")  # named as unreadable later
    found = scan(tmp_path)
    assert found.files == ("a/1.png", "b/1.png", "b/3.png") and found.ignored == {".png": 1}


def test_a_file_without_suffix_is_what_its_first_bytes_say(tmp_path):
    touch(tmp_path, "a/1.png", "b/1.png", "b/table", "b/film.mp4")
    png = b"\x89PNG\r\n\x1a\n" + bytes(20)
    (tmp_path / "b" / "IMG 2024.01.15 17h").write_bytes(png)
    (tmp_path / "b" / "scan").write_bytes(b"\xff\xd8\xff\xe0" + bytes(20))
    (tmp_path / "b" / "frame.0001").write_bytes(b"RIFF1234WEBPVP8 ")
    (tmp_path / "b" / "raw.dng").write_bytes(b"II*\0" + bytes(20))
    os.mkfifo(tmp_path / "b" / "pipe")
    found = scan(tmp_path)
    assert found.files[1:] == ("b/1.png", "b/IMG 2024.01.15 17h", "b/frame.0001", "b/scan")
    assert found.ignored == {".dng": 1, ".mp4": 1, "no suffix": 2}


def test_pictures_of_phones_are_found(tmp_path):
    touch(tmp_path, "a/1.HEIC", "a/2.avif", "b/3.heif")
    assert scan(tmp_path).files == ("a/1.HEIC", "a/2.avif", "b/3.heif")


def test_a_link_back_to_the_classes_is_not_followed(tmp_path):
    touch(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "b" / "all").symlink_to(tmp_path)
    assert scan(tmp_path).files == ("a/1.png", "b/1.png")


def test_linked_folders_are_followed_once(tmp_path):
    touch(tmp_path, "data/a/1.png", "data/b/1.png", "elsewhere/2.png")
    (tmp_path / "data/b/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/loop").symlink_to(tmp_path / "data/b")
    assert scan(tmp_path / "data").files == ("a/1.png", "b/1.png", "b/link/2.png")


def test_pictures_outside_class_folders_are_counted_and_named(tmp_path):
    touch(tmp_path, "a/1.png", "b/1.png", "lost.png")
    with pytest.warns(UserWarning, match=r"ignored: 1 \(lost\.png\)"):
        assert scan(tmp_path).ignored == {"in no class folder": 1}


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([], "no class folder"),
        (["1.png", "2.png"], "no class folder"),
        (["only/1.png"], r"one class folder \(only/\)"),
        (
            ["a/1.png", "b/notes.txt", "c/1.png"],
            "1 of the 3 class folders hold no picture.*empty b",
        ),
    ],
)
def test_folders_that_cannot_be_learned_from(tmp_path, paths, message):
    with pytest.raises(FolderError, match=message):
        scan(touch(tmp_path, *paths))


def test_missing_folder_and_file_in_its_place(tmp_path):
    with pytest.raises(FolderError, match=r"no such folder.*nowhere"):
        scan(tmp_path / "nowhere")
    with pytest.raises(FolderError, match=r"not a file.*1\.png"):
        find_splits(touch(tmp_path, "1.png") / "1.png")
    with pytest.raises(TypeError, match="Received: 3"):
        find_splits(3)
    with pytest.raises(FolderError, match="name of the folder is empty"):
        find_splits("")


def test_labels_keep_their_order_and_may_lack_a_folder(tmp_path):
    found = scan(touch(tmp_path, "cat/1.png", "ant/1.png"), labels=["cat", "dog", "ant"])
    assert found.labels == ("cat", "dog", "ant")
    assert found.files == ("cat/1.png", "ant/1.png")
    assert found.classes.tolist() == [0, 2]


def test_unknown_class_folder_names_the_differences(tmp_path):
    touch(tmp_path, "cat/1.png", "eel/1.png")
    with pytest.raises(FolderError, match=r"no label: eel\. Labels without a folder: dog"):
        scan(tmp_path, labels=["cat", "dog"])


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        ("train", "val", "test"),
        ("train", "valid", "test"),
        ("train", "validation", "test"),
        ("Train", "Val", "Test"),
        ("Training", "Validation", "Testing"),
        ("TRAINING", "DEV", "TESTING"),
        ("training_set", "dev set", "test-images"),
    ],
)
def test_split_folders(tmp_path, train, validation, test):
    touch(tmp_path, f"{train}/a/1.png", f"{validation}/a/1.png", f"{test}/a/1.png")
    touch(tmp_path, ".thumbs/1.png", "readme.md")
    assert find_splits(tmp_path) == {
        "train": tmp_path / train,
        "validation": tmp_path / validation,
        "test": tmp_path / test,
    }


def test_other_folders_beside_splits_are_no_classes(tmp_path):
    touch(tmp_path, "train/a/1.png", "train/b/1.png", "test/a/1.png", "single_prediction/1.png")
    with pytest.warns(UserWarning, match="other folders are ignored: single_prediction"):
        assert set(find_splits(tmp_path)) == {"train", "test"}


def test_a_stray_picture_makes_no_classes_of_splits(tmp_path):
    touch(tmp_path, *(f"{x}/{y}/1.png" for x in ("train", "val") for y in ("cat", "dog")))
    touch(tmp_path, "train/contact_sheet.png", "extra/1.png")
    with pytest.warns(UserWarning, match="other folders are ignored: extra"):
        assert set(find_splits(tmp_path)) == {"train", "validation"}


@pytest.mark.parametrize("names", [("one", "two"), ("seg_train", "seg_test"), ("2023", "2024")])
def test_parts_of_a_data_set_are_not_its_classes(tmp_path, names):
    touch(tmp_path, *(f"{name}/{label}/1.png" for name in names for label in ("cat", "dog")))
    touch(tmp_path, f"{names[0]}/eel/1.png")
    with pytest.raises(FolderError, match=r"the same folders \(cat, dog\).*probably the classes"):
        scan(tmp_path)


def test_folders_within_classes_are_allowed(tmp_path):
    # As in Tiny ImageNet; and where pictures lie beside the folders.
    touch(tmp_path / "tiny", "n01/images/1.png", "n02/images/1.png")
    assert scan(tmp_path / "tiny").labels == ("n01", "n02")
    touch(tmp_path / "more", *(f"{x}/{y}1.png" for x in "ab" for y in ("", "old/", "new/")))
    assert scan(tmp_path / "more").labels == ("a", "b")


@pytest.mark.parametrize("name", ["two\nlines", "bell\a", os.fsdecode(b"caf\xe9"), "a\u2028b"])
def test_class_names_that_no_file_can_hold(tmp_path, name):
    touch(tmp_path, "a/1.png", f"{name}/1.png")
    with pytest.raises(FolderError, match="text of one line") as error:
        scan(tmp_path)
    str(error.value).encode()
    assert len(str(error.value).splitlines()) == 1


def test_class_names_that_look_the_same_are_told_apart(tmp_path):
    touch(tmp_path, "caf\u00e9/1.png", "cafe\u0301/1.png")
    with pytest.raises(FolderError, match=r"look the same.*'cafe\\u0301'.*'caf\\xe9'"):
        scan(tmp_path)
    touch(tmp_path / "spaced", "cat/1.png", "cat /1.png")
    with pytest.raises(FolderError, match=r"'cat' .*'cat '"):
        scan(tmp_path / "spaced")


def test_a_folder_finds_its_label_in_any_unicode_form(tmp_path):
    touch(tmp_path, "cafe\u0301/1.png", "tea/1.png")
    found = scan(tmp_path, labels=["tea", "caf\u00e9"])
    assert found.labels == ("tea", "caf\u00e9")
    assert found.files == ("tea/1.png", "cafe\u0301/1.png")
    assert found.classes.tolist() == [0, 1]


def test_unusual_class_names_are_kept(tmp_path):
    names = ("$5_to_$10", "Ba$$in", "\u732b", "tab cat ")
    touch(tmp_path, *(f"{name}/1.png" for name in names))
    with pytest.warns(UserWarning, match="end with a space: 'tab cat '"):
        assert scan(tmp_path).labels == tuple(sorted(names))


def test_file_names_that_are_not_utf_8(tmp_path):
    touch(tmp_path, "a/1.png", "b/" + os.fsdecode(b"caf\xe9.png"), "b/3.png")
    found = scan(tmp_path)
    assert (tmp_path / found.files[2]).is_file()
    assert len(stratified_split(found.files, found.classes, 0.5, seed=0)[1]) == 2 - 1
    assert printable(found.files[2]) == r"b/caf\udce9.png"


def test_a_class_may_be_called_train(tmp_path):
    touch(tmp_path, "train/1.png", "plane/1.png")
    assert find_splits(tmp_path) == {"train": tmp_path}


def test_two_validation_folders_are_refused(tmp_path):
    touch(tmp_path, "train/a/1.png", "val/a/1.png", "valid/a/1.png")
    with pytest.raises(FolderError, match="val/ and valid/"):
        find_splits(tmp_path)


def test_split_is_stratified_complete_and_seeded():
    classes = np.repeat([0, 1, 2], [10, 5, 100])
    names = [f"c{c}/{i}.png" for i, c in enumerate(classes)]
    train, held_out = stratified_split(names, classes, 0.2, seed=0)
    assert np.bincount(classes[held_out]).tolist() == [2, 1, 20]
    assert sorted([*train, *held_out]) == list(range(115))
    again = stratified_split(names, classes, 0.2, seed=0)[1]
    other = stratified_split(names, classes, 0.2, seed=1)[1]
    assert again.tolist() == held_out.tolist() != other.tolist()


def test_split_is_the_same_on_every_machine():
    names = [f"a/{i}.png" for i in range(8)]
    held_out = stratified_split(names, np.zeros(8, int), 0.25, seed=3)[1]
    assert held_out.tolist() == [1, 7]


def test_split_goes_by_name_not_by_place():
    names = [f"a/{i}.png" for i in range(40)]
    held_out = stratified_split(names, np.zeros(40, int), 0.25, seed=0)[1]
    backwards = stratified_split(names[::-1], np.zeros(40, int), 0.25, seed=0)[1]
    assert {names[i] for i in held_out} == {names[::-1][i] for i in backwards}


def test_split_leaves_single_pictures_to_training_and_never_takes_all():
    classes = np.array([0, 1, 1, 1])
    train, held_out = stratified_split(list("abcd"), classes, 0.99, seed=0)
    assert 0 in train
    assert np.bincount(classes[train]).tolist() == [1, 1]
    assert len(held_out) == 2


def test_copies_stay_on_one_side():
    rng = np.random.default_rng(0)
    contents = rng.integers(0, 60, 200)
    classes = rng.integers(0, 3, 200)
    names = [str(i) for i in range(200)]
    train, held_out = stratified_split(names, classes, 0.2, 0, contents)
    assert not set(contents[train]) & set(contents[held_out])
    assert len(train) + len(held_out) == 200
    assert all(5 <= count <= 14 for count in np.bincount(classes[held_out], minlength=3))


def test_a_class_of_copies_alone_is_trained_on_and_one_of_two_pictures_is_split():
    classes = np.repeat([0, 1, 2], [4, 6, 5])
    contents = [*[0] * 4, *[1] * 4, *[2] * 2, *range(3, 8)]
    train, held_out = stratified_split(list("abcdefghijklmno"), classes, 0.2, 0, contents)
    assert np.bincount(classes[held_out], minlength=3).tolist() == [0, 2, 1]
    assert np.bincount(classes[train]).tolist() == [4, 4, 4]


def test_pictures_in_a_folder_hidden_ones_left_out_and_links_followed_once(tmp_path):
    (tmp_path / "here" / ".hidden").mkdir(parents=True)
    (tmp_path / "there").mkdir()
    for name in ("here/b.png", "here/a.JPG", "here/.c.png", "here/.hidden/d.png", "there/e.gif"):
        (tmp_path / name).touch()
    (tmp_path / "here" / "notes.txt").touch()
    (tmp_path / "here" / "link").symlink_to(tmp_path / "there")
    (tmp_path / "there" / "back").symlink_to(tmp_path / "here")
    with pytest.warns(UserWarning, match=r"here: 1 \.txt, 1 hidden, 1 in \.hidden/$"):
        found = pictures_in(tmp_path / "here")
    assert found == [str(tmp_path / "here" / name) for name in ("a.JPG", "b.png", "link/e.gif")]


def test_no_pictures_in_a_folder(tmp_path):
    with pytest.raises(FolderError, match=r"no picture in the folder. Received: .*"):
        pictures_in(tmp_path)
    with pytest.raises(FolderError, match=r"no such folder of pictures. Received: .*missing"):
        pictures_in(tmp_path / "missing")
