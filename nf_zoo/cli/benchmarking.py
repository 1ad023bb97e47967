"""``nf-zoo benchmark``."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
from argparse import Namespace

from nf_zoo.backend import quiet
from nf_zoo.cli.exporting import some_pictures
from nf_zoo.cli.output import console, import_backend, print_json, table
from nf_zoo.deploy.benchmarking import BenchmarkSettings, benchmark
from nf_zoo.hub.opening import load_model
from nf_zoo.options import given


def benchmark_command(args: Namespace) -> int:
    """Print the time of a network in every form, and the fastest for each batch size."""
    settings = BenchmarkSettings(**given(args, BenchmarkSettings))
    pictures = some_pictures(settings.pictures) if settings.pictures else None
    import_backend(args.debug)
    model = load_model(args.model)
    console(stderr=True).print("Measuring; a large network takes some minutes ...")
    # Runtimes print notices of their own there.
    with contextlib.nullcontext() if args.debug else quiet():
        found = benchmark(model, **{**dataclasses.asdict(settings), "pictures": pictures})
    name = shlex.quote(args.model)
    timings = [
        dataclasses.replace(x, recipe=x.recipe.replace("MODEL", name)) for x in found.timings
    ]
    found = dataclasses.replace(found, timings=timings)
    if args.json:
        print_json(dataclasses.asdict(found))
    else:
        _print(found, settings.batch_sizes)
    return 0


def _print(found, batch_sizes: tuple[int, ...]) -> None:
    out = console()
    shown = table("Form", *(f">Batch {count}, ms" for count in batch_sizes), ">Pictures/s, at most")
    for form in dict.fromkeys(timing.form for timing in found.timings):
        rows = {x.batch_size: x for x in found.timings if x.form == form}
        cells = [f"{rows[n].milliseconds:.2f}" if n in rows else "" for n in batch_sizes]
        rate = max(timing.pictures_per_second for timing in rows.values())
        shown.add_row(form, *cells, f"{rate:.0f}")
    out.print(shown)
    for form, reason in found.missing.items():
        out.print(f"Not measured: {form}: {reason}", soft_wrap=True)
    for count in batch_sizes:
        best = found.fastest(count)
        out.print(f"\nFastest at batch {count}: {best.form}", soft_wrap=True)
        out.print(f"  {best.recipe}", soft_wrap=True)
        if best.precision != "float32":
            exact = found.fastest(count, "float32")
            ratio = exact.milliseconds / best.milliseconds
            words = f"Fastest in float32: {exact.form}, which takes {ratio:.1f} times as long"
            out.print(words, soft_wrap=True)
            out.print(f"  {exact.recipe}", soft_wrap=True)
    if any(found.fastest(count).precision != "float32" for count in batch_sizes):
        out.print("\nbfloat16 and int8 round: compare the accuracy before you choose them.")
