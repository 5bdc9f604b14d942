"""Reading load logs in every known dialect."""

import re
import time
from pathlib import Path

import pytest

from loadcheck.errors import BadInput
from loadcheck.logs import Outcome
from loadcheck.logs.event_lines import find_event, format_event
from loadcheck.logs.events import Answered, Device, WeightsLoaded
from loadcheck.logs.text import BLOCK_BYTES
from loadcheck.stacks import parse_log
from tests.conftest import thinned
from tests.sample_logs import sample_log, with_public_logs

T4_FIGURES = {
    "gpu_name": "Tesla T4", "gpu_total_gib": 14.741, "compute_capability": "7.5",
    "unsloth": "2025.2.5", "vllm": "0.7.2", "torch": "2.5.1+cu124", "cuda": "12.4", "triton": "3.1.0",
    "transformers": "4.48.2", "xformers": "0.0.28.post3",
    "model": "unsloth/meta-llama-3.1-8b-instruct-bnb-4bit", "dtype": "float16", "quantization": "nf4",
    "max_model_len": 512, "gpu_memory_utilization_pct": 59.59, "chunked_prefill_tokens": 512, "max_num_seqs": 160,
    "kv_estimate_gib": 2.61, "swap_gib": 2,
    "weights_gib": 5.3541, "budget_gib": 8.78, "non_torch_gib": 0.05, "activation_peak_gib": 0.74, "kv_cache_gib": 2.64,
    "num_gpu_blocks": 1353, "num_cpu_blocks": 1024, "max_concurrency": 42.28,
    "num_cuda_graphs": 23, "cuda_graph_gib": 0.58, "profile_s": 11.34, "graph_capture_s": 41, "engine_init_s": 54.71,
    "patched_layers": 32, "patched_qkv": 32, "patched_o": 32, "patched_mlp": 32,
}  # fmt: skip


def _write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_every_figure_of_the_reference(t4_log: Path):
    """The T4 reference has exactly these figures."""
    parsed = parse_log(t4_log)
    assert {name: value for name, value in parsed.last.figures.to_json().items() if value is not None} == T4_FIGURES
    assert (parsed.outcome, len(parsed.attempts)) == (Outcome.COMPLETED, 1)


def test_readings_name_their_line(t4_log: Path):
    """A figure names the line that it was read from."""
    reading = parse_log(t4_log).last.reading("weights_bytes")
    assert reading is not None
    assert "took 5.3541 GB" in t4_log.read_text().splitlines()[reading.line - 1]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: " ".join(text.split("\n")),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "".join(f"(VllmWorkerProcess pid=7) {line}\n" for line in text.split("\n")),
        lambda text: "".join(f"\x1b[32m[rank0]:\x1b[0m {line}\n" for line in text.split("\n")),
        lambda text: "".join(f"    # {line}\n" for line in text.split("\n")),
        lambda text: text.replace("# CUDA blocks", "# cuda blocks"),
        lambda text: text.replace("config.py:542](http://config.py:542/)]", "config.py:542]"),
    ],
    ids=["one line", "crlf", "worker prefix", "colour", "comment", "cuda blocks", "no markdown"],
)
def test_dialects_give_the_same_figures(change, t4_log: Path, tmp_path: Path):
    """However a log was pasted or prefixed, it has the same figures."""
    log = _write(tmp_path / "log", change(t4_log.read_text()))
    figures = parse_log(log).last.figures.to_json()
    assert {name: value for name, value in figures.items() if value is not None} == T4_FIGURES


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_other_encodings(encoding: str, t4_log: Path, tmp_path: Path):
    """A log from PowerShell (UTF-16 or UTF-8, with a byte order mark) is read."""
    log = tmp_path / "log"
    log.write_text(t4_log.read_text(), encoding=encoding)
    assert parse_log(log).last.figures.num_gpu_blocks == 1353


def test_no_break_spaces_are_spaces(t4_log: Path, tmp_path: Path):
    """U+00A0 from a web page is read as a space."""
    text = t4_log.read_text(encoding="utf-8").replace(" ", "\u00a0")
    assert parse_log(_write(tmp_path / "log", text)).last.figures == parse_log(t4_log).last.figures


def test_terminal_codes_are_ignored(t4_log: Path, tmp_path: Path):
    """Colours of figures and words, tput's reset and a collector's own strings do not change what is read."""
    text = re.sub(r"(\d+\.\d+|took|blocks)", "\x1b[1;36m\\1\x1b(B\x1b[m", t4_log.read_text(encoding="utf-8"))
    text = "".join(f"\x1b_bk;t=17394620{n:02d}\x07{line}\n" for n, line in enumerate(text.splitlines()))
    assert parse_log(_write(tmp_path / "log", text)).last.figures == parse_log(t4_log).last.figures


def test_a_progress_bar_rewritten_in_place_is_one_line(tmp_path: Path, t4_log: Path):
    """A progress bar that is redrawn with carriage returns gives its total once."""
    bar = "".join(f"\rCapturing CUDA graph shapes: {n}%|█| {n}/23 [00:40<00:00]" for n in range(24))
    text = t4_log.read_text().replace("Capturing CUDA graph shapes: 100%|██████████| 23/23", bar)
    attempt = parse_log(_write(tmp_path / "log", text)).last
    assert (attempt.figures.num_cuda_graphs, attempt.formats["capture progress"]) == (23, 1)


@pytest.mark.parametrize(
    ("log", "cache_gib"),
    with_public_logs(
        [("negative non_torch", -0.6)], [("web_2025_RTX3050-6GB_qwen2.5-7b-bnb_negativeKV_vllm0.7.3.txt", -0.94)]
    ),
)
def test_negative_figures(log: str, cache_gib: float, tmp_path: Path):
    """The KV cache and non_torch may be negative, and lines may be wrapped anywhere."""
    figures = parse_log(sample_log(log, tmp_path)).last.figures.to_json()
    assert (figures["kv_cache_gib"], figures["non_torch_gib"], figures["num_gpu_blocks"]) == (cache_gib, -0.51, 0)


LATER = ("num_gpu_blocks", "weights_gib", "weights_load_s", "activation_peak_gib", "max_num_seqs")


@pytest.mark.parametrize(
    ("log", "expected"),
    with_public_logs(
        [
            ("one line", (26624, 1.0755, 61.2, 1.4, 256)),
            ("vllm 0.9 vision", (8028, 5.2133, 61.2, 1.06, 192)),
        ],
        [
            ("web_2025-08-29_4090D_qwen2.5-0.5b_oneline_unsloth2025.8.6.txt", (87853, 0.5153, 6.2, 1.61, 288)),
            ("nb_2025-09-15_Qwen2_5_7B_VL_GRPO_c2b8.txt", (1706, 7.1459, 137.27, 2.71, 1)),
        ],
    ),
)
def test_later_dialects(log: str, expected: tuple[float, ...], tmp_path: Path):
    """vLLM 0.8 and 0.9 print weights and blocks in other words; one of these logs is a single line."""
    figures = parse_log(sample_log(log, tmp_path)).last.figures.to_json()
    assert tuple(figures[name] for name in LATER) == expected


def test_trainable_params_may_be_repeated(t4_log: Path, tmp_path: Path):
    """A training may print peft's line again; with other numbers it is a different line."""
    line = "trainable params: 83,886,080 || all params: 8,114,147,328 || trainable%: 1.0338\n"
    text = t4_log.read_text(encoding="utf-8").rstrip("\n") + "\n" + line
    assert parse_log(_write(tmp_path / "log", text + line)).last.formats["trainable"] == 1
    assert parse_log(_write(tmp_path / "other", text + line.replace("83,", "41,"))).last.formats["trainable"] == 2


def test_a_second_load_is_a_second_attempt(t4_log: Path, tmp_path: Path):
    """Two loads in one log are two attempts, and the last one counts."""
    second = t4_log.read_text().replace("took 5.3541 GB", "took 5.3229 GB")
    parsed = parse_log(_write(tmp_path / "log", t4_log.read_text() + second))
    assert [attempt.figures.to_json()["weights_gib"] for attempt in parsed.attempts] == [5.3541, 5.3229]


RETRIED = """Unsloth: vLLM loading m-bnb-4bit with actual GPU utilization = 59.59%
Unsloth: Using conservativeness = 1.0. Chunked prefill tokens = 512. Num Sequences = 160.
INFO 02-13 15:56:09 model_runner.py:1115] Loading model weights took 5.3541 GB
Unsloth: Retrying vLLM to process 120 sequences and 2816 tokens in tandem.
Error:
No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when initializing the engine.
INFO 02-13 15:56:09 model_runner.py:1115] Loading model weights took 5.3229 GB
INFO 02-13 15:57:03 llm_engine.py:431] init engine (profile, create kv cache, warmup model) took 54.71 seconds
Unsloth 2025.2.5 patched 32 layers with 32 QKV layers, 32 O layers and 32 MLP layers.
"""


def test_a_retry_is_an_attempt_with_its_own_sequences(tmp_path: Path):
    """A retry has its own number of sequences; plan and adapters, printed once, belong to both attempts; the error to the first."""
    first, second = parse_log(_write(tmp_path / "log", RETRIED)).attempts
    assert (first.figures.max_num_seqs, second.figures.max_num_seqs) == (160, 120)
    assert first.figures.chunked_prefill_tokens == second.figures.chunked_prefill_tokens == 512
    assert first.figures.gpu_memory_utilization_pct == second.figures.gpu_memory_utilization_pct == 59.59
    assert first.figures.patched_layers == second.figures.patched_layers == 32
    assert (first.outcome, second.outcome) == (Outcome.FAILED, Outcome.COMPLETED)


OUTCOMES = [
    ("length cut", Outcome.PARTIAL),
    ("two workers", Outcome.FAILED),
    ("full length", Outcome.FAILED),
    ("shared device", Outcome.FAILED),
    ("vllm 0.8 mistral", Outcome.COMPLETED),
]
OUTCOMES_PUBLIC = [
    ("gh_unsloth-2298_L4_phi3.5_util0.3_partial.txt", Outcome.PARTIAL),
    ("gh_vllm-13061_4090TP2_qwen14b_kvfail.txt", Outcome.FAILED),
    ("web_2025-03-25_A10G-22_llama3.1-8b-bf16_kvfail_vllm0.7.1.txt", Outcome.FAILED),
    ("web_2026_JetsonOrin_JP6_qwen2.5-vl-7b-awq_cotenant.txt", Outcome.FAILED),
    ("nb_2025-05-13_HuggingFace_Course_Mistral_v0_3_7B_GRPO_d225.txt", Outcome.COMPLETED),
]


@pytest.mark.parametrize(("log", "outcome"), with_public_logs(OUTCOMES, OUTCOMES_PUBLIC))
def test_outcomes(log: str, outcome: Outcome, tmp_path: Path):
    """A load that reached `init engine … took` is completed, one with an error failed, any other partial."""
    assert parse_log(sample_log(log, tmp_path)).outcome is outcome


def test_an_error_after_the_load_fails_it(t4_log: Path, tmp_path: Path):
    """An error after complete figures fails the load."""
    text = t4_log.read_text() + "\ntorch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.\n"
    attempt = parse_log(_write(tmp_path / "log", text)).last
    assert attempt.outcome is Outcome.FAILED
    assert attempt.error is not None and attempt.error.text.startswith("torch.OutOfMemoryError: CUDA out of memory")


IGNORED = """\
Exception ignored in: <function Engine.__del__ at 0x7f0000000000>
Traceback (most recent call last):
  File "engine.py", line 3, in __del__
TypeError: 'NoneType' object is not callable
"""
LOGGING = """\
--- Logging error ---
Traceback (most recent call last):
  File "/usr/lib/python3.11/logging/__init__.py", line 1113, in emit
ValueError: I/O operation on closed file.
Call stack:
"""


@pytest.mark.parametrize("printed", [IGNORED, LOGGING, IGNORED + IGNORED])
def test_an_ignored_exception_is_no_failure(printed: str, t4_log: Path, tmp_path: Path):
    """What CPython 3.11 prints about an exception in `__del__` or a log handler does not affect the outcome."""
    assert parse_log(_write(tmp_path / "log", t4_log.read_text() + printed)).outcome is Outcome.COMPLETED


@pytest.mark.parametrize("after", [IGNORED.partition("\n")[2], "torch.OutOfMemoryError: CUDA out of memory. Tried\n"])
def test_an_error_after_an_ignored_one_counts(after: str, t4_log: Path, tmp_path: Path):
    """Only the ignored exception is skipped, not an error after it."""
    assert parse_log(_write(tmp_path / "log", t4_log.read_text() + IGNORED + after)).outcome is Outcome.FAILED


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "empty"), (b"\x7fELF\x02\x01\0\0\0", "binary"), (b"hello\nworld\n", "no line of a load log")],
)
def test_a_file_that_is_no_log_is_refused(content: bytes, words: str, tmp_path: Path):
    """An empty file, a binary one and other text are each refused with their own reason."""
    log = tmp_path / "log"
    log.write_bytes(content)
    with pytest.raises(BadInput, match=words) as caught:
        parse_log(log)
    assert str(log) in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path):
    """An unreadable path is refused with the reason."""
    with pytest.raises(BadInput, match="No such file"):
        parse_log(tmp_path / "nothing")
    with pytest.raises(BadInput, match="a folder"):
        parse_log(tmp_path)


def test_a_truncated_log_is_partial(t4_log: Path, tmp_path: Path):
    """A log cut anywhere before the engine was ready is partial, and its figures are kept."""
    text = t4_log.read_text()
    attempt = parse_log(_write(tmp_path / "log", text[: text.index("Capturing cudagraphs")])).last
    assert (attempt.outcome, attempt.figures.num_gpu_blocks, attempt.figures.cuda_graph_bytes) == (
        Outcome.PARTIAL, 1353, None,
    )  # fmt: skip


def test_a_file_of_endless_loads_is_refused(tmp_path: Path):
    """Hostile input that starts load after load is refused, not kept in memory."""
    line = "vLLM loading x with actual GPU utilization = 1% # CUDA blocks: 1, # CPU blocks: 1\n"
    with pytest.raises(BadInput, match="more than 1000 loads begin"):
        parse_log(_write(tmp_path / "log", line * 2_000))


def test_an_endless_line_is_cut(tmp_path: Path, t4_log: Path):
    """A line of over a megabyte is cut, and what follows it is read."""
    log = _write(tmp_path / "log", "x" * 1_200_000 + "\n" + t4_log.read_text())
    assert parse_log(log).last.figures.num_gpu_blocks == 1353


def test_a_line_with_an_overlong_number_is_missing(t4_log: Path, tmp_path: Path):
    """A line with an overlong figure counts as missing, so that no coarser reading replaces it unnoticed."""
    log = _write(tmp_path / "log", t4_log.read_text().replace("59.59%", "59." + "9" * 400 + "%"))
    assert parse_log(t4_log).last.formats["plan utilization"] == 1
    assert parse_log(log).last.formats["plan utilization"] == 0


def test_an_event_is_one_ascii_line():
    """No value of an event can break its line or colour the terminal, and it reads back unchanged."""
    event = Answered(
        text="a\nloadcheck: {\x1b[31m", num_new_tokens=2, first_token_unix_s=None, expected=None, found=None
    )
    line = format_event(event)
    assert line.isascii() and line.isprintable()
    assert find_event(line) == event


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"no": "event"}', '{"event": 1}', "[" * 100_000])
def test_invalid_events_are_none(text: str):
    """Broken JSON, another type or a missing name is no event, at any depth."""
    assert find_event(f"loadcheck: {text}") is None


def test_an_invalid_compute_capability_is_not_read(tmp_path: Path, t4_log: Path):
    """An event's compute capability is used only if it looks like one."""
    events = {text: format_event(Device(compute_capability=text)) for text in ("9.0", "9.08.post3", "٩.٠")}
    read = {
        text: parse_log(_write(tmp_path / "log", f"{t4_log.read_text()}\n{line}\n")) for text, line in events.items()
    }
    values = {
        text: [r.value for r in log.last.readings if r.attribute == "compute_capability"] for text, log in read.items()
    }
    assert {text for text, found in values.items() if text in found} == {"9.0"}


def test_events_hold_exact_figures(tmp_path: Path):
    """A figure in an event is exact, and preferred to a rounded one."""
    log = _write(
        tmp_path / "log",
        "INFO x] Loading model weights took 5.3541 GB\n"
        + format_event(WeightsLoaded(weights_bytes=5_748_957_184)) + "\n",
    )  # fmt: skip
    assert parse_log(log).last.figures.weights_bytes == 5_748_957_184


def test_a_nul_at_the_end_of_every_line_changes_nothing(t4_log: Path, tmp_path: Path):
    """A NUL shows nothing on a terminal, and is no part of a version or a number."""
    path = tmp_path / "log"
    path.write_bytes(t4_log.read_bytes().replace(b"\n", b"\0\n"))
    assert parse_log(path).last.figures == parse_log(t4_log).last.figures


@pytest.mark.parametrize(
    "begin", thinned(["args: Namespace(", "args: Namespace(a=1, ", "args: Namespace( max_model_len="])
)
def test_a_line_of_many_servers_arguments_is_read_quickly(begin: str, t4_log: Path, tmp_path: Path):
    """Each search for an argument ends where another server's arguments begin: such a line of 1 MiB took a minute."""
    log = _write(tmp_path / "log", t4_log.read_text() + begin * (2**18 // len(begin)) + "\n")
    start_s = time.process_time()
    parse_log(log)
    assert time.process_time() - start_s < 2


@pytest.mark.parametrize(("begin", "goes_on"), thinned([("[1]", " "), ("1", "1")]))
def test_a_line_of_blanks_or_digits_is_read_quickly(begin: str, goes_on: str, t4_log: Path, tmp_path: Path):
    """Reports of shells have few of both: a line of 1 MiB took hours, or 6 s."""
    log = _write(tmp_path / "log", t4_log.read_text() + begin + goes_on * 2**19 + " killed\n")
    start_s = time.process_time()
    assert parse_log(log).outcome is Outcome.COMPLETED
    assert time.process_time() - start_s < 2


def _wrapped(text: str, width: int) -> str:
    return "\n".join(line[at : at + width] for line in text.splitlines() for at in range(0, max(len(line), 1), width))


@pytest.mark.parametrize("width", [47, 80])
def test_a_wrapped_last_line_needs_no_line_break(width: int, t4_log: Path, tmp_path: Path):
    """The last line is read with what it was wrapped off, also where the file does not end in a line break."""
    log = tmp_path / "load.log"
    log.write_text(_wrapped(t4_log.read_text().rstrip(), width))
    reading = parse_log(log).last.reading("patched_layers")
    assert reading is not None and reading.value == 32


@pytest.mark.parametrize("before_end", thinned([688, 1755, 3000]))
def test_a_wrapped_line_is_read_across_a_block(before_end: int, t4_log: Path, tmp_path: Path):
    """A file is read in blocks: a line that was wrapped where one ends is read as a whole."""
    log, width = tmp_path / "load.log", 80
    filler = "step done\n" * (BLOCK_BYTES // 10)
    log.write_text(filler[before_end - BLOCK_BYTES % 10 :] + _wrapped(t4_log.read_text(), width) + "\n")
    attempt = parse_log(log).last
    missing = [
        name for name in ("plan utilization", "engine model", "engine dtype", "weights") if not attempt.formats[name]
    ]
    assert missing == []
