"""With one digit of a memory figure or a count changed in the reference log, the check fails and names the figure."""

import re
from itertools import product
from pathlib import Path

import pytest

from loadcheck.checking import gather
from loadcheck.figures import SIDE_SPECS, Kind, figure_specs
from loadcheck.stacks import DIALECT
from loadcheck.verdict import Check, Status, judge
from tests.conftest import RUNS, thinned

T4_TEXT = (RUNS / "t4_llama31-8b_reference.txt").read_text()
CHECKED_KINDS = {Kind.COUNT, Kind.MEMORY, Kind.PERCENT, Kind.RATIO}


def _digits() -> dict[int, set[str]]:
    """Position in the log of each digit of a memory figure or a count, with its figures."""
    specs = figure_specs() | SIDE_SPECS
    found: dict[int, set[str]] = {}
    for format in DIALECT.formats:
        for match in format.pattern.finditer(T4_TEXT):
            for group, capture in enumerate(format.captures, 1):
                spec = specs[capture.attribute]
                if spec.name == "conservativeness" or not (spec.kind in CHECKED_KINDS or spec.name == "graph_sizes"):
                    continue
                for at in re.finditer(r"\d", match.group(group)):
                    found.setdefault(match.start(group) + at.start(), set()).add(spec.name)
    return found


DIGITS = _digits()


def test_every_figure_of_the_reference_is_tampered_with():
    """All memory figures and counts of the log have digits in the test below."""
    assert set().union(*DIGITS.values()) >= {
        "gpu_total_gib", "gpu_memory_utilization_pct", "max_num_seqs", "chunked_prefill_tokens", "kv_estimate_gib",
        "swap_gib", "max_model_len", "weights_gib", "budget_gib", "non_torch_gib", "activation_peak_gib", "kv_cache_gib",
        "num_gpu_blocks", "num_cpu_blocks", "max_concurrency", "num_cuda_graphs", "cuda_graph_gib",
        "patched_layers", "patched_qkv", "patched_o", "patched_mlp",
    }  # fmt: skip


def check_position(position: int, digits: str, log: Path) -> None:
    """Changed to any of `digits`, the digit there makes the verdict fail, with a failing finding on its figure."""
    for digit in digits:
        if digit == T4_TEXT[position]:
            continue
        log.write_text(T4_TEXT[:position] + digit + T4_TEXT[position + 1 :])
        verdict = judge(gather(log))
        assert verdict.status == "fail", f"{T4_TEXT[position]} -> {digit} passed"
        named = {finding.figure for finding in verdict.findings if finding.status is Status.FAIL}
        assert named & DIGITS[position], f"{T4_TEXT[position]} -> {digit} blamed {named}"


@pytest.mark.parametrize("position", thinned([*DIGITS]), ids=lambda at: f"{min(DIGITS[at])}@{at}")
def test_a_changed_digit_fails_and_is_named(position: int, tmp_path: Path):
    """With a digit changed by one, alternately up and down, the verdict is fail, and a finding names the figure. All other changes: tests/sweeps."""
    changed = int(T4_TEXT[position]) + (1 if position % 2 else -1)
    check_position(position, str(changed % 10), tmp_path / "tampered.log")


NAMES = sorted(set().union(*DIGITS.values()) - {"graph_sizes"})


@pytest.mark.parametrize(("number", "name"), thinned([*product(("0", "0.00", "-1", "99999999"), NAMES)]))
def test_a_figure_that_is_absurd_on_every_line_fails(number: str, name: str, tmp_path: Path):
    """The same absurd number wherever the log has the figure agrees with itself, and the verdict is still fail."""
    positions = {at for at, names in DIGITS.items() if name in names}
    spans = {re.compile(r"[\d.]*\d").search(T4_TEXT, _start(at)).span() for at in positions}
    text = T4_TEXT
    for start, end in sorted(spans, reverse=True):
        text = text[:start] + number + text[end:]
    log = tmp_path / "absurd.log"
    log.write_text(text)
    assert judge(gather(log)).status == "fail"


def _start(position: int) -> int:
    """The start of the number with a digit at `position`."""
    return position - len(re.search(r"[\d.]*$", T4_TEXT[:position]).group())


def test_a_changed_card_name_is_judged_as_an_unknown_card(tmp_path: Path):
    """A T4's log that says T40 is judged without the T4's ranges and constants, and a note says so."""
    log = tmp_path / "renamed.log"
    log.write_text(T4_TEXT.replace("Tesla T4", "Tesla T40"))
    evidence = gather(log)
    assert (evidence.gpu, evidence.expected) == (None, None)
    findings = judge(evidence).findings
    notes = [finding.why for finding in findings if finding.status is Status.SKIPPED]
    assert any(why.startswith("Tesla T40 is not in env/gpus.toml") for why in notes)
    (graphs,) = [each for each in findings if each.figure == "cuda_graph_gib" and each.check is Check.MODEL]
    assert "never measured on this card" in graphs.why


def test_a_swapped_model_name_fails_by_its_kv_blocks(tmp_path: Path):
    """A log that names another known model fails by its KV blocks, not by the name alone."""
    log = tmp_path / "renamed.log"
    log.write_text(T4_TEXT.replace("meta-llama-3.1-8b-instruct", "llama-3.2-3b-instruct"))
    named = {f.figure for f in judge(gather(log)).failures()}
    assert {"num_gpu_blocks", "num_cpu_blocks", "patched_layers"} <= named
