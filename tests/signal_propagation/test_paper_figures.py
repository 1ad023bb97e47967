"""The papers' figures at tiny sizes."""

from __future__ import annotations

import csv

import keras
import numpy as np
import photographs
import pytest

import nf_zoo
from nf_zoo.cli.arguments import FIGURES as NAMES
from nf_zoo.signal_propagation import theory
from nf_zoo.signal_propagation.paper_figures import (
    FIGURES,
    PaperFigure,
    linear_residual_network,
    reproduce,
    write_csv,
)

TINY = {"depth": 2, "width": 16, "pictures": 4, "size": 8}


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    paths = [folder / f"{which}.png" for which in range(2)]
    for which, path in enumerate(paths):
        photographs.photograph(40, 50, which).save(path)
    return paths


def rows_of(path) -> list[dict]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def column(rows, name, network=None) -> np.ndarray:
    return np.array([float(r[name]) for r in rows if network in (None, r["network"])])


def test_the_command_offers_all_figures():
    assert tuple(FIGURES) == NAMES


@pytest.mark.parametrize("name", [name for name in FIGURES if name != "trainable_depth"])
def test_every_figure_is_written_with_its_data(name, tmp_path):
    sizes = TINY if "linear" not in name else {**TINY, "pictures": 50}
    paths = reproduce(name, tmp_path / "new" / "folder", **sizes)
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == sorted(
        f"{name}.{suffix}" for suffix in ("png", "svg", "csv")
    )
    png, svg, data = paths
    assert png.read_bytes()[:4] == b"\x89PNG" and b"</svg>" in svg.read_bytes()[-20:]
    rows = rows_of(data)
    networks = {row["network"] for row in rows}
    stages = 1 if name in list(FIGURES)[:3] else 4
    assert len(rows) == len(networks) * stages * TINY["depth"]
    assert np.isfinite(column(rows, "skip_variance")).all()
    # The curve of the skip path is that of the blocks' outputs, one block later.
    first = [row for row in rows if row["network"] == rows[0]["network"]]
    assert [row["skip_variance"] for row in first[1:]] == [row["variance"] for row in first[:-1]]
    assert [int(row["block"]) for row in first] == list(range(1, len(first) + 1))


@pytest.mark.parametrize("name", ["linear_batch_norm", "norm_free"])
def test_the_seed_decides_the_data(name, tmp_path):
    def data(seed, folder):
        return reproduce(name, tmp_path / folder, seed=seed, **TINY)[2].read_bytes()

    assert data(3, "a") == data(3, "b") != data(4, "c")


def test_the_variance_of_a_linear_network_doubles():
    (network,) = FIGURES["linear"](depth=8, width=300, pictures=300).networks
    variances = [variance for _, variance in network.skip]
    np.testing.assert_allclose(variances, network.skip_theory, rtol=0.15)
    assert network.skip_theory == [1, 2, 4, 8, 16, 32, 64, 128]
    branches = [block.residual_variance for block in network.result]
    np.testing.assert_allclose(branches, network.residual_theory, rtol=0.15)


def test_with_batch_norm_it_grows_by_one():
    (network,) = FIGURES["linear_batch_norm"](depth=12, width=300, pictures=300).networks
    variances = [variance for _, variance in network.skip]
    np.testing.assert_allclose(variances, range(1, 13), rtol=0.1)
    branches = [block.residual_variance for block in network.result]
    np.testing.assert_allclose(branches, 1, rtol=0.1)
    moving = [block.bn_moving_variance for block in network.result]
    np.testing.assert_allclose(moving, variances, rtol=1e-3)


def test_every_layer_of_a_linear_network_has_weights_of_its_own():
    first, second = linear_residual_network(2, 8, seed=1).weights
    assert np.abs(keras.ops.convert_to_numpy(first - second)).max() > 0.1
    again = linear_residual_network(2, 8, seed=1).weights[1]
    np.testing.assert_array_equal(second, again)
    with pytest.raises(ValueError, match="depth must be a positive integer"):
        linear_residual_network(0, 8)


def test_zeros_at_the_border_take_from_the_mean_square():
    sizes = {"depth": 6, "width": 32, "pictures": 16, "size": 8}
    zeros, circular = FIGURES["convolutional_batch_norm"](**sizes).networks

    def slope(network):
        first, last = (sum(network.skip[index]) for index in (0, -1))
        return (last - first) / (len(network.skip) - 1)

    left = theory.border_factor((8, 8), 3)
    assert left == pytest.approx(0.84, abs=0.01)
    assert slope(zeros) / slope(circular) == pytest.approx(left, abs=0.08)
    branches = [block.residual_variance for block in circular.result]
    assert np.mean(branches) == pytest.approx(1 - 1 / np.pi, rel=0.1)


def test_the_order_of_batch_norm_and_relu():
    before, after = FIGURES["bn_order"](depth=4, width=32, pictures=16, size=16).networks
    for network, branch in ((before, 1 - 1 / np.pi), (after, 1.0)):
        measured = [block.residual_variance for block in network.result]
        assert np.mean(measured) == pytest.approx(branch, rel=0.1)
        found = [block.variance for block in network.result]
        expected = [block.predicted_variance for block in network.result]
        np.testing.assert_allclose(found, expected, rtol=0.35)
        # A projection starts afresh.
        assert found[4] < found[3]
    assert before.result[3].squared_mean > 5 * after.result[3].squared_mean


def test_standardized_convolutions_follow_the_ledger_and_plain_ones_do_not():
    networks = FIGURES["norm_free"](depth=2, width=64, pictures=4, size=32).networks
    assert [network.label for network in networks] == [
        f"{activation}, {kind}"
        for activation in ("ReLU", "SiLU")
        for kind in ("He convolutions", "standardized")
    ]
    for plain, standardized in (networks[:2], networks[2:]):
        assert plain.result[0].predicted_variance is None
        # The later stages have maps too small for statistics.
        found = [block.variance for block in standardized.result[:4]]
        expected = [block.predicted_variance for block in standardized.result[:4]]
        np.testing.assert_allclose(found, expected, rtol=0.2)
        assert plain.result[3].squared_mean > 3 * standardized.result[3].squared_mean


def test_skipinit_and_fixup_start_as_the_identity():
    _, zero, small, fixup = FIGURES["skipinit_fixup"](**TINY).networks
    for network in (zero, fixup):
        inside_a_stage = [network.result[index].variance for index in (2, 3)]
        assert inside_a_stage[0] == pytest.approx(inside_a_stage[1], rel=1e-5)
    assert all(block.residual_variance == 0 for block in fixup.result)
    assert all(block.residual_variance > 0 for block in zero.result)
    assert small.result[3].variance != pytest.approx(small.result[2].variance, rel=1e-3)


def test_pictures(pictures):
    sizes = {"depth": 1, "width": 8, "size": 12}
    figure = FIGURES["convolutional_batch_norm"](images=pictures, pictures=5, **sizes)
    assert "2 real pictures of 12 x 12" in figure.title
    assert {(n.result.inputs, n.result.pictures) for n in figure.networks} == {("images", 2)}
    expected = nf_zoo.preprocess(
        pictures[:1], nf_zoo.Preprocessing(input_size=12, crop_fraction=1.0)
    )
    one = FIGURES["convolutional_batch_norm"](images=pictures, pictures=1, **sizes)
    again = FIGURES["convolutional_batch_norm"](images=pictures[:1], pictures=9, **sizes)
    assert expected.shape == (1, 12, 12, 3)
    assert one.networks[0].result.blocks == again.networks[0].result.blocks


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("lines", {}, "figure must be one of linear, .* Received: lines"),
        ("linear", {"depth": 0}, "depth must be a positive integer. Received: 0"),
        ("linear", {"breadth": 3}, "Received: breadth"),
        ("linear", {"images": ["a.png"]}, "takes no pictures"),
        ("bn_order", {"images": []}, "no pictures"),
    ],
)
def test_what_cannot_be_drawn(name, options, match, tmp_path):
    with pytest.raises(ValueError, match=match):
        reproduce(name, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_a_file_is_refused_before_measuring(tmp_path, monkeypatch):
    monkeypatch.setitem(FIGURES, "linear", lambda **_: pytest.fail("measured all the same"))
    (tmp_path / "file").write_text("kept")
    for output in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OSError, match="must be a writable folder"):
            reproduce("linear", output)
    assert (tmp_path / "file").read_text() == "kept"


def test_a_csv_cut_short_leaves_the_old_one(tmp_path, monkeypatch):
    figure = FIGURES["linear"](depth=2, width=4, pictures=8)
    path = write_csv(figure, tmp_path / "a.csv")
    before = path.read_bytes()

    def broken(self):
        yield from [{"network": "a"}]
        raise KeyboardInterrupt

    monkeypatch.setattr(type(figure.networks[0]), "rows", broken)
    with pytest.raises(KeyboardInterrupt):
        write_csv(PaperFigure("", figure.networks), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.csv"]
