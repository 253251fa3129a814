"""summary.json: what a run came to, with the keys other programs rely on (design.md section 11)."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from swarmtrain.core.errors import StateError
from swarmtrain.monitor.lines import plain

SUMMARY_KEYS = (
    "steps",
    "tokens",
    "seconds",
    "loss_first",
    "loss_last",
    "eval_loss",
    "tokens_per_second",
    "bytes_sent",
    "peers",
    "faults",
    "recoveries",
    "replayed_keys",
    "duplicate_keys_dropped",
    "parameters_sha256",
)


def write_summary(path: Path, summary: Mapping[str, Any]) -> None:
    """Write `summary` whole or not at all; keys beyond SUMMARY_KEYS are welcome.

    Raises StateError when a key of the contract is missing or the file cannot be written.
    """
    missing = [key for key in SUMMARY_KEYS if key not in summary]
    if missing:
        raise StateError(
            f"the summary {path} lacks {', '.join(missing)}",
            "other programs rely on these keys",
            "this is a bug: please report it",
        )
    text = json.dumps(plain(dict(summary)), indent=2, sort_keys=True, allow_nan=False) + "\n"
    partial = path.with_name(path.name + ".partial")
    try:
        with open(partial, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise StateError(
            f"the summary {path} was not written", str(error), "free space on that disk"
        ) from error
