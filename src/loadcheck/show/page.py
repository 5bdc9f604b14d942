"""A run as a page: one file that needs nothing else, without a script or an address. What a log holds is text on it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any

from loadcheck.errors import printable
from loadcheck.logs.text import read_lines
from loadcheck.runs.folder import RunRecord
from loadcheck.runs.sampler import MAX_SECONDS, Sample
from loadcheck.show.verdict import COLUMNS, explain, figure_rows, summary
from loadcheck.units import to_gib
from loadcheck.verdict import Evidence, Finding, Verdict

STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse } td, th { padding: .1rem .8rem; text-align: right; overflow-wrap: anywhere }
td:first-child, th:first-child, td:last-child, dd { text-align: left } tr:nth-child(even) { background: #8881 }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem } dd { margin: 0; overflow-wrap: anywhere }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: .2rem 0; padding: .3rem .6rem; background: #8882 }
td, dd, pre { font-variant-numeric: tabular-nums } svg { width: 100%; height: auto } svg text { fill: currentColor; font-size: 12px }
.ok, .pass { color: #18794e } .fail { color: #d13415; font-weight: bold } .refused, .skipped { color: #ad6800 }
"""
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 320, 60, 40, 20, 40
"""Of the drawing and its margins, in its own units."""
LABEL_HEIGHT = 13
MAX_POINTS = 700
MAX_LINE_CHARS = 400
STAGES = {
    "weights_ready": "weights made",
    "imported": "imported",
    "weights": "weights loaded",
    "loaded": "model loaded",
    "adapters": "adapters attached",
    "answer": "answered",
    "trained": "trained",
}
"""Events of our engines that the drawing marks, by what had happened then."""


def run_page(
    record: RunRecord, evidence: Evidence | None, verdict: Verdict, samples: Sequence[Sequence[Sample]]
) -> str:
    """The page of a run; `samples` are those of each of its processes, none where they were not kept."""
    title = f"loadcheck: {record.id}"
    parts = [
        f'<h1><span class="{verdict.status}">{verdict.status.upper()}</span> {_text(record.id)}</h1>',
        f"<p>{_text(summary(verdict))}</p>",
        _facts(_run_facts(record, evidence)),
        _findings(verdict, evidence),
        _figures(evidence, verdict) if evidence is not None else "",
        _memory(samples, evidence),
        "<h2>Settings</h2>" + _facts(_settings(record.profile)),
    ]
    body = "\n".join(filter(None, parts))
    return f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{_text(title)}</title>
<style>{STYLE}</style></head>
<body>
{body}
</body>
</html>
"""


def _text(value: object) -> str:
    """Anything as text of the page."""
    return escape(printable(str(value)))


def _facts(facts: Iterable[tuple[str, object]]) -> str:
    """Names and values, those that are known."""
    rows = "".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in facts if value not in (None, ""))
    return f"<dl>{rows}</dl>"


def _run_facts(record: RunRecord, evidence: Evidence | None) -> Iterator[tuple[str, object]]:
    """What was loaded, on what, when, by which code, and how it ended."""
    attempt = evidence.attempt if evidence is not None else None
    model, card = (attempt.reading(name) if attempt else None for name in ("model", "gpu_name"))
    yield "model", model.show() if model else record.profile.get("model")
    yield "card", card.show() if card else _gpu_name(record.machine)
    yield "profile", record.profile.get("name")
    yield "started", record.started_at
    yield "took", None if record.duration_s is None else f"{record.duration_s:.1f} s"
    yield "ended", f"{record.outcome}: {record.reason}" if record.reason else record.outcome
    yield "commit", record.commit
    yield "loadcheck", record.loadcheck
    for note in record.notes:
        yield "note", note


def _gpu_name(machine: Mapping[str, Any]) -> object:
    gpu = machine.get("gpu")
    return gpu.get("name") if isinstance(gpu, dict) else "none: on the CPU"


def _settings(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    """The profile's keys, dotted; its name and what it says of itself are no settings."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _settings(value, f"{prefix}{key}.")
        elif prefix or key not in ("name", "description"):
            yield prefix + key, ", ".join(map(str, value)) if isinstance(value, list) else value


def _findings(verdict: Verdict, evidence: Evidence | None) -> str:
    """What keeps the run from being a pass: why, what to do, and the line of the log."""
    failures = verdict.failures()
    if not failures:
        return ""
    lines = _log_lines(failures, evidence)
    items = "".join(
        f'<li><span class="{finding.status.value}">{finding.status.value.upper()}</span> {_text(explain(finding))}'
        + (f"<pre>{_text(lines[finding.where.line])}</pre>" if finding.where and finding.where.line in lines else "")
        + "</li>"
        for finding in failures
    )
    return f"<h2>What is wrong</h2><ul>{items}</ul>"


def _log_lines(findings: Iterable[Finding], evidence: Evidence | None) -> dict[int | None, str]:
    """The text of each line that a finding is about, by its number."""
    if evidence is None:
        return {}
    numbers = {each.where.line for each in findings if each.where is not None and each.where.line is not None}
    lines = read_lines(evidence.log.path, numbers) if numbers else {}
    return {number: text[:MAX_LINE_CHARS] for number, text in lines.items()}


def _figures(evidence: Evidence, verdict: Verdict) -> str:
    """predicted | measured | expected, with a word for the status."""
    head = "".join(f"<th>{name}</th>" for name in COLUMNS[:-1]) + "<th>status</th>"
    rows = "".join(
        "<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in cells) + f'<td class="{word.lower()}">{word}</td></tr>\n'
        for *cells, word in figure_rows(evidence, verdict)
    )
    return f"<h2>Figures</h2><table><tr>{head}</tr>\n{rows}</table>"


def _memory(samples: Sequence[Sequence[Sample]], evidence: Evidence | None) -> str:
    """Memory over time, of the device where it was read, else of the loading process."""
    for name, what in (("device_used_bytes", "device"), ("child_rss_bytes", "loading process")):
        points, starts_s = _points(samples, name)
        if len(points) > 1 and points[-1][0] > 0:
            return f"<h2>Memory of the {what}, GiB</h2>" + _drawing(points, _marks(starts_s, evidence))
    return ""


def _points(samples: Sequence[Sequence[Sample]], name: str) -> tuple[list[tuple[float, float]], list[float]]:
    """(seconds, GiB), one process after the other, thinned to the largest of neighbours; and when each process began."""
    points: list[tuple[float, float]] = []
    starts_s, end_s = [], 0.0
    for process in samples:
        starts_s.append(end_s)
        known = ((sample.t_s, getattr(sample, name)) for sample in process)
        points += [(starts_s[-1] + t_s, to_gib(num_bytes)) for t_s, num_bytes in known if num_bytes is not None]
        end_s += max(sample.t_s for sample in process)
    step = -(-len(points) // MAX_POINTS) or 1
    thinned = [max(points[at : at + step], key=lambda point: point[1]) for at in range(0, len(points), step)]
    return thinned, starts_s


def _marks(starts_s: Sequence[float], evidence: Evidence | None) -> Iterator[tuple[float, str]]:
    """When which stage was reached, by our engines' events; they count from the start of their process, the second of two."""
    for event in evidence.attempt.events if evidence is not None else ():
        at_s = event.get("at_s")
        if event["event"] in STAGES and isinstance(at_s, int | float) and 0 <= at_s < MAX_SECONDS:
            yield starts_s[0 if event["event"] == "weights_ready" else -1] + at_s, STAGES[event["event"]]


def _drawing(points: Sequence[tuple[float, float]], marks: Iterable[tuple[float, str]]) -> str:
    """An SVG with a line through the points, both axes with their units, and a dashed line at each mark."""
    end_s, top_gib = points[-1][0], max(gib for _, gib in points) * 1.05 or 1.0
    x_scale, y_scale, floor = (WIDTH - LEFT - RIGHT) / end_s, (HEIGHT - TOP - BOTTOM) / top_gib, HEIGHT - BOTTOM
    line = " ".join(f"{LEFT + t_s * x_scale:.1f},{floor - gib * y_scale:.1f}" for t_s, gib in points)
    parts = [f'<polyline points="{line}" fill="none" stroke="#0b68cb" stroke-width="1.5"/>']
    parts.append(f'<path d="M{LEFT} {TOP}V{floor}H{WIDTH - RIGHT}" fill="none" stroke="currentColor"/>')
    for quarter in range(5):
        gib, t_s = top_gib * quarter / 4, end_s * quarter / 4
        parts.append(f'<text x="{LEFT - 6}" y="{floor - gib * y_scale + 4:.1f}" text-anchor="end">{gib:.2f}</text>')
        anchor = "end" if quarter == 4 else "middle"
        parts.append(f'<text x="{LEFT + t_s * x_scale:.1f}" y="{floor + 18}" text-anchor="{anchor}">{t_s:.1f} s</text>')
    label_x = 0.0
    for x, name in sorted((LEFT + t_s * x_scale, name) for t_s, name in marks if t_s <= end_s):
        label_x = max(x, label_x + LABEL_HEIGHT)  # beside the one before, where two stages follow each other closely
        parts.append(f'<path d="M{x:.1f} {TOP}V{floor}" stroke="currentColor" stroke-dasharray="3" opacity=".5"/>')
        parts.append(f'<text transform="translate({label_x:.1f} {TOP}) rotate(90)" y="-3">{name}</text>')
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Memory over time">{"".join(parts)}</svg>'
