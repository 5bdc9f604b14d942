"""Diagnosis of a failed load from its log alone: every known trouble by its own words, and none in a log that passes."""

import subprocess
import sys
from pathlib import Path

import pytest

from loadcheck.checking import gather
from loadcheck.errors import BadInput
from loadcheck.logs.formats import Stage
from loadcheck.specs.files import validate
from loadcheck.specs.trouble import Trouble, Troubles, anchor_of, load_troubles
from loadcheck.stacks import parse_log
from loadcheck.verdict import Check, Finding, Status, judge
from loadcheck.verdict.diagnosis import sightings
from loadcheck.verdict.stage import FRAMES
from tests.conftest import ROOT, RUNS, SHARED_LOGS
from tests.sample_logs import SAMPLES, sample_log, with_public_logs

EXCERPTS = sorted((ROOT / "tests" / "troubles").glob("*.txt"))
OOM = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1002.00 MiB. GPU 0 has a total capacity of 14.74 GiB of which "
    "120.12 MiB is free. Process 4242 has 14.62 GiB memory in use."
)
# The words that the load had printed last when memory ran out: the same error means something else each time.
OOM_AFTER = {
    "oom-weights": "Starting to load model",
    "oom-profile": "Loading model weights took",
    "oom-after-profile": "Maximum concurrency",
    "oom-graphs": "Capturing CUDA graph shapes",
    "oom-after-load": "QKV layers",
}
BY_ID = {trouble.id: trouble for trouble in load_troubles()}
NOT_FINISHED_BUT_FINE = {  # excerpts of loads whose end was not kept
    *("v1", "repeated", "ends after blocks", "notes"),
    "gh_vllm-17122_L40S_llama3.1-8b_V1.txt",
    "nb_2025-04-29_Meta_Synthetic_Data_Llama3.1_8B__0388.txt",
    "web_2025-03-01_A10-22_qwen1.5b-class_vllm0.7.2.txt",
    "web_V100-16_opt6.7b_offload_notes.txt",
}


def _diagnoses(log: Path) -> dict[str, Finding]:
    """Trouble id -> its finding."""
    findings = judge(gather(log)).findings
    return {finding.trouble: finding for finding in findings if finding.trouble}


@pytest.mark.parametrize("excerpt", EXCERPTS, ids=lambda path: path.stem)
def test_each_trouble_is_named_by_its_excerpt(excerpt: Path):
    """The words of a trouble give a failing finding with its cause, its fix, its references and its line."""
    trouble = BY_ID[excerpt.stem.partition(".")[0]]
    finding = _diagnoses(excerpt)[trouble.id]
    assert (finding.check, finding.status) == (Check.SHAPE, Status.FAIL)
    assert finding.remedy.endswith(trouble.remedy)
    assert trouble.cause in finding.why and all(reference in finding.why for reference in trouble.references)
    assert finding.where is not None and finding.where.line is not None
    line = finding.where.line
    said = "\n".join(excerpt.read_text().split("\n")[line - 1 :])
    assert any(pattern.search(said.split("\n")[0]) for _, pattern in trouble.phrases())


@pytest.mark.parametrize(("trouble_id", "last_words"), OOM_AFTER.items(), ids=OOM_AFTER)
def test_out_of_memory_means_what_the_load_had_reached(trouble_id: str, last_words: str, t4_log: Path, tmp_path: Path):
    """The same CUDA error is another trouble at each stage of the load, and only one of them."""
    lines = t4_log.read_text().split("\n")
    last = max(number for number, line in enumerate(lines) if last_words in line)
    log = tmp_path / "load.log"
    log.write_text("\n".join([*lines[: last + 1], OOM]) + "\n")
    found = _diagnoses(log)
    assert list(found) == [trouble_id]
    assert str(found[trouble_id].where) == f"load.log:{last + 2}"


TRAINER = "==((====))==  Unsloth - 2x faster free finetuning | Num GPUs = 1\n   \\\\   /|    Num examples = 7,473 | Num Epochs = 1\n"
OOM_BELOW = {
    'File "/x/unsloth_compiled_cache/UnslothGRPOTrainer.py", line 9, in _get_per_token_logps': "oom-grpo",
    'File "/x/transformers/trainer.py", line 9, in training_step': "oom-training",
    'File "/x/vllm/worker/model_runner.py", line 1437, in capture_model': "oom-graphs",
    'File "/x/vllm/worker/worker.py", line 229, in determine_num_available_blocks': "oom-profile",
    'File "/x/unsloth_zoo/gradient_checkpointing.py", line 9, in forward\n    saved = hidden.to("cpu", non_blocking = True)': "oom-pinned",
    'File "/x/vllm/worker/model_runner.py", line 1112, in load_model': "oom-weights",
}
WORDS_OF_OOM = (
    OOM,
    "RuntimeError: CUDA error: out of memory",
    "torch.AcceleratorError: CUDA error: out of memory",
    "RuntimeError: CUDA driver error: out of memory",
    "torch.distributed.DistBackendError: NCCL error: Cuda failure 2 'out of memory'",
)


@pytest.mark.parametrize("words", WORDS_OF_OOM)
@pytest.mark.parametrize("frames", OOM_BELOW)
@pytest.mark.parametrize("whole", [True, False])
def test_the_frames_of_a_traceback_tell_the_stage(whole: bool, frames: str, words: str, t4_log: Path, tmp_path: Path):
    """Whatever the error is called, after a whole load or alone: the innermost work that a frame names is the stage."""
    log = tmp_path / "load.log"
    before = t4_log.read_text() + "\n" + TRAINER if whole else ""
    log.write_text(f"{before}Traceback (most recent call last):\n  {frames}\n{words}\n")
    assert list(_diagnoses(log)) == [OOM_BELOW[frames]]


@pytest.mark.parametrize("words", WORDS_OF_OOM)
def test_without_frames_it_is_what_was_reached_or_unknown(words: str, t4_log: Path, tmp_path: Path):
    """After a trainer's banner it is training; where capture has begun without a bar, the graphs; alone it is unknown."""
    log = tmp_path / "load.log"
    text = t4_log.read_text()
    captured = (
        text[: text.index("Capturing CUDA graph shapes")]
        + "INFO 02-13 model_runner.py:1437] Capturing cudagraphs for decoding.\n"
    )
    for before, expected in ((text + "\n" + TRAINER, "oom-training"), (captured, "oom-graphs"), ("", "oom-unknown")):
        log.write_text(before + words + "\n")
        assert list(_diagnoses(log)) == [expected]


def test_every_trouble_that_a_log_shows_has_an_excerpt():
    """No entry of env/troubles.toml with words is without a test of them."""
    shown = {path.stem.partition(".")[0] for path in EXCERPTS} | set(OOM_AFTER) | set(OOM_BELOW.values())
    assert {trouble.id for trouble in load_troubles() if trouble.says} == shown


def test_no_excerpt_shows_a_trouble_that_its_words_do_not_name():
    """Excerpts are told apart: only a retry's own error, a card in use and its empty cache come together."""
    together = {
        excerpt.stem: set(_diagnoses(excerpt)) - {excerpt.stem.partition(".")[0]}
        for excerpt in EXCERPTS
        if len(_diagnoses(excerpt)) > 1
    }
    assert together == {"retry": {"kv-too-small"}, "gpu-in-use.negative": {"kv-too-small"}}


@pytest.mark.parametrize("log", sorted(RUNS.rglob("*.txt")), ids=lambda path: path.stem)
def test_no_trouble_in_our_passing_runs(log: Path):
    """The words of no trouble are in a log that passes."""
    if judge(gather(log)).passed:
        assert sightings(parse_log(log)) == ()


@pytest.mark.parametrize("name", with_public_logs([*SAMPLES], sorted(log.name for log in SHARED_LOGS.glob("*.txt"))))
def test_no_trouble_in_a_log_that_completed(name: str, tmp_path: Path):
    """Nor in any kind of log of a load that went well, whatever its stack."""
    parsed = parse_log(sample_log(name, tmp_path))
    if parsed.outcome.value == "completed" or name in NOT_FINISHED_BUT_FINE:
        assert sightings(parsed) == ()


def test_an_unknown_failure_says_its_error_and_how_far_it_came(t4_log: Path, tmp_path: Path):
    """What no entry knows still names the last error, its line and the stage that the load had reached."""
    log = tmp_path / "load.log"
    head = t4_log.read_text().split("Memory profiling takes")[0]
    log.write_text(head + "\nOverflowError: something never seen\n")
    unknown = [finding for finding in judge(gather(log)).findings if "no known trouble" in finding.why]
    assert len(unknown) == 1
    assert "OverflowError: something never seen" in unknown[0].why and "the stage weights" in unknown[0].why
    assert str(unknown[0].where) == f"load.log:{head.count(chr(10)) + 2}"


def test_what_a_model_says_is_no_trouble(tmp_path: Path):
    """An event of our own engine may quote anything."""
    log = tmp_path / "load.log"
    log.write_text('loadcheck: {"event": "answer", "text": "No space left on device"}\nOverflowError: another\n')
    assert sightings(parse_log(log)) == ()


def test_a_secret_in_an_error_is_not_said_again(tmp_path: Path):
    """A diagnosis says what is known of the trouble, not the line, which may quote a token."""
    log = tmp_path / "load.log"
    log.write_text("httpx.LocalProtocolError: Illegal header value b'Bearer hf_canary'\n")
    assert "canary" not in _diagnoses(log)["hub-token"].why


def test_hostile_repetition_is_cheap(tmp_path: Path):
    """The same error on 5,000 lines is looked at a few times only, and named once."""
    log = tmp_path / "load.log"
    log.write_text("CUDA out of memory.\n" * 5_000)
    assert [sighting.line for sighting in sightings(parse_log(log))] == [1]


def test_stages_are_those_of_the_parser():
    """A trouble's stages are spelled as the parser, and what tells them from a traceback, spell them."""
    known = {stage.name.lower() for stage in Stage} | {stage for stage, _ in FRAMES} | {"unknown"}
    assert all(set(trouble.stages) <= known for trouble in load_troubles())


def test_every_named_test_exists():
    """The tests that an entry names are there."""
    for trouble in load_troubles():
        for test in trouble.tests:
            file, _, name = test.partition("::")
            assert f"def {name}(" in (ROOT / "tests" / file).read_text(), f"{trouble.id}: {test}"


def test_every_trouble_is_shown_by_a_test_or_out_of_reach():
    """An entry without words needs a test of its own, or says that it is out of reach."""
    assert [
        each.id for each in load_troubles() if not (each.says or each.tests or each.handling == "out of reach")
    ] == []


@pytest.mark.parametrize(
    ("pattern", "anchor"),
    [("CUDA out of memory", "CUDA out of memory"), (r"libcuda\.so", "libcuda"), ("LoRA rank \\d+", "LoRA rank "),
     ("abcd?e", "abc"), (r"\d+", "")],
)  # fmt: skip
def test_the_anchor_is_the_literal_beginning(pattern: str, anchor: str):
    """What is looked for first ends before the first character that means something else in a pattern."""
    assert anchor_of(pattern) == anchor


def _entry(**changes: object) -> dict[str, object]:
    entry = {
        "id": "x",
        "title": "t",
        "cause": "c",
        "remedy": "r",
        "references": ["z #1"],
        "handling": "diagnosed",
        "we_do": "w",
    }
    return entry | changes


def test_entries_that_cannot_be_searched_for_are_refused():
    """A pattern without a literal beginning, and an id that is there twice, are problems of the file."""
    with pytest.raises(BadInput, match="does not begin with literal text"):
        validate(Trouble, _entry(says=[r".*memory"]), "here")
    with pytest.raises(BadInput, match="x is there twice"):
        validate(Troubles, {"troubles": [_entry(), _entry()]}, "here")


def test_the_table_of_troubles_is_up_to_date():
    """docs/troubles.md is what scripts/troubles.py makes of env/troubles.toml."""
    script = [sys.executable, str(ROOT / "scripts" / "troubles.py"), "--check"]
    assert subprocess.run(script, check=False).returncode == 0, "run scripts/troubles.py"
