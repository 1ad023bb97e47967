"""timm's networks on PyTorch, with random weights."""

from __future__ import annotations

import timm
import torch

FORMS = {  # form -> (memory format, compiled, weights are constants to the compiler, precision)
    "eager": (torch.contiguous_format, False, False, torch.float32),
    "channels-last": (torch.channels_last, False, False, torch.float32),
    "torch.compile": (torch.contiguous_format, True, False, torch.float32),
    "torch.compile, frozen": (torch.contiguous_format, True, True, torch.float32),
    "torch.compile, frozen, bfloat16": (torch.channels_last, True, True, torch.bfloat16),
    # Training in bfloat16 keeps the weights in float32 and casts where autocast does.
    "channels-last, bfloat16": (torch.channels_last, False, False, torch.bfloat16),
    "torch.compile, bfloat16": (torch.channels_last, True, False, torch.bfloat16),
}


def prepare(task: dict):
    """Return a function from a batch size to a run of the task, and facts about it."""
    facts = {"version": f"PyTorch {torch.__version__}, timm {timm.__version__}"}
    if task["form"].startswith("matrix product"):
        return _product(task["form"], task["size"]), facts
    layout, compiled, frozen, precision = FORMS[task["form"]]
    torch._inductor.config.freezing = frozen
    torch._dynamo.config.automatic_dynamic_shapes = False  # compile for every batch size
    torch.manual_seed(0)
    model = timm.create_model(task["network"], pretrained=False)
    kept = torch.float32 if task["training"] else precision
    model = model.to(kept, memory_format=layout)
    facts["parameters"] = sum(p.numel() for p in model.parameters())
    model = model.train() if task["training"] else model.eval()
    run = torch.compile(model) if compiled else model

    def make(batch: int):
        images = torch.randn(batch, 3, task["size"], task["size"])
        images = images.to(kept, memory_format=layout)
        if task["training"]:
            return _training(model, run, images, precision)
        return _inference(run, images)

    return make, facts


def _product(form: str, side: int):
    if form.endswith("int8"):
        a = torch.randint(-127, 128, (side, side), dtype=torch.int8)
        return lambda batch: lambda: torch._int_mm(a, a)
    a = torch.randn(side, side).to(torch.bfloat16 if form.endswith("bfloat16") else torch.float32)
    return lambda batch: lambda: torch.mm(a, a)


def _inference(model, images):
    def run():
        with torch.inference_mode():
            model(images)

    return run


def _training(model, forward, images, precision):
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)
    classes = torch.arange(len(images)) % 1000

    def run():
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(forward(images), classes)
        loss.backward()
        optimizer.step()

    return run
