"""An experiment's report: report.md, table.csv, plots as SVG, and report.html with all of it in one file.

Everything follows from the folder's journals and summaries: written again, it is the same to the byte.
"""

import html
from pathlib import Path

from swarmtrain.core.errors import ConfigError
from swarmtrain.experiments.plots import plots_of
from swarmtrain.experiments.results import Study, read_study
from swarmtrain.experiments.tables import Table, cells, comma_separated, markdown, table_of

CAPTIONS = {
    "curves.svg": "Loss against tokens, time and bytes: means over seeds",
    "figures.svg": "Figures with their 95 % intervals over seeds",
    "gantt.svg": "What machines did in two steps in the middle of the first run",
    "throughput.svg": "Tokens a second over the run: means over seeds",
    "traffic.svg": "Bytes between regions: lines as wide as what they carried, discs for what stayed inside",
}
STYLE = """body { font: 15px/1.5 system-ui, sans-serif; max-width: 75em; margin: 2em auto;
  padding: 0 1em; color: #222 }
table { border-collapse: collapse; font-size: 13px }
th, td { border-bottom: 1px solid #ddd; padding: 3px 8px; text-align: right }
th:first-child, td:first-child { text-align: left } svg { max-width: 100%; height: auto } .wide { overflow-x: auto }"""


def write_report(folder: Path, out: Path) -> list[Path]:
    """Write the report on the experiment in `folder` into `out`; the files, the page last.

    Raises ConfigError when there is nothing to report on, SwarmError when the extra `report` is not installed.
    """
    study = read_study(folder)
    table, plots = table_of(study), plots_of(study)
    files = {
        "report.md": _markdown(study, table, list(plots)),
        "table.csv": comma_separated(table),
        **plots,
        "report.html": _page(study, table, plots),
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (out / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{out} cannot be written", str(error), "choose another --out") from error
    return [out / name for name in files]


def _notes(study: Study) -> list[str]:
    """What the columns mean, with the figures of this study."""
    notes = [
        "Means over seeds with the half width of their 95 % interval (Student's t).",
        _cost(study),
        *_left_out(study),
    ]
    if not study.has_curves:
        return notes
    window, warm = study.report.window_steps, study.report.warm_steps
    notes.append(
        f"A loss is the mean of {window} steps, a steady step the mean of all but the first {warm}."
    )
    if study.report.target_loss is not None:
        target = f"{study.report.target_loss:g}"
        notes.append(
            f"T: steps to a loss of {target} x steady step; - (2 of 3) where only two of three runs reached it."
        )
    said = {
        "tokens": lambda end: f"{end:,.0f} tokens",
        "seconds": lambda end: f"{end:,.1f} s",
        "bytes": lambda end: f"{end / 1e6:,.1f} MB",
    }
    ends = [said[axis](end) for axis, end in study.ends.items()]
    notes.append(f"Equal tokens, time and bytes are what every run reached: {', '.join(ends)}.")
    return notes


def _cost(study: Study) -> str:
    """What the finished runs took to compute, so that experiments can be planned."""
    seconds = sum(float(result.summary.get("cpu_seconds", 0.0)) for result in study.results)
    return f"{len(study.results)} runs took {seconds:,.1f} processor seconds."


def _left_out(study: Study) -> list[str]:
    """Which planned runs are in no mean, but for those that nobody has begun."""
    named = [f"{run.name} ({run.why})" for run in study.left_out if run.fate != "missing"]
    return [f"In no mean: {'; '.join(named)}."] if named else []


def _markdown(study: Study, table: Table, plots: list[str]) -> str:
    parts = [f"# {study.title}", study.question]
    if study.claim:
        parts.append(f"Claimed: {study.claim}")
    parts += [markdown(table).rstrip(), " ".join(_notes(study))]
    parts += [f"![{CAPTIONS[name]}]({name})" for name in plots]
    return "\n\n".join(parts) + "\n"


def _page(study: Study, table: Table, plots: dict[str, str]) -> str:
    """One HTML file that loads nothing."""
    escape = html.escape
    heads = "".join(f"<th>{escape(name)}</th>" for name in table.header)
    rows = "\n".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells(row, table)) + "</tr>"
        for row in table.rows
    )
    claim = f"<p>Claimed: {escape(study.claim)}</p>" if study.claim else ""
    drawn = "\n".join(
        f"<h2>{escape(CAPTIONS[name])}</h2>\n{text[text.index('<svg') :]}"
        for name, text in plots.items()
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(study.title)}</title>
<style>{STYLE}</style></head><body>
<h1>{escape(study.title)}</h1>
<p>{escape(study.question)}</p>{claim}
<div class="wide"><table><tr>{heads}</tr>
{rows}</table></div>
<p>{escape(" ".join(_notes(study)))}</p>
{drawn}
</body></html>
"""
