"""The pictures of a recipe."""

from training.data.arrays import ArrayPictures, read_arrays, read_pictures
from training.data.order import Share
from training.recipe import RecipeError, in_memory

__all__ = ["ArrayPictures", "Share", "open_data"]

KINDS = ("folder", "arrays", "tfrecord", "tfds")


def open_data(recipe):
    """Open the pictures that ``data.source`` names.

    The result has ``labels``, ``train_size``, ``test_size``,
    ``train_batches(recipe, share, first_step)`` and ``test_batches(recipe, share)``.
    """
    given = recipe.data
    kind, _, place = given.source.partition(":")
    if kind not in KINDS or not place:
        raise RecipeError(
            f"data.source must be KIND:PLACE, where KIND is one of {', '.join(KINDS)}. "
            f"Received: {given.source!r}"
        )
    if kind in ("arrays", "folder") and in_memory(recipe):
        if kind == "arrays":
            pictures = read_arrays(place)
        else:
            size = given.stored_size or given.input_size
            pictures = read_pictures(place, given.train, given.test, size)
        if given.train_per_class:
            pictures = pictures.fewer(given.train_per_class, recipe.seed)
        return pictures
    if given.train_per_class:
        raise RecipeError(
            "Only pictures in memory can be reduced to some of each class: set "
            "data.in_memory=True, or data.train_per_class=0. Received: "
            f"data.train_per_class={given.train_per_class}, data.source={given.source!r}"
        )
    from training.data import streams  # on TensorFlow only

    if kind == "folder":
        return streams.FolderPictures(place, given.train, given.test)
    if kind == "tfrecord":
        return streams.open_records(place, given.train, given.test)
    return streams.open_tfds(place, given.directory, given.train, given.test)
