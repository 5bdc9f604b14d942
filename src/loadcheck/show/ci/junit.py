"""JUnit XML, as Jenkins, GitLab, Buildkite, Azure and most others read it.

There is no one schema; this is valid by the strictest in use (Ant's, with every attribute) and by that of Jenkins' xUnit plugin
(junit-10): both were checked on 2026-11-29.
"""

from __future__ import annotations

from xml.etree.ElementTree import Element, SubElement, indent, tostring

from loadcheck.errors import printable
from loadcheck.show.ci.report import Outcome, Report, Result

HOST = "localhost"
"""Reports do not name the machine."""


def junit(report: Report) -> str:
    """The document: a suite for each step of judging, a case for each check; a refused check is a failure."""
    root = Element("testsuites")
    suites: dict[str, list[Result]] = {}
    for each in report.results:
        suites.setdefault(each.group, []).append(each)
    for number, (group, results) in enumerate(suites.items()):
        _suite(root, report, number, group, results)
    indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(root, encoding="unicode") + "\n"


def _suite(root: Element, report: Report, number: int, group: str, results: list[Result]) -> None:
    outcomes = [each.outcome for each in results]
    attributes = {
        "id": number, "name": group, "package": "loadcheck", "timestamp": f"{report.started:%Y-%m-%dT%H:%M:%S}", "hostname": HOST,
        "tests": len(results), "failures": outcomes.count(Outcome.FAILED), "errors": outcomes.count(Outcome.ERROR), "skipped": outcomes.count(Outcome.SKIPPED),
        "time": f"{report.duration_s if number == 0 else 0:.3f}",
    }  # fmt: skip
    suite = SubElement(root, "testsuite", {name: _text(value) for name, value in attributes.items()})
    properties = SubElement(suite, "properties")
    for name, value in (("verdict", report.status), *report.facts):
        SubElement(properties, "property", {"name": name, "value": _text(value)})
    for each in results:
        _case(suite, each)
    SubElement(suite, "system-out").text = _text(f"{report.title}: {report.status.upper()}, {report.summary}")
    SubElement(suite, "system-err").text = _text("; ".join(filter(None, (report.cause, report.fix))))


def _case(suite: Element, result: Result) -> None:
    case = SubElement(
        suite, "testcase", {"name": _text(result.name), "classname": _text(f"loadcheck.{result.group}"), "time": "0"}
    )
    if result.outcome.is_bad:
        tag = "error" if result.outcome is Outcome.ERROR else "failure"
        SubElement(case, tag, {"message": _text(result.message), "type": result.kind}).text = _text(result.message)
    elif result.outcome is Outcome.SKIPPED:
        SubElement(case, "skipped", {"message": _text(result.message)})


def _text(value: object) -> str:
    """Text without the characters that XML 1.0 forbids: a log may hold any."""
    return printable(str(value))
