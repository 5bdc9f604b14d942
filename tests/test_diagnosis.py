"""Diagnosis of a failed load from its log alone: each known trouble is found by its words, and none in a log that passes."""

import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

from loadcheck.checking import gather
from loadcheck.errors import BadInput
from loadcheck.logs.formats import Stage
from loadcheck.specs.files import validate
from loadcheck.specs.trouble import Trouble, Troubles, anchor_of, load_troubles
from loadcheck.stacks import parse_log
from loadcheck.verdict import Check, Status, judge
from loadcheck.verdict.diagnosis import sightings
from loadcheck.verdict.stage import FRAMES
from tests.conftest import ROOT, RUNS, SHARED_LOGS, thinned
from tests.diagnoses import TROUBLES, diagnoses, trouble_entry
from tests.sample_logs import SAMPLES, sample_log, with_public_logs

EXCERPTS = sorted((ROOT / "tests" / "troubles").glob("*.txt"))
OOM = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1002.00 MiB. GPU 0 has a total capacity of 14.74 GiB of which "
    "120.12 MiB is free. Process 4242 has 14.62 GiB memory in use."
)
# The last words before memory ran out: the same error means something else after each of them.
OOM_AFTER = {
    "oom-weights": "Starting to load model",
    "oom-profile": "Loading model weights took",
    "oom-after-profile": "Maximum concurrency",
    "oom-graphs": "Capturing CUDA graph shapes",
    "oom-after-load": "QKV layers",
}
NOT_FINISHED_BUT_FINE = {  # excerpts whose end was not kept
    *("v1", "repeated", "ends after blocks", "notes"),
    "gh_vllm-17122_L40S_llama3.1-8b_V1.txt",
    "nb_2025-04-29_Meta_Synthetic_Data_Llama3.1_8B__0388.txt",
    "web_2025-03-01_A10-22_qwen1.5b-class_vllm0.7.2.txt",
    "web_V100-16_opt6.7b_offload_notes.txt",
}


@pytest.mark.parametrize("excerpt", thinned(EXCERPTS), ids=lambda path: path.stem)
def test_each_trouble_is_named_by_its_excerpt(excerpt: Path):
    """A trouble's excerpt gives a failing finding with its cause, fix, references and line."""
    trouble = TROUBLES[excerpt.stem.partition(".")[0]]
    finding = diagnoses(excerpt)[trouble.id]
    assert (finding.check, finding.status) == (Check.SHAPE, Status.FAIL)
    assert finding.remedy.endswith(trouble.remedy)
    assert trouble.cause in finding.why and all(reference in finding.why for reference in trouble.references)
    assert finding.where is not None and finding.where.line is not None
    line = finding.where.line
    rest = "\n".join(excerpt.read_text().split("\n")[line - 1 :])
    assert any(pattern.search(rest.split("\n")[0]) for _, pattern in trouble.phrases())


@pytest.mark.parametrize(("trouble_id", "last_words"), OOM_AFTER.items(), ids=OOM_AFTER)
def test_out_of_memory_depends_on_the_stage(trouble_id: str, last_words: str, t4_log: Path, tmp_path: Path):
    """The same CUDA error is a different trouble at each stage of the load, and only one."""
    lines = t4_log.read_text().split("\n")
    last = max(number for number, line in enumerate(lines) if last_words in line)
    log = tmp_path / "load.log"
    log.write_text("\n".join([*lines[: last + 1], OOM]) + "\n")
    found = diagnoses(log)
    assert list(found) == [trouble_id]
    assert str(found[trouble_id].where) == f"load.log:{last + 2}"


TRAINER = "==((====))==  Unsloth - 2x faster free finetuning | Num GPUs = 1\n   \\\\   /|    Num examples = 7,473 | Num Epochs = 1\n"
OOM_BELOW = {
    'File "/x/unsloth_compiled_cache/UnslothGRPOTrainer.py", line 9, in _get_per_token_logps': "oom-grpo",
    'File "/x/transformers/trainer.py", line 9, in training_step': "oom-training",
    'File "/x/vllm/worker/model_runner.py", line 1437, in capture_model': "oom-graphs",
    'File "/x/vllm/worker/worker.py", line 229, in determine_num_available_blocks': "oom-profile",
    # torch.compile, within V1's profile run: Kelsidavis/rusteze, mobambas/Agentic-Healthcare-Maps
    'File "/x/vllm/v1/worker/gpu_model_runner.py", line 5474, in _dummy_run\n  File "/x/vllm/compilation/cuda_graph.py", line 254, in __call__\n'
    '  File "/x/torch/_inductor/codegen/wrapper.py", line 1780, in _generate': "oom-profile",
    'File "/x/unsloth_zoo/gradient_checkpointing.py", line 9, in forward\n    saved = hidden.to("cpu", non_blocking = True)': "oom-pinned",
    'File "/x/vllm/worker/model_runner.py", line 1112, in load_model': "oom-weights",
}
WORDS_OF_OOM = (
    OOM,
    "RuntimeError: CUDA error: out of memory",
    "torch.AcceleratorError: CUDA error: out of memory",
    "RuntimeError: CUDA driver error: out of memory",
    "torch._inductor.exc.InductorError: OutOfMemoryError: HIP out of memory. Tried to allocate 80.00 MiB.",
    "torch.distributed.DistBackendError: NCCL error: Cuda failure 2 'out of memory'",
)


@pytest.mark.parametrize(("whole", "frames", "words"), thinned([*product([True, False], OOM_BELOW, WORDS_OF_OOM)]))
def test_a_tracebacks_frames_give_the_stage(whole: bool, frames: str, words: str, t4_log: Path, tmp_path: Path):
    """Whatever the error is called, with the load before it or alone, the innermost work named by a frame is the stage."""
    log = tmp_path / "load.log"
    before = t4_log.read_text() + "\n" + TRAINER if whole else ""
    log.write_text(f"{before}Traceback (most recent call last):\n  {frames}\n{words}\n")
    assert list(diagnoses(log)) == [OOM_BELOW[frames]]


@pytest.mark.parametrize("words", WORDS_OF_OOM)
def test_without_frames_the_stage_reached_decides(words: str, t4_log: Path, tmp_path: Path):
    """Without frames, an error after a trainer's banner is training's, after the capture line the graphs', and alone unknown."""
    log = tmp_path / "load.log"
    text = t4_log.read_text()
    captured = (
        text[: text.index("Capturing CUDA graph shapes")]
        + "INFO 02-13 model_runner.py:1437] Capturing cudagraphs for decoding.\n"
    )
    for before, expected in ((text + "\n" + TRAINER, "oom-training"), (captured, "oom-graphs"), ("", "oom-unknown")):
        log.write_text(before + words + "\n")
        assert list(diagnoses(log)) == [expected]


def test_every_trouble_that_a_log_shows_has_an_excerpt():
    """Each entry of env/troubles.toml with words has an excerpt."""
    shown = {path.stem.partition(".")[0] for path in EXCERPTS} | set(OOM_AFTER) | set(OOM_BELOW.values())
    assert {trouble.id for trouble in load_troubles() if trouble.says} == shown


def test_an_excerpt_shows_only_its_own_trouble():
    """An excerpt shows only its own trouble, except for a retry's own error, a card in use with its empty cache, and a warning."""
    together = {
        excerpt.stem: set(diagnoses(excerpt)) - {excerpt.stem.partition(".")[0]}
        for excerpt in EXCERPTS
        if len(diagnoses(excerpt)) > 1
    }
    assert together == {
        "retry": {"kv-too-small"},
        "gpu-in-use.negative": {"kv-too-small"},
        "import-order": {"unknown"},
    }


@pytest.mark.parametrize("log", sorted(RUNS.rglob("*.txt")), ids=lambda path: path.stem)
def test_no_trouble_in_our_passing_runs(log: Path):
    """A log that passes contains no trouble's words."""
    if judge(gather(log)).passed:
        assert sightings(parse_log(log)) == ()


@pytest.mark.parametrize(
    "name", thinned(with_public_logs([*SAMPLES], sorted(log.name for log in SHARED_LOGS.glob("*.txt"))))
)
def test_no_trouble_in_a_log_that_completed(name: str, tmp_path: Path):
    """A completed load contains no trouble's words, in any sample log."""
    parsed = parse_log(sample_log(name, tmp_path))
    if parsed.outcome.value == "completed" or name in NOT_FINISHED_BUT_FINE:
        assert sightings(parsed) == ()


def test_an_unknown_failure_names_error_and_stage(t4_log: Path, tmp_path: Path):
    """An unknown failure names the last error, its line and the stage reached."""
    log = tmp_path / "load.log"
    head = t4_log.read_text().split("Memory profiling takes")[0]
    log.write_text(head + "\nOverflowError: something never seen\n")
    unknown = [finding for finding in judge(gather(log)).findings if "no known trouble" in finding.why]
    assert len(unknown) == 1
    assert "OverflowError: something never seen" in unknown[0].why and "the stage weights" in unknown[0].why
    assert str(unknown[0].where) == f"load.log:{head.count(chr(10)) + 2}"


def test_a_models_answer_is_no_trouble(tmp_path: Path):
    """An answer in our engine's events may quote any trouble."""
    log = tmp_path / "load.log"
    log.write_text('loadcheck: {"event": "answer", "text": "No space left on device"}\nOverflowError: another\n')
    assert sightings(parse_log(log)) == ()


def test_a_diagnosis_quotes_no_secret(tmp_path: Path):
    """A diagnosis describes the trouble and does not quote the line, which may hold a token."""
    log = tmp_path / "load.log"
    log.write_text("httpx.LocalProtocolError: Illegal header value b'Bearer hf_canary'\n")
    assert "canary" not in diagnoses(log)["hub-token"].why


def test_hostile_repetition_is_cheap(tmp_path: Path):
    """The same error on 5,000 lines is examined only a few times, and named once."""
    log = tmp_path / "load.log"
    log.write_text("CUDA out of memory.\n" * 5_000)
    assert [sighting.line for sighting in sightings(parse_log(log))] == [1]


def test_stages_are_those_of_the_parser():
    """A trouble's stages are spelled like the parser's, and like those found by a traceback."""
    known = {stage.name.lower() for stage in Stage} | {stage for stage, _ in FRAMES} | {"unknown"}
    assert all(set(trouble.stages) <= known for trouble in load_troubles())


def test_every_named_test_exists():
    """The tests that an entry names exist."""
    for trouble in load_troubles():
        for test in trouble.tests:
            file, _, name = test.partition("::")
            assert f"def {name}(" in (ROOT / "tests" / file).read_text(), f"{trouble.id}: {test}"


def test_every_trouble_has_a_test_or_is_out_of_reach():
    """An entry without words names a test, or says that it is out of reach."""
    assert [
        each.id for each in load_troubles() if not (each.says or each.tests or each.handling == "out of reach")
    ] == []


@pytest.mark.parametrize(
    ("pattern", "anchor"),
    [("CUDA out of memory", "CUDA out of memory"), (r"libcuda\.so", "libcuda"), ("LoRA rank \\d+", "LoRA rank "),
     ("abcd?e", "abc"), (r"\d+", "")],
)  # fmt: skip
def test_the_anchor_is_the_literal_beginning(pattern: str, anchor: str):
    """The searched literal ends before the pattern's first special character."""
    assert anchor_of(pattern) == anchor


def test_entries_that_cannot_be_searched_for_are_refused():
    """A pattern without a literal beginning, and a duplicate id, are errors of the file."""
    with pytest.raises(BadInput, match="does not begin with literal text"):
        validate(Trouble, trouble_entry(says=[r".*memory"]), "here")
    with pytest.raises(BadInput, match="x is there twice"):
        validate(Troubles, {"troubles": [trouble_entry(), trouble_entry()]}, "here")


def test_the_table_of_troubles_is_up_to_date():
    """docs/troubles.md is what scripts/troubles.py generates from env/troubles.toml."""
    script = [sys.executable, str(ROOT / "scripts" / "troubles.py"), "--check"]
    assert subprocess.run(script, check=False).returncode == 0, "run scripts/troubles.py"
