"""timm's networks on PyTorch, with random weights."""

from __future__ import annotations

import contextlib
import copy

import timm
import torch

from benchmarks.gpu.plan import COMPILED, FROZEN

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Network:
    """One network with its programs, or the card's matrix product.

    Args:
        task: an entry of :func:`benchmarks.gpu.plan.plan`.
    """

    threads = 1

    def __init__(self, task: dict):
        self._size, self._shared = task["size"], {}
        self._rehearsed = task.get("rehearsed", False)
        version = f"PyTorch {torch.__version__}, timm {timm.__version__}"
        on_card = DEVICE.type == "cuda"
        self.facts = {
            "version": version,
            "device": torch.cuda.get_device_name() if on_card else "cpu",
        }
        # Compile for every batch size, and choose the convolutions by trying them.
        torch._dynamo.config.automatic_dynamic_shapes = False
        torch._dynamo.config.cache_size_limit = 64
        torch.backends.cudnn.benchmark = True
        if task["network"]:
            torch.manual_seed(0)
            self._model = timm.create_model(task["name"], pretrained=False)

    def trace(self, program: dict) -> None:
        """Do nothing: PyTorch traces when it compiles."""

    def compile(self, program: dict):
        """Return the network after its first run with torch.compile; None for other forms."""
        if program["form"] not in (COMPILED, FROZEN):
            return None
        _set_precision(program["precision"])
        torch._inductor.config.freezing = program["form"] == FROZEN
        key = tuple(program[name] for name in ("form", "task", "precision"))
        if key not in self._shared:
            model = self._prepared(program)
            mode = {"mode": "reduce-overhead"} if program["form"] == FROZEN else {}
            mode = {"backend": "aot_eager"} if self._rehearsed else mode
            self._shared[key] = model, torch.compile(model, **mode)
        model, forward = self._shared[key]
        call, wait, _ = self._runs(program, model, forward)
        call()
        wait()
        model.zero_grad()
        del call
        self.clean()
        return model, forward

    def start(self, program: dict, compiled):
        """Return functions that enqueue a run, wait for it, and return the used memory."""
        self.clean()
        _set_precision(program["precision"])
        if DEVICE.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        if program["task"] == "product":
            kind = torch.bfloat16 if program["precision"] == "bfloat16" else torch.float32
            a, b = (
                torch.randn(self._size, self._size, device=DEVICE, dtype=kind) for _ in range(2)
            )
            return lambda: torch.mm(a, b), _wait, _memory
        if compiled is None:
            model = self._prepared(program)
            compiled = model, model
        return self._runs(program, *compiled)

    def clean(self) -> None:
        """Return unused memory to the card, for the other processes."""
        if DEVICE.type == "cuda":
            torch.cuda.empty_cache()

    def _prepared(self, program: dict):
        """Return a copy on the card, in the form that the program needs."""
        training = program["task"] == "training"
        model = copy.deepcopy(self._model).to(DEVICE, memory_format=_layout(program))
        if not training and program["precision"] == "bfloat16":
            model = model.bfloat16()
        return model.train(training)

    def _runs(self, program: dict, model, forward):
        batch, half = program["batch"], program["precision"] == "bfloat16"
        images = torch.randn(batch, 3, self._size, self._size, device=DEVICE)
        images = images.to(memory_format=_layout(program))
        if program["task"] == "inference":
            images = images.bfloat16() if half else images

            def infer():
                with torch.inference_mode():
                    forward(images)

            return infer, _wait, _memory
        classes = torch.arange(batch, device=DEVICE) % 1000
        options = {"fused": True} if DEVICE.type == "cuda" else {}
        optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9, **options)

        def step():
            optimizer.zero_grad()
            rounding = torch.autocast(DEVICE.type, torch.bfloat16) if half else None
            with rounding or contextlib.nullcontext():
                logits = forward(images)
            torch.nn.functional.cross_entropy(logits.float(), classes).backward()
            optimizer.step()

        return step, _wait, _memory


def _layout(program: dict):
    return torch.contiguous_format if program["form"] == "eager" else torch.channels_last


def _set_precision(precision: str) -> None:
    torch.set_float32_matmul_precision("highest" if precision == "float32" else "high")
    torch.backends.cudnn.allow_tf32 = precision != "float32"


def _wait() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def _memory() -> int:
    return torch.cuda.max_memory_allocated() if DEVICE.type == "cuda" else 0
