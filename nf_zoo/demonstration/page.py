"""The page: pictures and answers on one tab, signal propagation on the other."""

from __future__ import annotations

import html
import os
from collections.abc import Sequence

import gradio as gr
from PIL import Image

from nf_zoo.demonstration.signals import ACTIVATIONS, DEEPEST, SCHEMES, draw
from nf_zoo.demonstration.subjects import TOP, Answer, Subject
from nf_zoo.pictures.images import load_image

MOST_PICTURES = 24
KEPT = 3600
"""Seconds after which an uploaded file is removed."""


def build_page(subjects: Sequence[Subject], max_size: float) -> gr.Blocks:
    """Return the page for models, which takes files of up to ``max_size`` megabytes."""
    with gr.Blocks(title="nf_zoo", analytics_enabled=False, delete_cache=(KEPT, KEPT)) as page:
        gr.Markdown("# nf_zoo")
        with gr.Tab("Pictures"):
            _add_pictures(subjects, max_size)
        with gr.Tab("Signal propagation"):
            _add_signals()
    return page


def _add_pictures(subjects: Sequence[Subject], max_size: float) -> None:
    label = f"Pictures: JPEG, PNG, WebP, ... of up to {max_size:g} MB each"
    files = gr.File(label=label, file_count="multiple", height=160)

    @gr.render(inputs=files)
    def show(paths):
        paths = paths or []
        for path in paths[:MOST_PICTURES]:
            _add_picture(path, subjects)
        if len(paths) > MOST_PICTURES:
            gr.Markdown(f"The first {MOST_PICTURES} of {len(paths)} pictures are shown.")


def _add_picture(path: str, subjects: Sequence[Subject]) -> None:
    name = os.path.basename(path)
    gr.HTML(f"<h3>{html.escape(name)}</h3>")
    try:
        picture = load_image(path)
    except (ValueError, OSError) as error:
        message = html.escape(str(error).replace(path, name))
        gr.HTML(f'<p role="alert">⚠ {message}</p>')
        return
    with gr.Row():
        for subject in subjects:
            with gr.Column(min_width=320):
                _add_answer(subject.title, subject.answer(picture))


def _add_answer(title: str, answer: Answer) -> None:
    names = [prediction.name for prediction in answer.predictions]
    shares = {
        f"{p.name} ({p.label})" if names.count(p.name) > 1 else p.name: p.probability
        for p in answer.predictions
    }
    gr.Label(shares, num_top_classes=TOP, label=title)
    with gr.Row():
        _add_image("heat", f"Evidence for {names[0]}", answer.heat)
        _add_image("given", "What the network is given", answer.given)


def _add_image(kind: str, caption: str, image: Image.Image | None) -> None:
    if image is None:
        return
    with gr.Column(min_width=140):
        # The component's own label would hide a part of the picture.
        gr.Image(image, format="png", show_label=False, buttons=["fullscreen"], elem_classes=[kind])
        gr.HTML(f"<small>{html.escape(caption)}</small>")


def _add_signals() -> None:
    gr.Markdown(
        "Mean and variance along the depth of Wide ResNets at initialization, on noise: three "
        "stages of residual blocks, 16 to 64 channels. Dashed: what theory expects. `nf` keeps the "
        "variance near that of its start, `bn` lets it grow block by block until the next stage, "
        "and `none` lets it explode."
    )
    with gr.Row():
        depth = gr.Slider(1, DEEPEST, 6, step=1, label="Depth: blocks per stage")
        alpha = gr.Slider(0.05, 1, 0.2, step=0.05, label="alpha: weight of the branches, nf only")
        activation = gr.Radio(ACTIVATIONS, value="relu", label="Activation")
    schemes = gr.CheckboxGroup(SCHEMES, value=["nf", "bn"], label="Scheme")
    plot = gr.Image(show_label=False, format="png", buttons=["download"], elem_classes=["plot"])
    gr.on(
        inputs=[schemes, depth, alpha, activation],
        outputs=plot,
        fn=draw,
        api_visibility="private",
        trigger_mode="always_last",
    )
