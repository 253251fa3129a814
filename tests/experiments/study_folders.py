"""Folders of finished experiments written by hand: what the journals say is known to the digit."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

TOKENS = 10
"""Of a step, which takes 2 seconds and sends 7 bytes."""


def _line(at: float, by: str, kind: str, **event: object) -> str:
    said = {"event": {"kind": kind, **event}, "peer": by, "time_seconds": at}
    return json.dumps(said, separators=(",", ":")) + "\n"


def write_run(home: Path, losses: Sequence[float], seconds: float = 2.0, **more: Any) -> None:
    """A finished run whose steps take `seconds` and have these `losses`; `more` goes into its summary."""
    home.mkdir(parents=True)
    lines = [_line(0.0, "a", "step_opened", step=0)]
    for step, loss in enumerate(losses):
        at = seconds * (step + 1)
        said = {"step": step, "loss": loss, "tokens": TOKENS, "parameters_sha256": "x"}
        lines.append(_line(at, "a", "step_committed", **said))
        lines.append(_line(at, "world", "traffic", bytes_sent=7 * (step + 1)))
    (home / "journal.jsonl").write_text("".join(lines), encoding="utf-8")
    summary = {"steps": len(losses), "tokens": TOKENS * len(losses), "loss_last": losses[-1]}
    _write(home / "summary.json", {**summary, "outcome": "ok", "moves": 0, **more})
    _write(home / "record.json", {"cpu_seconds": 1.0, "work_sha256": work_of(home.name)})


def work_of(name: str) -> str:
    return f"hash of {name}"


def write_study(
    folder: Path,
    policies: Mapping[str, Mapping[int, Sequence[float] | None]],
    report: Mapping[str, Any] | None = None,
    more: Mapping[str, Mapping[str, Any]] | None = None,
) -> Path:
    """An experiment over seeds and policies: of each the losses by seed, None where the run was not begun.

    `more` has what the runs of a policy are given beside (see `write_run`).
    """
    runs = []
    for policy, by_seed in policies.items():
        for seed, losses in by_seed.items():
            name = f"seed={seed},policy={policy}"
            labels = {"seed": str(seed), "policy": policy}
            runs.append({"name": name, "labels": labels})
            if losses is not None:
                write_run(folder / "runs" / name, losses, **(more or {}).get(policy, {}))
    write_plan(folder, runs, ["seed", "policy"], report)
    return folder


def write_plan(
    folder: Path,
    runs: Sequence[Mapping[str, Any]],
    axes: Sequence[str],
    report: Mapping[str, Any] | None = None,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    plan = {"title": "t", "question": "q?", "claim": "", "axes": axes, "runs": runs}
    work = {run["name"]: work_of(run["name"]) for run in runs}
    shown = {"warm_steps": 0, "window_steps": 1, **(report or {})}
    _write(folder / "experiment.json", {**plan, "report": shown, "work": work})


def change(path: Path, **entries: Any) -> None:
    """Of a JSON file; None takes an entry out."""
    found = {**json.loads(path.read_text(encoding="utf-8")), **entries}
    _write(path, {key: value for key, value in found.items() if value is not None})


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")
