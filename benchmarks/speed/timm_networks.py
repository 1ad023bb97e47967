"""timm's networks on PyTorch, with random weights."""

from __future__ import annotations

import timm
import torch

FORMS = {  # form -> (memory format, compiled, weights are constants to the compiler)
    "eager": (torch.contiguous_format, False, False),
    "channels-last": (torch.channels_last, False, False),
    "torch.compile": (torch.contiguous_format, True, False),
    "torch.compile, frozen": (torch.contiguous_format, True, True),
}


def prepare(task: dict):
    """Return a function from a batch size to a run of the task, and facts about it."""
    facts = {"version": f"PyTorch {torch.__version__}, timm {timm.__version__}"}
    if task["form"] == "matrix product":
        a = torch.randn(task["size"], task["size"])
        return lambda batch: lambda: torch.mm(a, a), facts
    layout, compiled, frozen = FORMS[task["form"]]
    torch._inductor.config.freezing = frozen
    torch._dynamo.config.automatic_dynamic_shapes = False  # compile for every batch size
    torch.manual_seed(0)
    model = timm.create_model(task["network"], pretrained=False).to(memory_format=layout)
    facts["parameters"] = sum(p.numel() for p in model.parameters())
    model = model.train() if task["training"] else model.eval()
    run = torch.compile(model) if compiled else model

    def make(batch: int):
        images = torch.randn(batch, 3, task["size"], task["size"]).to(memory_format=layout)
        return _training(model, run, images) if task["training"] else _inference(run, images)

    return make, facts


def _inference(model, images):
    def run():
        with torch.inference_mode():
            model(images)

    return run


def _training(model, forward, images):
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)
    classes = torch.arange(len(images)) % 1000

    def run():
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(forward(images), classes).backward()
        optimizer.step()

    return run
