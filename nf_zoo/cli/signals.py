"""``nf-zoo signal-propagation``: the papers' figures, and measurements of any network."""

from __future__ import annotations

from argparse import Namespace

from nf_zoo.cli.output import import_backend
from nf_zoo.hub.opening import load_model
from nf_zoo.pictures.class_folders import pictures_in
from nf_zoo.pictures.images import readable


def figure_command(args: Namespace) -> int:
    """Measure one of the papers' figures, and write it with its data."""
    files = None if args.images is None else pictures_in(args.images)
    import_backend(args.debug)
    from nf_zoo.signal_propagation.paper_figures import reproduce

    sizes = {name: getattr(args, name) for name in ("depth", "width", "pictures", "size")}
    sizes = {name: value for name, value in sizes.items() if value is not None}
    for path in reproduce(args.figure, args.output, images=files, seed=args.seed, **sizes):
        print(path)
    return 0


def measure_command(args: Namespace) -> int:
    """Measure one network; print the rows, or write a plot and a CSV."""
    files = None if args.images is None else readable(pictures_in(args.images))
    import_backend(args.debug)
    from nf_zoo.signal_propagation import signal_propagation
    from nf_zoo.signal_propagation.result import writable_folder

    folder = None if args.output is None else writable_folder(args.output)
    model = _network(args)
    source = files if args.shape is None else (*args.shape, model.input_shape[-1])
    result = signal_propagation(model, source, unit_gains=args.unit_gains, seed=args.seed)
    if folder is None:
        print(result)
        return 0
    paths = [folder / f"{model.name}.{suffix}" for suffix in ("png", "svg", "csv")]
    for path in paths[:2]:
        result.plot(path)
    result.to_csv(paths[2])
    print(*paths, sep="\n")
    return 0


def _network(args: Namespace):
    """Return a freshly initialized network by name, or else the model that MODEL names."""
    import keras

    from nf_zoo.models.classifier import build_model
    from nf_zoo.models.registry import is_architecture

    if args.pretrained or not is_architecture(args.model):
        return load_model(args.model)
    keras.utils.set_random_seed(args.seed)
    return build_model(args.model)
