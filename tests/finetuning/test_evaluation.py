import numpy as np
import pytest
import tensorflow as tf

from nf_zoo.finetuning import evaluate
from nf_zoo.finetuning.evaluation import Evaluation, evaluate_pictures, interval, per_class
from nf_zoo.finetuning.picture_sets import DatasetPictures
from nf_zoo.pictures.class_folders import FolderError
from nf_zoo.pictures.images import preprocess

pytestmark = pytest.mark.fast

SIX = tuple("abcdef")


class Oracle:
    """Stands for a classifier: reads its logits off the top row of the picture."""

    labels, num_classes, include_preprocessing, classifier_activation = SIX, 6, True, None

    def __init__(self, preprocessing):
        self.preprocessing = preprocessing

    def predict_on_batch(self, images):
        return np.asarray(images)[:, 0, :6, 0] / 10


@pytest.fixture
def oracle():
    from nf_zoo.pictures.preprocessing import Preprocessing

    return Oracle(Preprocessing(input_size=8, crop_fraction=1.0))


def pictures_of(logits, classes):
    pixels = np.zeros((len(logits), 8, 8, 3), np.uint8)
    pixels[:, 0, :6] = np.array(logits)[..., None]
    classes = np.array(classes, np.int64)
    dataset = tf.data.Dataset.from_tensor_slices((pixels, classes, classes))
    return DatasetPictures(dataset, classes, classes)


LOGITS = [
    [90, 0, 0, 0, 0, 0],
    [0, 80, 0, 0, 0, 0],
    [60, 50, 40, 30, 20, 10],
    [10, 20, 30, 40, 50, 100],
    [0, 0, 0, 0, 0, 70],
]
CLASSES = [0, 1, 4, 0, 5]


def test_counts(oracle):
    metrics = evaluate_pictures(oracle, pictures_of(LOGITS, CLASSES), SIX, 2).metrics()
    assert metrics["accuracy"] == pytest.approx(3 / 5)
    assert metrics["top5_accuracy"] == pytest.approx(4 / 5)
    expected = np.zeros((6, 6), int)
    expected[[0, 1, 4, 0, 5], [0, 1, 0, 5, 5]] = 1
    assert metrics["confusion_matrix"] == expected.tolist()
    scores = np.array(LOGITS) / 10
    log_p = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    assert metrics["cross_entropy"] == pytest.approx(-log_p[range(5), CLASSES].mean())
    assert metrics["pictures"] == 5
    first = metrics["per_class"][0]
    assert first == {"label": "a", "precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2}


def test_answers_that_are_no_numbers_have_no_accuracy():
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="must answer with finite numbers"):
            Evaluation(SIX).add(np.array([[1.0, 0, 0, 0, 0, 0], [bad] * 6]), np.array([0, 0]))


def test_per_class_agrees_with_scikit_learn():
    from sklearn import metrics

    confusion = np.random.default_rng(0).integers(0, 9, (5, 5))
    confusion[2], confusion[:, 3] = 0, 0
    true, predicted = np.repeat(np.argwhere(confusion >= 0), confusion.ravel(), axis=0).T
    theirs = metrics.precision_recall_fscore_support(
        true, predicted, labels=range(5), zero_division=0
    )
    ours = per_class(confusion, tuple("vwxyz"))
    for key, values in zip(("precision", "recall", "f1", "support"), theirs, strict=True):
        np.testing.assert_allclose([row[key] for row in ours], values)


def test_samples_and_worst_mistakes(oracle):
    pictures = pictures_of(LOGITS, CLASSES)
    kept = evaluate_pictures(oracle, pictures, SIX, 2, samples=4, mistakes=1)
    assert len(kept.samples) == 4
    assert [(s.true, s.predicted) for s in kept.mistakes] == [(0, 5)]
    assert kept.mistakes[0].probability > 0.9
    assert not kept.mistakes[0].correct
    assert kept.samples[0].pixels.shape == (8, 8, 3)
    assert evaluate_pictures(oracle, pictures, SIX, 2, mistakes=9).mistakes[1].predicted == 0


def test_evaluate_folder_agrees_with_preprocess_and_predict(shapes, tiny):
    model = tiny(num_classes=3, labels=("bar", "disc", "ring"))
    with pytest.warns(UserWarning, match="broken"):
        metrics = evaluate(model, shapes, batch_size=32)
    paths = [p for p in sorted(shapes.rglob("*.*g")) if p.name != "broken.jpg"]
    logits = model.predict_on_batch(model.preprocess(paths))
    true = [model.labels.index(path.relative_to(shapes).parts[0]) for path in paths]
    confusion = np.zeros((3, 3), int)
    np.add.at(confusion, (true, logits.argmax(1)), 1)
    assert abs(confusion - metrics["confusion_matrix"]).sum() <= 4
    assert metrics["pictures"] == 72
    assert list(metrics["skipped"]) == ["disc/broken.jpg"]
    assert "top5_accuracy" not in metrics


def test_pictures_are_prepared_as_preprocess_does(few, oracle, monkeypatch):
    """To the last bit; the last batch is filled up."""
    seen = []

    def remember(images):
        seen.append(images)
        return np.asarray(images)[:, 0, :6, 0]

    monkeypatch.setattr(oracle, "predict_on_batch", remember)
    monkeypatch.setattr(oracle, "labels", ("bar", "disc", *"abcd"), raising=False)
    metrics = evaluate(oracle, few, batch_size=5)
    paths = [path for label in ("bar", "disc") for path in sorted((few / label).iterdir())]
    np.testing.assert_array_equal(np.concatenate(seen)[:16], preprocess(paths, oracle))
    assert [len(batch) for batch in seen] == [5, 5, 5, 5]
    assert [row["support"] for row in metrics["per_class"][:2]] == [8, 8]


def test_softmax_models_and_own_normalization_give_the_same(few, tiny):
    plain = tiny(num_classes=2, labels=("bar", "disc"))
    softmax = plain.with_classifier(
        2, plain.labels, classifier_activation="softmax", include_preprocessing=True
    )
    softmax.head.set_weights(plain.head.get_weights())
    mine, theirs = evaluate(plain, few), evaluate(softmax, few)
    assert mine["confusion_matrix"] == theirs["confusion_matrix"]
    assert mine["cross_entropy"] == pytest.approx(theirs["cross_entropy"], rel=1e-4)


def test_folders_must_fit_the_labels(few, tiny):
    with pytest.raises(FolderError, match=r"no label: disc\. Labels without a folder: fish"):
        evaluate(tiny(num_classes=2, labels=("bar", "fish")), few)
    with pytest.raises(ValueError, match=r"5 outputs.*Received: 2 classes"):
        evaluate(tiny(num_classes=5), few)
    assert evaluate(tiny(num_classes=2), few)["labels"] == ["bar", "disc"]
    partly = evaluate(tiny(num_classes=3, labels=("bar", "cube", "disc")), few)
    assert [row["support"] for row in partly["per_class"]] == [8, 0, 8]


def test_evaluate_dataset(tiny):
    pixels = np.random.default_rng(0).integers(0, 255, (6, 20, 16, 3), np.uint8)
    dataset = tf.data.Dataset.from_tensor_slices((pixels, [0, 1, 2, 0, 1, 2]))
    metrics = evaluate(tiny(num_classes=3), dataset.batch(4), batch_size=4)
    assert metrics["labels"] == ["0", "1", "2"]
    assert np.sum(metrics["confusion_matrix"], axis=1).tolist() == [2, 2, 2]


def test_nothing_to_evaluate(few, tiny):
    for path in few.rglob("*.*g"):
        path.write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="16 files"),
        pytest.raises(ValueError, match="No picture can be read"),
    ):
        evaluate(tiny(num_classes=2), few)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("right", "pictures", "low", "high"),
    # Newcombe (1998), "Two-sided confidence intervals for the single proportion", table I.
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_intervals_are_the_published_ones(right, pictures, low, high):
    found = interval(right / pictures, pictures)
    assert found == pytest.approx((low, high), abs=6e-5)


@pytest.mark.fast
@pytest.mark.parametrize("pictures", [1, 4, 7, 60, 1000])
def test_an_interval_ends_where_shares_do(pictures):
    assert interval(1.0, pictures)[1] == 1 and interval(0.0, pictures)[0] == 0
