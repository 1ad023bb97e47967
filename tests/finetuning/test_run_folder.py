import contextlib
import json

import keras
import numpy as np
import pytest

from nf_zoo import atomic
from nf_zoo.finetuning.run_folder import RunFolder

DESCRIPTION = {"settings": {"epochs": 3, "image_size": (8, 8)}, "pictures": {"train": "abc"}}


def write(path):
    (path / "model.keras").touch()
    (path / "report.json").write_text(json.dumps({"run": DESCRIPTION}))


def finished(output):
    folder = RunFolder(output)
    folder.begin(DESCRIPTION)
    folder.finish(write)
    return folder


def begun(output, description=DESCRIPTION, **how):
    """A run with one checkpoint."""
    folder = RunFolder(output, **how)
    folder.begin(description)
    (folder.partial / "epoch-00001").mkdir()
    (folder.partial / "epoch-00001" / "state.json").write_text('{"epoch": 1}')


def resumed(output):
    folder = RunFolder(output, resume=True)
    folder.begin(DESCRIPTION)
    return folder


def network():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9, use_ema=True), "mse")
    return model


@pytest.mark.fast
def test_output_appears_only_when_everything_is_written(tmp_path):
    folder = RunFolder(tmp_path / "deep" / "out")
    folder.begin(DESCRIPTION)

    def fails(path):
        write(path)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        folder.finish(fails)
    assert not folder.output.exists()
    folder.finish(write)
    assert (folder.output / "report.json").exists()
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["out"]


@pytest.mark.fast
@pytest.mark.parametrize("how", [{}, {"overwrite": True}, {"resume": True}], ids=str)
def test_a_report_alone_makes_no_run(how, tmp_path):
    (tmp_path / "report.json").write_text('{"accuracy": 0.5}')
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(FileExistsError, match="is not the folder of a fine-tuning run"):
        RunFolder(tmp_path, **how)


@pytest.mark.fast
def test_finished_run_is_refused_replaced_or_accepted(tmp_path):
    finished(tmp_path / "out")
    with pytest.raises(FileExistsError, match=r"holds a finished run.*overwrite=True"):
        RunFolder(tmp_path / "out")
    assert RunFolder(tmp_path / "out", resume=True).finished
    folder = RunFolder(tmp_path / "out", overwrite=True)
    folder.begin({"settings": {"epochs": 4}})
    assert (tmp_path / "out" / "report.json").exists(), "kept until the new one is complete"
    folder.finish(lambda path: (path / "report.json").write_text("{}"))
    assert (tmp_path / "out" / "report.json").read_text() == "{}"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.fast
def test_foreign_folders_and_files_are_left_alone(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("x")
    for name in ("home", "file"):
        for how in ({}, {"overwrite": True}, {"resume": True}):
            with pytest.raises(FileExistsError, match="not the folder of a fine-tuning run"):
                RunFolder(tmp_path / name, **how)
    assert (tmp_path / "home" / "thesis.txt").exists()


@pytest.mark.fast
def test_foreign_folder_in_place_of_the_partial_one_is_left_alone(tmp_path):
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "thesis.txt").write_text("years of work")
    for how in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(FileExistsError, match="holds something else"):
            RunFolder(tmp_path / "out", **how)


@pytest.mark.fast
def test_empty_folder_may_be_filled(tmp_path):
    (tmp_path / "out").mkdir()
    assert (finished(tmp_path / "out").output / "report.json").exists()


@pytest.mark.fast
def test_unfinished_run_is_refused_resumed_or_discarded(tmp_path):
    begun(tmp_path / "out")
    with pytest.raises(FileExistsError, match=r"unfinished run.*resume=True"):
        RunFolder(tmp_path / "out")
    RunFolder(tmp_path / "out", resume=True).begin(DESCRIPTION)
    other = {**DESCRIPTION, "settings": {"epochs": 5, "image_size": (8, 8)}}
    with pytest.raises(ValueError, match="settings epochs: 3 then, 5 now"):
        RunFolder(tmp_path / "out", resume=True).begin(other)
    begun(tmp_path / "out", other, overwrite=True)
    RunFolder(tmp_path / "out", resume=True).begin(other)


@pytest.mark.fast
def test_run_without_a_checkpoint_does_not_stand_in_the_way(tmp_path):
    RunFolder(tmp_path / "out").begin(DESCRIPTION)
    folder = RunFolder(tmp_path / "out")
    folder.begin({"settings": {"epochs": 9}})
    folder.finish(write)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.fast
def test_resume_with_nothing_there_starts(tmp_path):
    folder = resumed(tmp_path / "out")
    assert folder.latest() is None
    assert not folder.finished


@pytest.mark.fast
def test_resumed_finished_run_must_be_the_same(tmp_path):
    finished(tmp_path / "out")
    RunFolder(tmp_path / "out", resume=True).begin(DESCRIPTION)
    with pytest.raises(ValueError, match="pictures train: 'abc' then, 'abd' now"):
        RunFolder(tmp_path / "out", resume=True).begin(
            {**DESCRIPTION, "pictures": {"train": "abd"}}
        )


@pytest.mark.fast
def test_killed_while_replacing_goes_on_replacing(tmp_path):
    finished(tmp_path / "out")
    begun(tmp_path / "out", {"settings": 2}, overwrite=True)
    folder = RunFolder(tmp_path / "out", resume=True)
    assert not folder.finished
    folder.begin({"settings": 2})
    folder.finish(lambda path: (path / "report.json").write_text("new"))
    assert (tmp_path / "out" / "report.json").read_text() == "new"


@pytest.mark.fast
@pytest.mark.parametrize("resume", [False, True])
def test_killed_after_the_delivery_it_is_a_finished_run(tmp_path, monkeypatch, resume):
    def killed(folder):
        raise KeyboardInterrupt

    finished(tmp_path / "out")
    begun(tmp_path / "out", overwrite=True)
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "_remove", killed)
        folder = resumed(tmp_path / "out")
        with pytest.raises(KeyboardInterrupt):
            folder.finish(write)
    assert folder.partial.exists()
    if resume:
        assert RunFolder(tmp_path / "out", resume=True).finished
    else:
        with pytest.raises(FileExistsError, match="holds a finished run"):
            RunFolder(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.fast
def test_killed_while_it_began_another_may_begin(tmp_path):
    (tmp_path / "out.partial" / ".nf_zoo-abc").mkdir(parents=True)
    begun(tmp_path / "out")


@pytest.mark.parametrize("how", ["overwrite", "resume", None])
def test_no_run_goes_on_beside_another(tmp_path, how):
    given = {how: True} if how else {}
    first, second = RunFolder(tmp_path / "out"), RunFolder(tmp_path / "out", **given)
    first.begin(DESCRIPTION)
    model = network()
    first.save(model, {"epoch": 1})
    with pytest.raises(BlockingIOError, match="Another run is writing to this folder"):
        second.begin(DESCRIPTION)
    first.save(model, {"epoch": 2})
    first.close()
    again = resumed(tmp_path / "out")
    assert again.latest().state == {"epoch": 2}


@contextlib.contextmanager
def no_locks(folder):
    yield


def test_of_two_runs_in_one_folder_the_first_ends_where_there_are_no_locks(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "alone_in", no_locks)
    first, second = RunFolder(tmp_path / "out"), RunFolder(tmp_path / "out")
    first.begin(DESCRIPTION)
    second.begin({"settings": 2})  # the first has nothing to lose yet
    model = network()
    with pytest.raises(RuntimeError, match="Another run has begun in the same folder"):
        first.save(model, {"epoch": 1})
    with pytest.raises(RuntimeError, match="give each run an output of its own"):
        first.finish(write)
    assert second.latest() is None and not (tmp_path / "out").exists()
    second.save(model, {"epoch": 1})
    again = RunFolder(tmp_path / "out", resume=True)
    again.begin({"settings": 2})
    again.save(model, {"epoch": 2})
    assert again.latest().state == {"epoch": 2}


@pytest.mark.fast
def test_a_link_stays_one(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    finished(tmp_path / "out")
    RunFolder(tmp_path / "out", overwrite=True)
    assert (tmp_path / "out").is_symlink() and (tmp_path / "disk" / "report.json").is_file()


@pytest.mark.fast
def test_contradictions(tmp_path):
    with pytest.raises(ValueError, match="exclude each other"):
        RunFolder(tmp_path / "out", resume=True, overwrite=True)
    with pytest.raises(ValueError, match="needs the output folder"):
        RunFolder(None, resume=True)
    with pytest.raises(ValueError, match=r"output must be a new folder\. Received: output='/'"):
        RunFolder("/")


@pytest.mark.fast
def test_a_place_where_no_folder_can_be_made(tmp_path):
    (tmp_path / "file").touch()
    folder = RunFolder(tmp_path / "file" / "out")
    with pytest.raises(NotADirectoryError, match=r"output cannot be made there.*Choose another"):
        folder.begin({})


@pytest.mark.fast
def test_without_output_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = RunFolder(None)
    folder.begin(DESCRIPTION)
    folder.save(None, {"epoch": 1})
    folder.finish(write)
    assert folder.latest() is None
    assert list(tmp_path.iterdir()) == []


def test_checkpoint_restores_weights_optimizer_and_best(tmp_path):
    folder, model = RunFolder(tmp_path / "out"), network()
    folder.begin(DESCRIPTION)
    x, y = np.ones((4, 3), "float32"), np.ones((4, 2), "float32")
    for epoch in (1, 2):
        model.train_on_batch(x, y)
        folder.save(model, {"epoch": epoch, "history": [0.1]}, best=model.get_weights())
    assert len(list(folder.partial.glob("epoch-*"))) == 1
    checkpoint, other = RunFolder(tmp_path / "out", resume=True).latest(), network()
    assert checkpoint.state == {"epoch": 2, "history": [0.1]}
    checkpoint.restore(other)
    for mine, theirs in zip(model.variables, other.variables, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    for mine, theirs in zip(model.optimizer.variables, other.optimizer.variables, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    for mine, theirs in zip(model.get_weights(), checkpoint.best_weights(other), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_half_written_checkpoint_does_not_count(tmp_path, monkeypatch):
    folder, model = RunFolder(tmp_path / "out"), network()
    folder.begin(DESCRIPTION)
    folder.save(model, {"epoch": 1})

    def killed(path, *arrays):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", killed)
    with pytest.raises(KeyboardInterrupt):
        folder.save(model, {"epoch": 2})
    assert folder.latest().state == {"epoch": 1}


@pytest.mark.fast
def test_a_full_disk_while_saving_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    folder, model = RunFolder(tmp_path / "out"), network()
    model.build((None, 3))
    folder.begin(DESCRIPTION)
    folder.save(model, {"epoch": 1})

    def full(path, *arrays):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match=r"^No space is left.*Epoch 2 could not.*resume=True goes on"):
        folder.save(model, {"epoch": 2})
    with pytest.raises(OSError, match=r"^No space is left.*resume=True delivers them"):
        folder.finish(lambda path: full(path / "model.keras"))
    assert [path.name for path in folder.partial.glob("*epoch*")] == ["epoch-00001"]
    assert not (folder.partial / "result").exists(), "what it took is free again"
    folder.finish(write)
    assert (folder.output / "report.json").exists()


@pytest.mark.fast
def test_a_failed_run_does_not_stand_in_the_way_of_other_settings(tmp_path):
    other = {**DESCRIPTION, "settings": {"epochs": 3, "learning_rate": 0.01}}
    begun(tmp_path / "out")
    failing = resumed(tmp_path / "out")
    failing.fail()
    failing.close()
    with pytest.raises(ValueError, match="learning_rate"):
        RunFolder(tmp_path / "out", resume=True).begin(other)
    folder = RunFolder(tmp_path / "out")
    folder.begin(other)
    assert folder.latest() is None
    begun(tmp_path / "out2")
    with pytest.raises(FileExistsError, match="unfinished run"):
        RunFolder(tmp_path / "out2")


@pytest.mark.fast
def test_a_failed_run_that_goes_on_counts_again(tmp_path):
    begun(tmp_path / "out")
    failing = resumed(tmp_path / "out")
    failing.fail()
    failing.close()
    again = resumed(tmp_path / "out")
    again.close()
    with pytest.raises(FileExistsError, match="unfinished run"):
        RunFolder(tmp_path / "out")


@pytest.mark.fast
def test_epochs_outlive_a_delivery_that_failed_twice(tmp_path, monkeypatch):
    swap = atomic.swap

    def no_swap(written, path, former):
        if path == tmp_path / "out":
            raise PermissionError("another user's folder")
        swap(written, path, former)

    def full_disk(path):
        raise OSError(28, "No space left on device")

    begun(tmp_path / "out")
    with monkeypatch.context() as patched:
        patched.setattr(atomic, "swap", no_swap)
        first = resumed(tmp_path / "out")
        with pytest.raises(PermissionError):
            first.finish(write)
        first.close()
    second = resumed(tmp_path / "out")
    with pytest.raises(OSError, match="the trained epochs are kept"):
        second.finish(full_disk)
    second.close()
    assert RunFolder(tmp_path / "out", resume=True).latest().state == {"epoch": 1}


def test_the_best_weights_of_every_type_come_back(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, dtype="bfloat16")])
    model.compile("sgd", "mse")
    folder = RunFolder(tmp_path / "out")
    folder.begin(DESCRIPTION)
    best = [weight + 1 for weight in model.get_weights()]
    folder.save(model, {"epoch": 1}, best=best)
    model.set_weights(folder.latest().best_weights(model))
    for mine, theirs in zip(model.get_weights(), best, strict=True):
        np.testing.assert_array_equal(mine.astype("float32"), theirs.astype("float32"))


@pytest.mark.fast
def test_finish_needs_a_run_with_a_complete_epoch(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no run to finish.*Received: output="):
        RunFolder(tmp_path / "out", finish=True)
    begun(tmp_path / "out")
    assert RunFolder(tmp_path / "out", finish=True).latest().state == {"epoch": 1}
    with pytest.raises(ValueError, match="finish and overwrite exclude"):
        RunFolder(tmp_path / "out", finish=True, overwrite=True)


LISTED = [
    ("train", "a/1.png", "a", 10),
    ("train", "b/\udce9.png", "b", 20),
    ("train", "b/3", "b", 3),
]


@pytest.mark.fast
@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize(
    ("now", "told"),
    [
        ([*LISTED, ("train", "b/9.png", "b", 1)], "pictures added: b/9.png$"),
        (LISTED[1:], "pictures removed: a/1.png$"),
        ([("train", "a/1.png", "a", 11), *LISTED[1:]], "pictures changed: a/1.png$"),
        ([("validation", *LISTED[0][1:]), *LISTED[1:]], "pictures in another split: a/1.png$"),
    ],
)
def test_pictures_that_changed_are_named(tmp_path, done, now, told):
    folder = RunFolder(tmp_path / "out")
    folder.begin(DESCRIPTION, LISTED)
    folder.close()
    if done:
        folder.finish(write)
    else:
        (folder.partial / "epoch-00001").mkdir()
        (folder.partial / "epoch-00001" / "state.json").write_text('{"epoch": 1}')
    again = RunFolder(tmp_path / "out", resume=True)
    again.begin(DESCRIPTION, LISTED)
    again.close()
    other = {**DESCRIPTION, "pictures": {"train": "abd"}}
    with pytest.raises(ValueError, match=f"Received: {told}"):
        RunFolder(tmp_path / "out", resume=True).begin(other, now)
