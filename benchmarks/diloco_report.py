"""The table of benchmarks/diloco.py: one line for what was trained, seeds together."""

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.diloco_rows import Row

Found = dict[str, Any]
"""One finished row as benchmarks/diloco.py writes it: the row, the setting, and what came out."""

_HEAD = (
    "| run | seeds | held-out loss (spread) | to synchronous | to plain DiLoCo | rounds | "
    "bytes/parameter/round up | mean back | tokens |\n|---|---|---|---|---|---|---|---|---|"
)


def report(found: Sequence[Found], wanted: Sequence[Row]) -> str:
    """The whole page; rows in the order in which they were finished. Its first line says which of `wanted` are not."""
    groups: dict[str, dict[str, list[Found]]] = defaultdict(lambda: defaultdict(list))
    for entry in found:
        groups[entry["row"]["group"]][entry["what"]].append(entry)
    lines = [_title(found, wanted), "", _setting_line(found), ""]
    for group, runs in groups.items():
        lines += [f"## {group}", "", _HEAD]
        lines += [_line(what, entries, found) for what, entries in runs.items()]
        lines.append("")
    return "\n".join(lines)


def _title(found: Sequence[Found], wanted: Sequence[Row]) -> str:
    done = [entry["row"] for entry in found]
    missing = [row for row in wanted if asdict(row) not in done]
    if not missing:
        return "# Learning with outer rounds"
    lines = []
    for group in dict.fromkeys(row.group for row in missing):
        left = [row for row in missing if row.group == group]
        whole = sum(row.group == group for row in wanted)
        if len(left) == whole:
            lines.append(f"all {whole} of {group}")
        else:
            lines += [f"{group}: {row.what}, seed {row.seed}" for row in left]
    return (
        f"# Learning with outer rounds, unfinished: {len(missing)} of {len(wanted)} rows are missing "
        f"({'; '.join(lines)})"
    )


def _setting_line(found: Sequence[Found]) -> str:
    if not found:
        return "Nothing is done yet."
    setting = found[0]["setting"]
    return (
        f"{found[0]['parameters']:,} parameters, {setting['warm_steps']} synchronous steps and then "
        f"{setting['steps']} of {setting['step_tokens']:,} tokens over all islands together; loss in nats a byte, mean "
        "over the seeds, spread = half the range. Plain DiLoCo: same islands, H, seed and learning rate, uncompressed, "
        "on time, the suggested outer optimizer. Synchronous: same seed and learning rate, which is "
        f"{setting['learning_rate']:g} where none is said. Bytes: payloads of one member, after zstd; the mean back "
        "where it is encoded again."
    )


def _line(what: str, entries: Sequence[Found], found: Sequence[Found]) -> str:
    losses = [_loss(entry) for entry in entries]
    spread = (max(losses) - min(losses)) / 2
    to_synchronous = [
        _loss(entry) / base - 1.0 for entry in entries if (base := _synchronous(entry, found))
    ]
    to_plain = [_loss(entry) - base for entry in entries if (base := _plain(entry, found))]
    first = entries[0]
    return (
        f"| {what} | {len(entries)} | {statistics.fmean(losses):.4f} ({spread:.4f}) | "
        f"{_mean(to_synchronous, '{:+.2%}')} | {_mean(to_plain, '{:+.4f}')} | {first['rounds']} | "
        f"{first['bytes_up']:.4f} | {first['bytes_back']:.4f} | {first['tokens']:,} |"
    )


def _loss(entry: Found) -> float:
    return math.nan if entry["loss"] is None else float(entry["loss"])


def _mean(values: Sequence[float], form: str) -> str:
    return form.format(statistics.fmean(values)) if values else ""


def _synchronous(entry: Found, found: Sequence[Found]) -> float:
    same = {name: entry["row"][name] for name in ("seed", "learning_rate")}
    return _base(found, islands=0, **same)


def _plain(entry: Found, found: Sequence[Found]) -> float:
    row = entry["row"]
    if not row["islands"]:
        return 0.0
    same = {name: row[name] for name in ("seed", "islands", "inner_steps", "learning_rate")}
    group = "islands" if row["learning_rate"] is None else "learning rates"
    return _base(found, group=group, codec="none", **same)


def _base(found: Sequence[Found], **wanted: Any) -> float:
    """The loss of the row with these fields; 0 where it is not done yet."""
    for entry in found:
        if all(entry["row"][name] == value for name, value in wanted.items()):
            return _loss(entry)
    return 0.0
