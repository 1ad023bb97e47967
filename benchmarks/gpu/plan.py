"""Plan of the measurements: waves of contenders with their programs, the most important first."""

from __future__ import annotations

from collections.abc import Sequence

NETWORKS = {
    "nf_resnet50": "nf_resnet50",
    "nf_regnet_b1": "nf_regnet_b1",
    "nfnet_f0": "dm_nfnet_f0",
    "eca_nfnet_l0": "eca_nfnet_l0",
}
"""Name in the zoo -> name in timm."""

PRECISIONS = ("bfloat16", "TF32", "float32")
PLAIN = ("eager", "channels-last")
COMPILED = "torch.compile"
FROZEN = "torch.compile, frozen, CUDA graphs"


def plan(
    networks: Sequence[str],
    batches: Sequence[int],
    size: int,
    product_side: int,
    tensorflow: bool = False,
) -> list[list[dict]]:
    """Return waves of contenders, the most important first.

    Args:
        networks: names in the zoo; the first is measured before the others.
        batches: batch sizes; the second is the most important.
        size: side of the pictures in pixels.
        product_side: rows and columns of the matrices that measure the card's rate.
        tensorflow: whether to measure nf_zoo in TensorFlow too, after everything else.

    Returns:
        Lists of contenders that compile together. A contender is a dict of ``runtime``,
        ``network``, ``name``, ``size``, ``environment`` and its ``programs``, which are dicts of
        ``form``, ``task``, ``precision`` and ``batch``.
    """
    first, others = networks[0], networks[1:]

    def ours(network, precision, runtime="jax"):
        return _contender(runtime, network, size, _our_programs(precision, batches))

    def timm(network, forms, tasks, precisions):
        found = [
            _program(form, task, precision, batch)
            for precision in precisions
            for task in tasks
            for batch in _middle_first(batches)
            for form in forms
            if (task, batch) != ("training", 1)
        ]
        return _contender("pytorch", network, size, found)

    def compiled(network, task, precision, form=COMPILED):
        """Return one process for every batch size, because PyTorch compiles one at a time."""
        every = timm(network, [form], [task], [precision])
        return [{**every, "programs": [program]} for program in every["programs"]]

    both = ("inference", "training")
    products = [
        _contender(
            runtime,
            "",
            product_side,
            [_program("matrix product", "product", precision, 1) for precision in PRECISIONS],
        )
        for runtime in ("jax", "pytorch")
    ]
    waves = [
        [
            *products,
            ours(first, "bfloat16"),
            ours(first, "TF32"),
            *compiled(first, "inference", "bfloat16"),
            *compiled(first, "training", "bfloat16"),
            timm(first, PLAIN[1:], both, ["bfloat16", "TF32"]),
            timm(first, PLAIN[:1], both, ["bfloat16"]),
        ],
        [
            *(ours(network, "bfloat16") for network in others),
            *(timm(network, PLAIN[1:], both, ["bfloat16"]) for network in others),
            *compiled(first, "inference", "bfloat16", FROZEN),
            *compiled(first, "inference", "TF32"),
        ],
        [
            *compiled(first, "training", "TF32"),
            *(one for network in others for one in compiled(network, "inference", "bfloat16")),
        ],
        [
            *(one for network in others for one in compiled(network, "training", "bfloat16")),
        ],
        [
            ours(first, "float32"),
            timm(first, PLAIN, both, ["float32"]),
            *(ours(network, "TF32") for network in others),
            *(timm(network, PLAIN[1:], both, ["TF32"]) for network in others),
        ],
        [
            *compiled(first, "inference", "float32"),
            *compiled(first, "training", "float32"),
            *compiled(first, "inference", "TF32", FROZEN),
            *(
                one
                for network in others
                for one in compiled(network, "inference", "bfloat16", FROZEN)
            ),
        ],
        [
            *(ours(network, "float32") for network in others),
            *(timm(network, PLAIN[1:], both, ["float32"]) for network in others),
        ],
        [
            _contender("jax", network, size, [_program("training", "training", "bfloat16", 1)])
            for network in (networks if 1 in batches else ())
        ],
        *(
            [ours(network, precision, "tensorflow") for precision in PRECISIONS]
            for network in (networks if tensorflow else ())
        ),
    ]
    return [wave for wave in waves if wave]


def _contender(runtime: str, network: str, size: int, programs: list[dict]) -> dict:
    name = NETWORKS.get(network, network) if runtime == "pytorch" else network
    return {
        **{"runtime": runtime, "network": network, "name": name, "size": size},
        "environment": {"KERAS_BACKEND": "tensorflow"} if runtime == "tensorflow" else {},
        "programs": programs,
    }


def _program(form: str, task: str, precision: str, batch: int) -> dict:
    return {"form": form, "task": task, "precision": precision, "batch": batch}


def _middle_first(batches: Sequence[int]) -> list[int]:
    return [*batches[1:], *batches[:1]]


def _our_programs(precision: str, batches: Sequence[int]) -> list[dict]:
    middle, rest = _middle_first(batches)[:1], _middle_first(batches)[1:]
    order = [("training", "training", middle), ("folded", "inference", _middle_first(batches))]
    order += [("training", "training", [n for n in rest if n > 1])]
    order += [("unfolded", "inference", _middle_first(batches))]
    return [_program(form, task, precision, batch) for form, task, some in order for batch in some]
