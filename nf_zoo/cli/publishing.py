"""``nf-zoo publish``, ``nf-zoo fetch`` and ``nf-zoo catalog``."""

from __future__ import annotations

import dataclasses
import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from rich.text import Text

from nf_zoo.cli.output import console, import_backend, print_error, print_json, table
from nf_zoo.hub.opening import load_model

REPORT = "report.json"


def publish_command(args: Namespace) -> int:
    """Upload a model, a Space that shows it, or both; or show what would be uploaded."""
    if not (args.repository or args.space):
        raise ValueError("Name where to publish: OWNER/NAME, or --space OWNER/NAME. Received: none")
    metrics = _metrics(args)
    from nf_zoo.hub.card import CardDetails

    names = ("license", "dataset_name", "training", "intended_use", "limits")
    details = {name: getattr(args, name) for name in names}
    details |= {"datasets": tuple(args.datasets), "command": args.training_command}
    card = CardDetails(**details) if any(details.values()) else None
    import_backend(args.debug, only_tensorflow=args.saved_model)
    from nf_zoo.hub.publishing import push_to_hub
    from nf_zoo.hub.space import check_space, push_space

    shared = {name: getattr(args, name) for name in ("private", "force", "dry_run")}
    own = {name: getattr(args, name) for name in ("revision", "dtype", "saved_model")}
    source, model = args.model, load_model(args.model)
    if args.repository:
        source = f"hf://{args.repository.removeprefix('hf://')}"
        source += "" if args.revision == "main" else f"@{args.revision}"
    if args.space:
        check_space(source, args.space, model)
    if args.repository:
        push_to_hub(model, args.repository, card=card, metrics=metrics, **own, **shared)
    if args.space:
        push_space(source, args.space, **shared)
    return 0


def _metrics(args: Namespace) -> dict[str, Any] | None:
    """Read the file of --metrics, or the report in a fine-tuning folder."""
    from nf_zoo.hub.sources import is_name

    path = Path(args.metrics or Path(args.model) / REPORT)
    if args.metrics is None and (is_name(args.model) or not path.is_file()):
        return None
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(metrics, dict):
        raise ValueError(f"{path} must hold a JSON object. Received: {type(metrics).__name__}")
    return metrics


def fetch_command(args: Namespace) -> int:
    """Download and check checkpoints; return 1 if any failed."""
    from nf_zoo.hub.errors import WeightsError
    from nf_zoo.hub.sources import fetch_pretrained

    failed = 0
    names, unknown = _expanded(args.names)
    for name in unknown:
        failed += 1
        print_error(f"no checkpoint is called {name!r}; `nf-zoo list --pretrained` shows all")
    for name in names:
        try:
            for path in fetch_pretrained(name):
                print(path)
        except (WeightsError, ValueError) as error:
            failed += 1
            print_error(getattr(error, "message", str(error)))
    return 1 if failed else 0


def _expanded(names: list[str]) -> tuple[list[str], list[str]]:
    """Return the checkpoints that names and patterns stand for, and the patterns without any."""
    from nf_zoo.hub.models import list_models

    found, unknown = [], []
    for name in names:
        if not set("*?[") & set(name):
            found.append(name)
            continue
        matching = list_models(name, pretrained=True)
        unknown += [] if matching else [name]
        found += matching
    return list(dict.fromkeys(found)), unknown


def check_command(args: Namespace) -> int:
    """Verify the catalog; return 1 if a record is wrong."""
    from nf_zoo.hub.curation import check_catalog

    path = Path(args.catalog) if args.catalog else None
    findings = check_catalog(path, args.online)
    wrong = [finding for finding in findings if finding.problems]
    if args.json:
        print_json([dataclasses.asdict(finding) for finding in findings])
        return 1 if wrong else 0
    _print_findings(findings, args.online)
    for finding in wrong:
        for problem in finding.problems:
            print_error(f"{finding.name}: {problem}")
    print(f"{len(findings)} records, {len(wrong)} of them with problems")
    return 1 if wrong else 0


def _print_findings(findings, online: bool) -> None:
    rows = table("=Record", "Found", "Note", *(["Bytes", "Revision"] if online else []))
    for finding in findings:
        state = Text("wrong", style="red") if finding.problems else "sound"
        size, revision = finding.facts.get("size"), finding.facts.get("revision")
        asked = [f"{size:,}" if size else "", (revision or "")[:12]] if online else []
        rows.add_row(finding.name, state, "; ".join(finding.notes), *asked)
    console().print(rows)


def add_command(args: Namespace) -> int:
    """Write a record into the catalog."""
    import_backend(args.debug)
    from nf_zoo.hub.curation import add_record

    path = Path(args.catalog) if args.catalog else None
    record = add_record(args.repository, args.tag, args.license, args.default, path)
    print(f"{record.name}: {record.repository} at {record.revision}, {record.trust}")
    return 0
