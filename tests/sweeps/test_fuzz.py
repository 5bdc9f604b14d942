"""Hypothesis on everything that reads foreign files: it answers or raises BadInput, and neither crashes nor passes by chance.

The examples are the same each time (tests/conftest.py); `make fuzz` and `make fuzz-atheris` run as long as you let them.
"""

import json
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadcheck.checking import gather
from loadcheck.errors import BadInput
from loadcheck.loading import judge_folder
from loadcheck.logs.endings import ENDINGS
from loadcheck.plan import make_plan, plan_from_json, plan_to_json
from loadcheck.show.page import run_page
from loadcheck.specs.profile import Profile, load_profile
from loadcheck.stacks import DIALECT, parse_log
from loadcheck.verdict import judge
from tests.conftest import ROOT, RUNS

REFERENCE = (RUNS / "t4_llama31-8b_reference.txt").read_bytes()
H100 = RUNS / "h100" / "reference-train3"
PROFILE = (ROOT / "env" / "profiles" / "llama31-8b-instruct-4bit.toml").read_text()

numbers = st.sampled_from(["0", "-1", "nan", "inf", "1e999", "9" * 400, "1,2", "١٢", "0x10", "-0.00", ""])
anchors = st.sampled_from([*DIALECT.anchors, *(literal for literal, _ in ENDINGS), 'loadcheck: {"event": "answer"'])
noise = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.tuples(anchors, numbers, st.text(max_size=20)).map(
        lambda parts: " ".join(parts).encode("utf-8", "surrogatepass") + b"\n"
    ),
    st.sampled_from([b"\r", b"\n" * 50, b"\0", b"\xff\xfe", b"\x1b]8;;x\x07", b"loadcheck: " + b"[" * 5000]),
)
logs = st.one_of(
    st.lists(noise, max_size=12).map(b"".join),
    st.tuples(st.integers(0, len(REFERENCE)), st.integers(0, 400), st.lists(noise, max_size=4).map(b"".join)).map(
        lambda cut: REFERENCE[: cut[0]] + cut[2] + REFERENCE[cut[0] + cut[1] :]
    ),
)
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-(10**400), 10**400), st.floats(), st.text(max_size=20),
    st.sampled_from(["../../x", "a\0b", "x" * 300, "[red]", "\x1b[2J", "\u202e"]),
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=8,
)


@given(log=logs)
def test_a_log_is_judged_or_refused(log: bytes, tmp_path: Path):
    """parse and check of any bytes give figures and a verdict that JSON can hold, or BadInput."""
    path = tmp_path / "log"
    path.write_bytes(log)
    try:
        evidence = gather(path)
    except BadInput:
        return
    verdict = judge(evidence)
    json.dumps(evidence.log.to_json(), allow_nan=False)
    json.dumps(verdict.to_json(), allow_nan=False)


@given(junk=st.lists(noise, max_size=6))
def test_noise_between_lines_never_turns_a_failure_into_a_pass(junk: list[bytes], tmp_path: Path):
    """The reference without its last lines never passes, whatever follows."""
    path = tmp_path / "log"
    path.write_bytes(REFERENCE[: REFERENCE.index(b"Memory profiling takes")] + b"\n" + b"".join(junk))
    assert judge(gather(path)).status != "pass"


def _toml(value: object) -> str:
    """A value in TOML's syntax."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value) if isinstance(value, str) else str(value)


KEYS = ("name", "description", "engine", "model", "weights", "max_seq_length", "load_in_4bit", "fast_inference", "max_lora_rank",
        "gpu_memory_utilization", "conservativeness", "adapters", "generation", "training")  # fmt: skip


@given(key=st.sampled_from(KEYS), value=values, flag=st.sampled_from([{}, {"adapters.r": 8}, {"training.steps": 1}]))
def test_a_profile_is_a_profile_or_bad_input(key: str, value: object, flag: dict[str, Any], tmp_path: Path):
    """A reference profile with any value for any key, with a flag or without, is a profile or BadInput."""
    kept = PROFILE[: PROFILE.index("\n[")] if "\n[" in PROFILE else PROFILE
    path = tmp_path / "p.toml"
    text = re.sub(rf"(?m)^{key} = .*\n", "", kept) + f"\n{key} = {_toml(value)}\n"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with suppress(BadInput):
        json.dumps(plan_to_json(make_plan(load_profile(str(path), flag))), allow_nan=False)


@given(
    text=st.one_of(
        st.binary(max_size=300), st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass"))
    )
)
def test_any_bytes_as_a_profile(text: bytes, tmp_path: Path):
    """Any bytes as a profile are a profile or BadInput."""
    (tmp_path / "p.toml").write_bytes(text)
    with pytest.raises(BadInput):
        load_profile(str(tmp_path / "p.toml"))


@pytest.mark.parametrize(
    "key", ["gpu_memory_utilization", "conservativeness", "adapters.lora_dropout", "training.learning_rate"]
)
@pytest.mark.parametrize(
    "number", [float("nan"), float("inf"), float("-inf"), -1.0, 10**400], ids=lambda number: str(number)[:9]
)
def test_nan_and_infinity_are_refused(key: str, number: float):
    """NaN is in no range, and no setting may be infinite."""
    with pytest.raises(BadInput):
        load_profile("llama31-8b-instruct-4bit", {key: number})


@pytest.mark.parametrize(
    "key",
    ["max_seq_length", "adapters.lora_alpha", "adapters.random_state", "generation.max_new_tokens", "training.steps"],
)
@pytest.mark.parametrize("number", [10**400, 2**64, -(2**64)], ids=lambda number: str(number)[:9])
def test_a_huge_count_is_refused(key: str, number: int):
    """A count must be one that a machine could hold."""
    with pytest.raises(BadInput):
        load_profile("llama31-8b-instruct-4bit", {key: number})


RECORD = json.loads((H100 / "run.json").read_text())


@given(key=st.sampled_from([*RECORD, "more"]), value=values)
def test_a_run_folder_is_judged_or_refused(key: str, value: object, tmp_path: Path):
    """run.json with any value for any key has a page, and passes only if the process ended by itself."""
    run = tmp_path / "run"
    run.mkdir(exist_ok=True)
    shutil.copy(H100 / "load.log", run)
    (run / "run.json").write_text(json.dumps(RECORD | {key: value}))
    try:
        loaded = judge_folder(run)
    except BadInput:
        return
    json.dumps(loaded.to_json(), allow_nan=False)
    assert run_page(loaded.record, loaded.evidence, loaded.verdict, []).endswith("</html>")
    assert not loaded.verdict.passed or loaded.record.outcome == "completed"


@given(text=st.binary(max_size=300))
def test_any_bytes_as_run_json(text: bytes, tmp_path: Path):
    """Any bytes as run.json are refused."""
    (tmp_path / "run.json").write_bytes(text)
    with pytest.raises(BadInput):
        judge_folder(tmp_path)


PLAN = plan_to_json(make_plan(load_profile("smollm2-135m-cpu")))


@given(
    table=st.sampled_from(["", "profile", "config"]),
    key=st.text(max_size=8) | st.sampled_from([*PLAN, *PLAN["profile"], *PLAN["config"]]),
    value=values,
)
def test_a_plan_is_a_plan_or_bad_input(table: str, key: str, value: object):
    """plan.json with any value for any key is a plan or BadInput."""
    data = json.loads(json.dumps(PLAN))
    (data[table] if table else data)[key] = value
    with suppress(BadInput):
        assert isinstance(plan_from_json(data).profile, Profile)


def test_a_figure_flood_stays_in_memory(tmp_path: Path):
    """Of 12,000 lines with a figure each, only a limited number is kept."""
    log = tmp_path / "log"
    log.write_bytes(b"INFO model_runner.py:1115] Loading model weights took 5.3541 GB\n" * 12_000)
    attempt = parse_log(log).last
    assert len(attempt.readings) <= 10_001
