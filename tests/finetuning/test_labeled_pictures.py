import sys
import types
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from nf_zoo.finetuning import labeled_pictures, picture_sets
from nf_zoo.finetuning.labeled_pictures import open_one
from nf_zoo.finetuning.settings import Settings
from nf_zoo.pictures.class_folders import FolderError

pytestmark = pytest.mark.fast


def open_data(data, **options):
    return labeled_pictures.open_data(data, Settings(**options))


def read(pictures):
    return [(pixels(), index) for pixels, index in pictures.in_order()]


def toy_dataset(count=20, classes=2, side=6):
    pixels = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, side, side, 3))
    return pixels.astype(np.uint8), np.arange(count) % classes


def test_corrupt_file_is_named_counted_and_skipped(shapes):
    with pytest.warns(UserWarning, match=r"1 file of .* skipped: disc/broken.jpg \(ValueError: "):
        opened = open_data(shapes)
    assert list(opened.skipped) == ["disc/broken.jpg"]
    assert opened.labels == ("bar", "disc", "ring")
    assert opened.ignored == {".txt": 1}
    assert opened.counts() == {"train": 57, "validation": 15, "skipped": 1}
    names = [*opened.train.names, *opened.validation.names]
    assert len(set(names)) == 72
    assert "ring/more/000.jpg" in names
    assert "disc/broken.jpg" not in names


def test_strict_refuses_corrupt_files(shapes):
    with pytest.raises(FolderError, match=r"strict=True allows none: disc/broken\.jpg"):
        open_data(shapes, strict=True)


def test_truncated_picture_is_corrupt(few):
    whole = (few / "bar" / "000.jpg").read_bytes()
    (few / "bar" / "000.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.warns(UserWarning, match="bar/000.jpg"):
        assert list(open_data(few).skipped) == ["bar/000.jpg"]


def test_wrong_suffix_is_read_all_the_same(few):
    (few / "bar" / "001.png").rename(few / "bar" / "png_inside.jpg")
    Image.new("L", (9, 7), 77).save(few / "disc" / "gray.gif")
    opened = open_data(few)
    assert not opened.skipped
    index = opened.train.names.index("disc/gray.gif")
    pixels, picture_class = read(opened.train)[index]
    assert pixels.shape == (7, 9, 3)
    assert pixels.min() == pixels.max() == 77
    assert picture_class == 1


def test_class_with_only_corrupt_pictures_is_an_error(few):
    for path in (few / "bar").iterdir():
        path.write_bytes(b"broken")
    with (
        pytest.warns(UserWarning, match="8 files"),
        pytest.raises(FolderError, match="1 of 2 classes have no readable training picture: bar"),
    ):
        open_data(few)


def test_class_of_one_picture_is_trained_on(few):
    for path in sorted((few / "bar").iterdir())[1:]:
        path.unlink()
    with pytest.warns(UserWarning, match="cannot be validated: bar"):
        opened = open_data(few)
    assert np.bincount(opened.train.classes).tolist() == [1, 6]
    assert np.bincount(opened.validation.classes, minlength=2).tolist() == [0, 2]


def test_split_folders_are_used_as_they_are(tmp_path, write_shapes):
    write_shapes(tmp_path / "train", {"bar": 4, "disc": 3})
    write_shapes(tmp_path / "val", {"bar": 2, "disc": 2})
    write_shapes(tmp_path / "test", {"disc": 5})
    (tmp_path / "val" / "bar" / "bad.png").write_bytes(b"")
    with pytest.warns(UserWarning, match="bad.png"):
        opened = open_data(tmp_path)
    assert opened.counts() == {"train": 7, "validation": 4, "test": 5, "skipped": 1}
    assert list(opened.skipped) == ["validation/bar/bad.png"]
    assert set(opened.test.classes) == {1}


def test_test_folder_is_not_held_out_from(tmp_path, write_shapes):
    write_shapes(tmp_path / "train", {"bar": 10, "disc": 10})
    write_shapes(tmp_path / "test", {"bar": 2, "disc": 2})
    opened = open_data(tmp_path)
    assert opened.counts() == {"train": 16, "validation": 4, "test": 4, "skipped": 0}


def test_validation_folder_given_apart(tmp_path, few, write_shapes):
    write_shapes(tmp_path / "more", {"bar": 2, "disc": 1})
    opened = open_data(few, validation_data=tmp_path / "more")
    assert (len(opened.train), len(opened.validation)) == (16, 3)
    write_shapes(tmp_path / "other", {"bar": 2, "ring": 1})
    with pytest.raises(FolderError, match="no label: ring"):
        open_data(few, validation_data=tmp_path / "other")


def test_folder_without_train(tmp_path, write_shapes):
    write_shapes(tmp_path / "test", {"bar": 2, "disc": 2})
    with pytest.raises(FolderError, match="no train/ folder"):
        open_data(tmp_path)


def test_fraction_and_labels_are_checked(few):
    with pytest.raises(ValueError, match="validation_fraction must be between"):
        open_data(few, validation_fraction=0.0)
    with pytest.raises(ValueError, match="leave labels out"):
        open_data(few, labels=["a", "b"])


def test_pictures_are_read_again_where_they_do_not_fit_in_memory(few, monkeypatch):
    cached = read(open_data(few).train)
    monkeypatch.setattr(picture_sets, "CACHE_BYTES", 5000)
    opened = open_data(few)
    assert opened.train._cache == {}
    for (mine, _), (theirs, _) in zip(read(opened.train), cached, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    (few / opened.train.names[0]).unlink()
    with pytest.raises(RuntimeError, match="can no longer be read"):
        read(opened.train)


def test_dataset_one_by_one_or_in_batches():
    pixels, classes = toy_dataset()
    dataset = tf.data.Dataset.from_tensor_slices((pixels, classes))
    for form in (dataset, dataset.batch(7), dataset.map(lambda x, y: (x, tf.one_hot(y, 2)))):
        opened = open_data(form, labels=["even", "odd"])
        assert opened.labels == ("even", "odd")
        assert opened.counts() == {"train": 16, "validation": 4, "skipped": 0}
        seen = read(opened.train) + read(opened.validation)
        assert sorted(int(x[0, 0, 0]) for x, _ in seen) == list(range(20))
        assert all(x.dtype == np.uint8 and x[0, 0, 0] % 2 == y for x, y in seen)


def test_dataset_labels_default_to_numbers_and_floats_are_rounded():
    pixels, classes = toy_dataset()
    gray = pixels[..., :1].astype(np.float32) + 0.4
    opened = open_data(tf.data.Dataset.from_tensor_slices((gray, classes)))
    assert opened.labels == ("0", "1")
    first = read(opened.train)[0][0]
    assert first.shape == (6, 6, 3)
    assert first.max() == int(first.max())


@pytest.mark.parametrize(
    ("change", "labels", "message"),
    [
        (lambda x, y: (x / 255, y), None, "Pixels must run from 0 to 255"),
        (lambda x, y: (tf.cast(x, tf.float32) - 128, y), None, "Pixels must run from 0 to 255"),
        (lambda x, y: (x, y), ["one"], "Classes must be 0..0"),
        (lambda x, y: (x, y * 0), None, "two classes or more"),
        (lambda x, y: (x, y - 1), None, "must have one class.*for the pictures 0, 2, 4"),
        (lambda x, y: (x, tf.stack([y, 1])), None, "must have one class.*for the pictures 1, 3"),
        (lambda x, y: (x, tf.zeros(2)), None, "must have one class.*for the pictures 0, 1"),
        (
            lambda x, y: (tf.cast(x, tf.float32) + tf.where(y == 1, np.nan, 0), y),
            None,
            "Pixels must run from 0 to 255",
        ),
    ],
)
def test_datasets_that_cannot_be_meant(change, labels, message):
    dataset = tf.data.Dataset.from_tensor_slices(toy_dataset()).map(change)
    with pytest.raises(ValueError, match=message):
        open_data(dataset, labels=labels)


def test_datasets_of_the_wrong_form():
    pixels, classes = toy_dataset()
    dataset = tf.data.Dataset.from_tensor_slices((pixels, classes))
    with pytest.raises(TypeError, match="must yield"):
        open_data(dataset.map(lambda x, y: {"image": x, "label": y}))
    with pytest.raises(TypeError, match=r"must be \(height, width, 3\)"):
        open_data(dataset.map(lambda x, y: (x[0], y)))
    with pytest.raises(TypeError, match="integers or one-hot"):
        open_data(dataset.map(lambda x, y: (x, tf.cast(y, tf.float32))))
    with pytest.raises(ValueError, match="never ends"):
        open_data(dataset.repeat())
    with pytest.raises(ValueError, match="is empty"):
        open_data(dataset.take(0))


def test_unstable_dataset_would_leak_and_is_refused():
    dataset = tf.data.Dataset.from_tensor_slices(toy_dataset(64)).shuffle(64, seed=1)
    with pytest.raises(ValueError, match="a different order each time"):
        open_data(dataset)
    opened = open_data(dataset, validation_data=dataset.take(8))
    assert (len(opened.train), len(opened.validation)) == (64, 8)


def test_a_data_set_that_shuffles_within_each_class_is_refused_too():
    pixels, classes = toy_dataset(64)
    even, odd = (
        tf.data.Dataset.from_tensor_slices((pixels[classes == one], classes[classes == one]))
        for one in (0, 1)
    )
    with pytest.raises(ValueError, match=r"a different order each time.*another picture in place"):
        open_data(even.shuffle(32, seed=1).concatenate(odd))


def test_a_data_set_that_changes_after_it_was_split_is_noticed():
    pixels, classes = toy_dataset(20)
    shift = tf.Variable(0, dtype=tf.int64)
    dataset = tf.data.Dataset.range(20).map(lambda i: (i + shift) % 20)
    opened = open_data(dataset.map(lambda i: (tf.gather(pixels, i), tf.gather(classes, i))))
    assert len(read(opened.train)) == 16
    shift.assign(2)  # the same classes in the same order
    for part in (opened.train, opened.validation):
        with pytest.raises(ValueError, match="another picture in place 0"):
            read(part)


@pytest.mark.parametrize("global_seed", [None, 0, 7])
def test_the_order_is_that_of_the_seed_alone(global_seed):
    opened = open_data(tf.data.Dataset.from_tensor_slices(toy_dataset(64)))
    try:
        tf.random.set_seed(global_seed)
        orders = [order_of(opened.train, epoch) for epoch in (0, 1)]
    finally:
        tf.random.set_seed(None)
    assert orders == [order_of(opened.train, epoch) for epoch in (0, 1)]
    assert sorted(orders[0]) == sorted(orders[1]) != orders[0] != orders[1]


def order_of(pictures, epoch):
    return [int(read().flat[0]) for read, _ in pictures.shuffled(epoch, seed=3)]


def test_tensorflow_datasets_by_name(monkeypatch):
    pixels, classes = toy_dataset()
    whole = tf.data.Dataset.from_tensor_slices((pixels, classes))
    module = types.ModuleType("tensorflow_datasets")
    names = types.SimpleNamespace(names=["even", "odd"])
    # Not every data set calls its classes "label", and some have a test split without classes.
    info = types.SimpleNamespace(
        features={"kind": names, "label": None}, supervised_keys=("image", "kind")
    )
    asked, unlabeled = [], whole.take(6).map(lambda pixels, _: (pixels, tf.constant(-1, tf.int64)))

    def load(name, as_supervised, with_info):
        asked.append((name, as_supervised, with_info))
        parts = {"parity": {"test": whole.take(6)}, "split": {"val": whole.take(6)}}
        return {"train": whole, **parts.get(name, {"test": unlabeled})}, info

    module.load = load
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", module)
    opened = open_data("tfds:parity")
    assert asked == [("parity", True, True)]
    assert opened.labels == ("even", "odd")
    assert opened.counts() == {"train": 16, "validation": 4, "test": 6, "skipped": 0}
    assert open_data("tfds:split").counts() == {"train": 20, "validation": 6, "skipped": 0}
    with pytest.warns(UserWarning, match=r"test split is ignored. Every picture must have one"):
        opened = open_data("tfds:blind")
    assert opened.counts() == {"train": 16, "validation": 4, "skipped": 0}
    assert opened.ignored == {"in test, without a class": 6}


def test_classes_in_a_dict_are_refused_in_words():
    pixels, classes = toy_dataset()
    dataset = tf.data.Dataset.from_tensor_slices((pixels, {"label": classes}))
    with pytest.raises(TypeError, match=r"must yield \(picture, class\)"):
        open_data(dataset)


def test_absent_tensorflow_datasets_is_one_helpful_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ImportError, match=r"tfds:cifar10.*pip install .*\[training\]"):
        open_data("tfds:cifar10")


def test_evaluation_takes_the_test_folder(tmp_path, write_shapes):
    write_shapes(tmp_path / "train", {"bar": 3, "disc": 3})
    write_shapes(tmp_path / "val", {"bar": 2, "disc": 2})
    assert len(open_one(tmp_path, ("bar", "disc"))[0]) == 4
    write_shapes(tmp_path / "test", {"bar": 1})
    assert len(open_one(tmp_path, ("bar", "disc"))[0]) == 1


def test_an_unlabeled_test_folder_is_left_out_and_counted(tmp_path, write_shapes):
    write_shapes(tmp_path / "Training", {"bar": 4, "disc": 4})
    write_shapes(tmp_path / "val", {"bar": 2, "disc": 3}, seed=1)
    write_shapes(tmp_path / "flat", {"bar": 3})
    (tmp_path / "flat" / "bar").rename(tmp_path / "Testing")
    (tmp_path / "flat").rmdir()
    for _ in range(2):
        with pytest.warns(
            UserWarning, match="Testing does not have a folder for each class.*ignored: 3"
        ):
            opened = open_data(tmp_path)
        assert opened.counts() == {"train": 8, "validation": 5, "skipped": 0}
        assert opened.ignored == {"in Testing/, without a class": 3}
        with pytest.warns(UserWarning, match="does not have a folder for each class"):
            assert len(open_one(tmp_path, ("bar", "disc"))[0]) == 5
        # The same where the pictures lie in one more folder.
        if not (tmp_path / "Testing" / "all").exists():
            (tmp_path / "Testing").rename(tmp_path / "all")
            (tmp_path / "Testing").mkdir()
            (tmp_path / "all").rename(tmp_path / "Testing" / "all")


def test_classes_and_counts_in_words(few):
    words = open_data(few).in_words()
    assert words == "2 classes: bar 8, disc 8\npictures: 12 train, 4 validation"


def pandas_column(values):
    return pytest.importorskip("pandas", reason="not a requirement of ours").Series(values)


def test_lists_of_paths_and_class_names(few, monkeypatch):
    monkeypatch.chdir(few.parent)
    paths = sorted(few.rglob("*.*"))
    names = [path.parent.name for path in paths]
    (few / "bar" / "000.jpg").write_bytes(b"broken")
    with pytest.warns(UserWarning, match="1 file of"):
        opened = open_data((paths, names))
    assert opened.labels == ("bar", "disc")
    assert opened.counts() == {"train": 12, "validation": 3, "skipped": 1}
    for pixels, index in read(opened.validation):
        assert pixels[..., index].max() > 150
    relative = [str(path.relative_to(few.parent)) for path in paths]
    again = open_data((relative, [int(name == "disc") for name in names]), labels=["x", "y"])
    assert again.labels == ("x", "y")
    with pytest.raises(FolderError, match="allows none"):
        open_data([relative, names], strict=True)
    with (
        pytest.warns(UserWarning, match="2 files of"),
        pytest.raises(
            FolderError, match=r"No training picture.*2 files, such as no\.png, nor\.png"
        ),
    ):
        open_data((["no.png", "nor.png"], ["a", "b"]))


@pytest.mark.parametrize("form", [np.array, lambda x: np.array(x, object), pandas_column])
def test_columns_of_a_table(form, few):
    paths = sorted(map(str, few.rglob("*.*")))
    names = [Path(path).parent.name for path in paths]
    opened = open_data((form(paths), form(names)))
    assert opened.labels == ("bar", "disc") and sum(opened.counts().values()) == len(paths)
    numbers = form([float(name == "disc") for name in names])
    assert open_data((paths, numbers)).train.classes.tolist() == opened.train.classes.tolist()


def test_class_numbers_from_one(few):
    paths = sorted(few.rglob("*.*"))
    with pytest.raises(FolderError, match=r"1 of 3 classes .*\(classes are counted from 0\): 0"):
        open_data((paths, [1 + (path.parent.name == "disc") for path in paths]))


def test_arrays_and_class_indices():
    pixels, classes = toy_dataset(20)
    for targets in (classes, np.eye(2)[classes], [["even", "odd"][i] for i in classes]):
        opened = open_data((pixels, targets), labels=["even", "odd"])
        assert opened.labels == ("even", "odd")
        assert opened.counts() == {"train": 16, "validation": 4, "skipped": 0}
        seen = read(opened.train) + read(opened.validation)
        assert sorted(int(x[0, 0, 0]) for x, _ in seen) == list(range(20))
        assert all(x.shape == (6, 6, 3) and x[0, 0, 0] % 2 == y for x, y in seen)
    sizes = [np.full((4 + i, 9), 10 * i, np.uint8) for i in range(6)]
    opened = open_data((sizes, [0, 1] * 3), validation_data=(pixels, classes))
    assert opened.counts() == {"train": 6, "validation": 20, "skipped": 0}


@pytest.mark.parametrize(
    ("targets", "labels", "message"),
    [
        ([0, 1], None, "one class for each picture.*20 pictures and 2 classes"),
        ([0.5] * 20, None, "names, integers or one-hot rows"),
        (["a", "b"] * 10, ["a", "c"], "among the 2 labels, a, c. Received: b"),
        ([0, 2] * 10, ["a", "b"], r"must be 0\.\.1"),
        ([0] * 20, None, "two classes or more"),
        (["a", "b\nc"] * 10, None, "text of one line"),
        (np.array(["a", np.nan] * 10, object), None, "must have one class.*for the pictures 1, 3"),
        (np.array(["a", 1] * 10, object), None, "must have one class.*for the pictures 1, 3"),
        ([[1, 0], [1, 1]] * 10, None, "must have one class.*for the pictures 1, 3"),
        ([[0, 0], [0, 1]] * 10, None, "must have one class.*for the pictures 0, 2"),
    ],
)
def test_classes_that_do_not_suit_the_pictures(targets, labels, message):
    with pytest.raises((ValueError, TypeError), match=message):
        open_data((toy_dataset(20)[0], targets), labels=labels)


def test_names_of_classes_may_be_bytes():
    names = np.array(["blé".encode(), b"riz"] * 10)
    for targets in (names, names.astype(object)):
        assert open_data((toy_dataset(20)[0], targets)).labels == ("blé", "riz")


@pytest.mark.parametrize("mode", ["int", "categorical", "binary"])
def test_class_names_of_a_folder_read_by_keras(few, mode):
    from keras.utils import image_dataset_from_directory

    form = {"label_mode": mode, "image_size": (20, 20), "verbose": False}
    dataset = image_dataset_from_directory(few, shuffle=False, **form)
    opened = open_data(dataset)
    assert opened.labels == ("bar", "disc")
    assert np.bincount(opened.train.classes).tolist() == [6, 6]
    # A model's own order of labels holds.
    pictures, labels, *_ = open_one(dataset, ("disc", "bar"))
    assert labels == ("disc", "bar")
    assert pictures.classes.tolist() == [1] * 8 + [0] * 8
    assert [index for _, index in read(pictures)] == pictures.classes.tolist()
    with pytest.raises(ValueError, match="class_names must be among the labels, bar, ring"):
        open_one(dataset, ("bar", "ring"))


def test_labels_of_a_data_set_are_one_line_each():
    dataset = tf.data.Dataset.from_tensor_slices(toy_dataset())
    with pytest.raises(FolderError, match="text of one line"):
        open_data(dataset, labels=["a", "b\n"])


def test_copies_in_a_data_set_stay_on_one_side():
    pixels, classes = toy_dataset(40)
    pixels[20:] = pixels[:20]
    with pytest.warns(UserWarning, match="40 of 40 pictures have the same pixels"):
        opened = open_data(tf.data.Dataset.from_tensor_slices((pixels, classes)))
    train, validation = (
        {int(x[0, 0, 0]) for x, _ in read(part)} for part in (opened.train, opened.validation)
    )
    assert not train & validation and len(train | validation) == 20
