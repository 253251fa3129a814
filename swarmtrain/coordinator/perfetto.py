"""Steps that peers told of in detail as Chrome trace JSON: open it at https://ui.perfetto.dev. Pure.

Every peer's times count from when it had applied the step before; steps are put one after the other.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from swarmtrain.coordinator.history import StepTrace

LANE, REDUCE = 1, 2


def chrome_trace(traces: Iterable[StepTrace], names: Mapping[str, str]) -> dict[str, Any]:
    """`traces` as one file: a process is a peer, called what `names` says. Hops are left out: they overlap."""
    found: list[dict[str, Any]] = []
    numbers: dict[str, int] = {}
    begin = 0.0
    for trace in traces:
        for peer, (_, spans, _) in sorted(trace.peers.items()):
            if peer not in numbers:
                numbers[peer] = len(numbers) + 1
                found += _called(numbers[peer], names.get(peer, peer))
            for what, stage, key, at, length, _ in spans:
                if what != "hop":
                    found.append(
                        {
                            "ph": "X",
                            "pid": numbers[peer],
                            "tid": REDUCE if what == "reduce" else LANE,
                            "name": f"{what} {stage}",
                            "cat": what,
                            "ts": begin + at,
                            "dur": length,
                            "args": {"step": trace.step, "stage": stage, "microbatch": key},
                        }
                    )
        begin += 1e6 * max((seconds for seconds, _, _ in trace.peers.values()), default=0.0)
    return {"traceEvents": found, "displayTimeUnit": "ms"}


def _called(number: int, name: str) -> list[dict[str, Any]]:
    common = {"ph": "M", "pid": number}
    return [
        {**common, "tid": 0, "name": "process_name", "args": {"name": name}},
        {**common, "tid": LANE, "name": "thread_name", "args": {"name": "compute"}},
        {**common, "tid": REDUCE, "name": "thread_name", "args": {"name": "reduce"}},
    ]
