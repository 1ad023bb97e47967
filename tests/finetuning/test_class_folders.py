import numpy as np
import pytest

from nf_zoo.finetuning.class_folders import (
    FolderError,
    find_splits,
    pictures_in,
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
    assert found.ignored == {}


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


def test_labels_keep_their_order_and_may_lack_a_folder(tmp_path):
    found = scan(touch(tmp_path, "cat/1.png", "ant/1.png"), labels=["cat", "dog", "ant"])
    assert found.labels == ("cat", "dog", "ant")
    assert found.files == ("cat/1.png", "ant/1.png")
    assert found.classes.tolist() == [0, 2]


def test_unknown_class_folder_names_the_differences(tmp_path):
    touch(tmp_path, "cat/1.png", "eel/1.png")
    with pytest.raises(FolderError, match=r"no label: eel\. Labels without a folder: dog"):
        scan(tmp_path, labels=["cat", "dog"])


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Val"])
def test_split_folders(tmp_path, name):
    touch(
        tmp_path, "train/a/1.png", f"{name}/a/1.png", "test/a/1.png", ".thumbs/1.png", "readme.md"
    )
    splits = find_splits(tmp_path)
    assert splits == {
        "train": tmp_path / "train",
        "validation": tmp_path / name,
        "test": tmp_path / "test",
    }


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


def test_pictures_in_a_folder_hidden_ones_left_out_and_links_followed_once(tmp_path):
    (tmp_path / "here" / ".hidden").mkdir(parents=True)
    (tmp_path / "there").mkdir()
    for name in ("here/b.png", "here/a.JPG", "here/.c.png", "here/.hidden/d.png", "there/e.gif"):
        (tmp_path / name).touch()
    (tmp_path / "here" / "notes.txt").touch()
    (tmp_path / "here" / "link").symlink_to(tmp_path / "there")
    (tmp_path / "there" / "back").symlink_to(tmp_path / "here")
    found = pictures_in(tmp_path / "here")
    assert found == [str(tmp_path / "here" / name) for name in ("a.JPG", "b.png", "link/e.gif")]


def test_no_pictures_in_a_folder(tmp_path):
    with pytest.raises(FolderError, match=r"no picture in the folder. Received: .*"):
        pictures_in(tmp_path)
    with pytest.raises(FolderError, match=r"no such folder of pictures. Received: .*missing"):
        pictures_in(tmp_path / "missing")
