"""The start of a server, judged by its log: kept logs of vLLM 0.7.2 on an H200 (tests/served), and each digit that they print.

Driver 580.159.04, synthetic weights of Llama 3.1 8B, `--max-num-seqs 64 --max-seq-length 2048`: `adapters` in 4-bit with two adapters of
rank 16, `merged` in 16 bits without (2026-11-29, commit e428a97; kept up to the first answer, with the middle of their progress bars
removed), and `trained` in 4-bit with the exported adapter of a training that was killed and resumed (2026-11-30, commit 45edf1a; whole).
"""

import asyncio
import json
import os
import re
import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from loadcheck.checking import gather
from loadcheck.figures import SIDE_SPECS, figure_specs
from loadcheck.logs import Outcome
from loadcheck.plan import make_plan
from loadcheck.predict import Case, card_from_device
from loadcheck.predict.card import Card
from loadcheck.serving.request import SERVER_SETTINGS
from loadcheck.serving.server import judge_start
from loadcheck.specs.files import changed
from loadcheck.specs.profile import load_profile
from loadcheck.stacks import DIALECT, parse_log
from loadcheck.stacks.plain_vllm import server
from loadcheck.stacks.plain_vllm.allocator import tight
from loadcheck.stacks.plain_vllm.gate import GRACE
from loadcheck.stacks.serving import predict_served, served_case
from loadcheck.stacks.unsloth_vllm.allocator import rounding_by
from loadcheck.stacks.unsloth_vllm.slots import lora_slots
from loadcheck.units import GIB, to_gib
from loadcheck.verdict import Check, Finding, Status, Verdict, judge
from loadcheck.verdict.diagnosis import sightings
from tests.conftest import ROOT, thinned
from tests.test_tampered import CHECKED_KINDS

SERVED = ROOT / "tests" / "served"
H200 = card_from_device("NVIDIA H200", "9.0", 150_109_880_320, 149_557_477_376)


def _case(name: str, card: Card = H200) -> Case:
    """What was requested of this log's server."""
    asked = {"max_seq_length": 2048, "max_num_seqs": 64, "weights": "synthetic", "load_in_4bit": name != "merged"}
    plan = make_plan(changed(load_profile("llama31-8b-instruct-4bit"), SERVER_SETTINGS | asked))
    case = Case(config=plan.config, profile=plan.profile, card=card, model_name=plan.model_name)
    if name != "merged":
        return served_case(case, 16, {"adapters": 2, "trained": 1}[name])
    return replace(case.changed({"model": "/tmp/r/merged", "weights": "local"}), model_name="merged")


def _judged(name: str, tmp_path: Path, old: str = "", new: str = "", case: Case | None = None) -> Verdict:
    """The verdict on a kept log in which one text is replaced."""
    text = (SERVED / f"{name}.log").read_text()
    assert old in text
    log = tmp_path / "load.log"
    log.write_text(text.replace(old, new))
    return judge_start(log, case or _case(name))


def _finding(verdict: Verdict, figure: str) -> Finding:
    return next(each for each in verdict.findings if each.figure == figure and each.check is Check.MODEL)


@pytest.mark.parametrize("name", ["adapters", "merged", "trained"])
def test_a_start_is_one_attempt_and_passes(name: str, tmp_path: Path):
    """A server's start is one attempt: its printed arguments are no load and its warnings no errors. Every predicted figure is checked."""
    (attempt,) = parse_log(SERVED / f"{name}.log").attempts
    assert attempt.outcome is Outcome.COMPLETED
    verdict = _judged(name, tmp_path)
    assert verdict.status == "pass", [each.why for each in verdict.failures()]
    compared = {each.figure for each in verdict.findings if each.check is Check.MODEL}
    assert compared >= {
        "gpu_total_gib", "weights_gib", "budget_gib", "non_torch_gib", "activation_peak_gib", "kv_cache_gib", "num_gpu_blocks", "num_cpu_blocks",
        "max_concurrency", "num_cuda_graphs", "cuda_graph_gib",
    }  # fmt: skip


def test_two_adapters_are_predicted_to_the_printed_digit():
    """Embedding rows per adapter, head rows once, the profile's peak with LoRA, and the rest, to the block."""
    figures = predict_served(_case("adapters")).figures
    memory = (figures.weights_bytes, figures.activation_peak_bytes, figures.kv_cache_bytes)
    assert [f"{to_gib(value):.4f}" for value in memory] == ["5.3483", "0.4340", "77.9418"]
    assert (figures.num_gpu_blocks, figures.num_cpu_blocks, figures.num_cuda_graphs) == (39906, 2048, 11)
    without = predict_served(replace(_case("adapters"), max_loras=0)).figures
    row_bytes = 2 * 4096
    assert figures.weights_bytes - without.weights_bytes == (2 * 256 + 256) * row_bytes


def test_the_adapter_of_a_resumed_training_changes_the_answer():
    """The same greedy chat, asked by an OpenAI client with and without it; the export's proof passed."""
    answers = json.loads((SERVED / "trained" / "answers.json").read_text())
    texts = [answer["choices"][0]["message"]["content"] for answer in answers.values()]
    assert list(answers) == ["llama-3.1-8b-instruct", "trained"] and texts[0] != texts[1]
    proof = json.loads((SERVED / "trained" / "proof.json").read_text())
    assert (proof["form"], proof["run_verdict"], proof["model"]) == ("adapters", "pass", "llama-3.1-8b-instruct")


def test_a_merged_model_is_predicted_to_the_printed_digit():
    """All figures match, except for one block of 34,971: the allocator's rests."""
    figures = predict_served(_case("merged")).figures
    assert f"{to_gib(figures.weights_bytes):.4f}" == "14.9888"
    assert abs(figures.num_gpu_blocks - 34971) == 1


def test_slots_grow_with_the_adapters_but_index_buffers_do_not():
    """Each slot has `max_loras` as its first dimension (vllm/lora/layers.py), and the index buffers do not grow; one adapter is unsloth's own case."""
    config = _case("adapters").config
    with rounding_by(tight):
        one, two, three = (lora_slots(config, 16, 2048, 64, count).num_bytes for count in (1, 2, 3))
        assert one == lora_slots(config, 16, 2048, 64).num_bytes
    indices = 8 * (6 * 2048 + 3 * 64)
    assert three - two == two - one == one - indices


def test_a_card_too_small_for_a_full_batch_is_refused():
    """The memory outside the budget, mainly the slots, must be free once requests come."""
    case = _case("adapters").changed({"gpu_memory_utilization": 0.99})
    whats = [[each.what for each in predict_served(replace(case, max_loras=count)).obstacles] for count in (2, 8, 12)]
    assert whats[0] == []
    assert whats[1][0].startswith("a full batch of requests needs") and whats[2][0].startswith("the load peaks at")


def test_an_unmeasured_card_is_judged_by_its_own_non_torch(tmp_path: Path):
    """KV cache and blocks follow from the log's non_torch, whatever was assumed before."""
    unknown = replace(H200, name="NVIDIA H300", non_torch_bytes=None, graph_node_bytes=None)
    assert _judged("adapters", tmp_path, case=_case("adapters", unknown)).status == "pass"
    far = replace(H200, non_torch_bytes=round(0.3 * GIB))
    failed = {each.figure for each in _judged("adapters", tmp_path, case=_case("adapters", far)).failures()}
    assert failed == {"non_torch_gib"}


@pytest.mark.parametrize(
    ("count", "figure"), [(1, "weights_gib"), (3, "weights_gib"), (0, "weights_gib")], ids=["one", "three", "none"]
)
def test_another_number_of_adapters_fails(count: int, figure: str, tmp_path: Path):
    """Another number of adapters fails, as its rows among the weights differ."""
    case = replace(_case("adapters"), max_loras=count)
    assert _finding(_judged("adapters", tmp_path, case=case), figure).status is Status.FAIL


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("v0.7.2)", "v0.7.3)"),
        ("cudagraph_capture_sizes\":[64,56", "cudagraph_capture_sizes\":[64,55"),
        ("enable_prefix_caching=False", "enable_prefix_caching=True"),
        ("max_seq_len=2048", "max_seq_len=4096"),
        ("quantization=bitsandbytes", "quantization=None"),
        ("load_format=LoadFormat.BITSANDBYTES", "load_format=LoadFormat.AUTO"),
        ("INFO 11-29 18:22:40 llm_engine.py:431] init engine", "INFO 11-29 18:22:40 llm_engine.py:431] init nothing"),
    ],
)  # fmt: skip
def test_a_start_that_differs_from_the_request_fails(old: str, new: str, tmp_path: Path):
    """Another release, other settings, and a start that did not finish fail."""
    assert _judged("adapters", tmp_path, old, new).status == "fail"


def test_a_second_start_in_one_log_is_a_second_attempt(tmp_path: Path):
    """A server that started twice in one log fails."""
    text = (SERVED / "merged.log").read_text()
    log = tmp_path / "load.log"
    log.write_text(text + text)
    assert judge_start(log, _case("merged")).failures()[0].figure == "attempts"


@pytest.mark.parametrize(
    ("name", "note"), [("adapters", "how many adapters it serves"), ("merged", "is not in env/models")]
)
def test_a_servers_log_alone_is_judged_as_such(name: str, note: str):
    """Without its run, a server's log is judged by its own figures; no line of unsloth's is required, and a note says what is not predicted."""
    verdict = judge(gather(SERVED / f"{name}.log"))
    assert verdict.status == "pass"
    assert any(each.status is Status.SKIPPED and note in each.why for each in verdict.findings)


def test_lora_without_a_server_is_unsloths(tmp_path: Path):
    """unsloth's log without unsloth's lines is incomplete, not a server's."""
    log = tmp_path / "load.log"
    log.write_text((SERVED / "adapters.log").read_text().replace("vLLM API server version", ""))
    assert "unsloth" in {each.figure for each in judge(gather(log)).failures()}


# ------------------------------------------------------------------------------- the server's module, without the packages that it starts


class _Listening:
    """uvicorn's server, up to listening and being told to stop."""

    should_exit = False

    async def startup(self, sockets: Any = None) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    async def serve(self) -> bool:
        """Whether it stops by itself after a signal, which its owner would otherwise handle by cancelling it."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, loop.stop)
        await self.startup(sockets=None)
        for _ in range(100):
            await asyncio.sleep(0.01)
            if self.should_exit:
                break
        loop.remove_signal_handler(signal.SIGTERM)
        loop.remove_signal_handler(signal.SIGINT)
        return self.should_exit


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Fakes of vllm's and uvicorn's modules; the server's arguments are stored in the dict."""
    seen: dict[str, Any] = {}

    class Parser:
        def __init__(self, **_: str) -> None: ...
        def parse_args(self) -> str:
            return "parsed"

    modules: dict[str, dict[str, Any]] = {
        "uvicorn": {"Server": type("Server", (_Listening,), {})},
        "uvloop": {"run": lambda served: seen.update(run=served)},
        "vllm": {},
        "vllm.utils": {"FlexibleArgumentParser": Parser},
        "vllm.entrypoints": {},
        "vllm.entrypoints.openai": {},
        "vllm.entrypoints.openai.api_server": {"run_server": lambda args, **more: (args, more)},
        "vllm.entrypoints.openai.cli_args": {
            "make_arg_parser": lambda parser: parser,
            "validate_parsed_serve_args": lambda args: seen.update(validated=args),
        },
    }
    for name, names in modules.items():
        module = ModuleType(name)
        vars(module).update(names)
        monkeypatch.setitem(sys.modules, name, module)
    return seen


def test_the_server_is_run_with_a_grace_limit(packages: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    """The server is run as by vLLM's own module, with checked arguments, and a grace limit in uvicorn's whole seconds."""
    monkeypatch.setenv(GRACE, "29.5")
    server.main()
    assert packages == {"validated": "parsed", "run": ("parsed", {"timeout_graceful_shutdown": 30})}


def test_a_signal_lets_the_server_end_by_itself(packages: dict[str, Any]):
    """A signal ends the server by itself. The launcher's handler, set up before it listens, would cancel it and end the engine first."""
    server.shut_down_in_order()
    assert asyncio.run(sys.modules["uvicorn"].Server().serve())


# -------------------------------------------------------------------------------------------------------------- each digit

TEXT = (SERVED / "adapters.log").read_text()
WITHIN_ITS_BAND = {("profile non_torch", 1), ("profile activation", 1), ("blocks", 1), ("captured", 1)}
"""(line, digits from the end) that may differ by one: figures with a band that no other line contradicts (bands.py)."""


def _digits() -> dict[int, str]:
    """Position in the log of each digit of a memory figure or a count, with its line."""
    specs = figure_specs() | SIDE_SPECS
    found: dict[int, str] = {}
    for format in DIALECT.formats:
        for match in format.pattern.finditer(TEXT):
            for group, capture in enumerate(format.captures, 1):
                spec = specs[capture.attribute]
                if not (spec.kind in CHECKED_KINDS or spec.name == "graph_sizes"):
                    continue
                digits = list(re.finditer(r"\d", match.group(group)))
                for left, at in zip(range(len(digits), 0, -1), digits, strict=True):
                    if (format.name, left) not in WITHIN_ITS_BAND or (format.name == "blocks" and group == 2):
                        found[match.start(group) + at.start()] = format.name
    return found


DIGITS = _digits()


@pytest.mark.parametrize("position", thinned([*DIGITS]), ids=lambda at: f"{DIGITS[at]}@{at}".replace(" ", "-"))
def test_a_changed_digit_is_no_pass(position: int, tmp_path: Path):
    """Each digit changed by one, alternately up and down, is no pass."""
    digit = (int(TEXT[position]) + (1 if position % 2 else -1)) % 10
    log = tmp_path / "tampered.log"
    log.write_text(f"{TEXT[:position]}{digit}{TEXT[position + 1 :]}")
    assert judge_start(log, _case("adapters")).status == "fail"


# -------------------------------------------------------------------------------------------- what a record that is no error quotes

QUOTED = "fd limit errors like`OSError: [Errno 24] Too many open files`. Consider increasing with ulimit -n"


def _troubles(line: str, tmp_path: Path) -> list[str]:
    """The troubles found in a failed start with this line."""
    log = tmp_path / "load.log"
    log.write_text("\n".join([*TEXT.splitlines()[:20], line, "ValueError: something else", ""]))
    return [sighting.trouble.id for sighting in sightings(parse_log(log))]


@pytest.mark.parametrize("level", ["WARNING", "INFO", "DEBUG"])
def test_a_warning_that_quotes_an_error_is_no_error(level: str, tmp_path: Path):
    """vLLM warns of a low limit of open files with the words of the later error (vllm/utils.py:2081-2086)."""
    assert "open-files" not in _troubles(
        f"{level} 11-29 18:22:03 utils.py:2081] Found ulimit of 20000; {QUOTED}", tmp_path
    )


@pytest.mark.parametrize(
    "line",
    [
        "OSError: [Errno 24] Too many open files",
        "WARNING 11-29 18:22:03 loader.py:1] [Errno 24] Too many open files",
        "WARNING 11-29 18:22:03 loader.py:1] opening `a` gave [Errno 24] Too many open files",
        "ERROR 11-29 18:22:03 engine.py:387] `OSError: [Errno 24] Too many open files`",
    ],
)
def test_an_error_counts_in_any_record(line: str, tmp_path: Path):
    """An error counts on its own line, in a record that does not quote it, and in a record of level error."""
    assert "open-files" in _troubles(line, tmp_path)
