"""Logs of other people, shortened and rewritten, judged as an expert would. The public repository or issue is named where the form is from."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from loadcheck.checking import gather
from loadcheck.stacks import parse_log
from loadcheck.verdict import Verdict, causes, judge
from tests.v1_logs import Start, text

LLAMA = Start(release="0.11.0")
READY = text(LLAMA)


def _judged(tmp_path: Path, log: str) -> Verdict:
    path = tmp_path / "load.log"
    path.write_text(log)
    return judge(gather(path))


def _cause(verdict: Verdict) -> str:
    return causes(verdict)[0].why


# ---------------------------------------------------------------------------------------------------------------- several cards


def test_each_ranks_cache_is_no_repeated_line(tmp_path: Path):
    """Up to 0.10.1 the engine core prints each rank's cache, with small differences: one load (jyngjeon/multiagentsdebate,
    DaisukeTakai/eval_dataset)."""
    lines = text(Start(release="0.9.2", cards=2)).splitlines(keepends=True)
    caches = [line for line in lines if "GPU KV cache size" in line or "Maximum concurrency" in line]
    other = [line.replace("size: ", "size: 1").replace("request: ", "request: 1") for line in caches]
    after = lines.index(caches[-1]) + 1
    assert _judged(tmp_path, "".join([*lines[:after], *other, *lines[after:]])).status == "pass"
    of_one_card = text(Start(release="0.9.2")).splitlines(keepends=True)
    assert _judged(tmp_path, "".join([*of_one_card[:after], *other, *of_one_card[after:]])).status == "fail"


def _by_worker(start: Start, *workers: str) -> str:
    """A start whose workers print their own lines one after the other, and whose engine core prints the rest."""
    of_worker = ("gpu_model_runner", "gpu_worker")
    return "".join(
        f"{name} {line}"
        for line in text(start).splitlines(keepends=True)
        for name in (workers if any(word in line for word in of_worker) else ["(EngineCore_DP0 pid=7)"])
    )


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("(VllmWorker TP0 pid=41)", "(VllmWorker TP1 pid=42)"),
        ("(Worker_TP0_EP0 pid=41)", "(Worker_TP1_EP1 pid=42)"),
        ("(Worker_PP0_TP0 pid=41)", "(Worker_PP1_TP0 pid=42)"),
        ("(RayWorkerWrapper pid=291, ip=10.0.0.168)", "(RayWorkerWrapper pid=292, ip=10.0.0.169)"),
        ("(vLLMHttpServer pid=9) (Worker_TP0 pid=41)", "(vLLMHttpServer pid=9) (Worker_TP1 pid=42)"),
    ],
)
def test_one_rank_is_read_in_every_naming(first: str, second: str, tmp_path: Path):
    """Whatever an executor calls its ranks, one rank's lines are read, and the load is known to use several cards."""
    start = replace(LLAMA, cards=2)
    verdict = _judged(tmp_path, _by_worker(start, first, second))
    assert verdict.status == "pass", verdict.failures()
    assert parse_log(tmp_path / "load.log").last.other_ranks


def test_the_worker_of_a_single_card_is_no_rank(tmp_path: Path):
    """The multiprocessing executor also names the worker of a single card."""
    assert _judged(tmp_path, _by_worker(LLAMA, "(Worker pid=41)")).status == "pass"
    assert not parse_log(tmp_path / "load.log").last.other_ranks


def test_another_engine_core_of_data_parallelism_is_no_second_load(tmp_path: Path):
    """Each engine core of data parallelism prints the whole start; one is read."""
    cores = [text(LLAMA, f"(EngineCore_DP{number} pid=4{number}) ").splitlines(keepends=True) for number in (0, 1)]
    verdict = _judged(tmp_path, "".join(line for pair in zip(*cores, strict=True) for line in pair))
    assert verdict.status == "pass", verdict.failures()


def test_ranks_are_told_apart_within_one_line_of_a_notebook(tmp_path: Path):
    """A notebook keeps a cell's output as one string (trietnguyeminh/Submission---EXACT--IJCNN, two T4 of Kaggle)."""
    printed = _by_worker(replace(LLAMA, cards=2), "(Worker_TP0 pid=41)", "(Worker_TP1 pid=42)")
    assert _judged(tmp_path, json.dumps({"text": printed})).status == "pass"


# ------------------------------------------------------------------------------------------------------------------------ servers

REFUSED = "This model's maximum context length is 2048 tokens. However, you requested 2297 tokens"


@pytest.mark.parametrize(
    "lines",
    [
        "ERROR 08-18 20:02:48 [serving_chat.py:203] Error in preprocessing prompt inputs\n"
        "ERROR 08-18 20:02:48 [serving_chat.py:203] Traceback (most recent call last):\n"
        'ERROR 08-18 20:02:48 [serving_chat.py:203]   File "vllm/entrypoints/openai/serving_engine.py", line 626, in _validate_input\n'
        f"ERROR 08-18 20:02:48 [serving_chat.py:203] ValueError: {REFUSED}\n",
        "(APIServer pid=1) ERROR:    Exception in ASGI application\n"
        "(APIServer pid=1) Traceback (most recent call last):\n"
        '(APIServer pid=1)   File "uvicorn/protocols/http/httptools_impl.py", line 421, in run_asgi\n'
        f"(APIServer pid=1) vllm.exceptions.VLLMValidationError: {REFUSED}\n",
        "ERROR:    Exception in ASGI application\n"
        "  + Exception Group Traceback (most recent call last):\n"
        '  |   File "starlette/_utils.py", line 87, in collapse_excgroups\n'
        "  | ExceptionGroup: unhandled errors in a TaskGroup (1 sub-exception)\n"
        "  +-+---------------- 1 ----------------\n"
        "    | Traceback (most recent call last):\n"
        '    |   File "uvicorn/protocols/http/httptools_impl.py", line 399, in run_asgi\n'
        "    | jinja2.exceptions.TemplateError: Conversation roles must alternate\n"
        "    +------------------------------------\n",
    ],
)
def test_a_refused_request_ends_no_load(lines: str, tmp_path: Path):
    """The server answers 400 and lives on (ljg6861/anton_new, NnamdiOdozi/mlops-assignment, vllm #6689)."""
    answered = 'INFO:     127.0.0.1:41234 - "POST /v1/chat/completions HTTP/1.1" 400 Bad Request\n'
    assert _judged(tmp_path, READY + lines + answered).status == "pass"
    after = "RuntimeError: CUDA error: an illegal memory access was encountered\n"
    assert _judged(tmp_path, READY + lines + answered + after).status == "fail"


@pytest.mark.parametrize(
    "error",
    [
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
        "vllm.engine.async_llm_engine.AsyncEngineDeadError: Task finished unexpectedly.",
        "RuntimeError: NCCL error: unhandled cuda error",
    ],
)
def test_a_request_shows_that_the_engine_is_dead(error: str, tmp_path: Path):
    """An error beyond the request's own counts, even if a request shows it (vllm #7073, vllm #10925)."""
    lines = f'ERROR:    Exception in ASGI application\nTraceback (most recent call last):\n  File "a.py", line 1, in run_asgi\n{error}\n'
    assert _judged(tmp_path, READY + lines).status == "fail"


SHUTDOWN = """\
(EngineCore pid=41490) INFO 08-02 11:46:06 [core.py:1214] [shutdown] EngineCore: trigger received signal=SIGTERM
(APIServer pid=41356) INFO 08-02 11:46:06 [launcher.py:100] [shutdown] API server: shutdown triggered
"""
DEAD = """\
(APIServer pid=5) ERROR 08-21 10:24:34 [async_llm.py:704] AsyncLLM output_handler failed.
(APIServer pid=5) ERROR 08-21 10:24:34 [async_llm.py:704] Traceback (most recent call last):
(APIServer pid=5) ERROR 08-21 10:24:34 [async_llm.py:704]     outputs = await engine_core.get_output_async()
(APIServer pid=5) ERROR 08-21 10:24:34 [async_llm.py:704] vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue.
"""


def test_a_server_that_shuts_down_when_asked_has_not_died(tmp_path: Path):
    """From 0.25 on a server logs each step of its shutdown. Before it served, that is still a failure (sostrowsk/dgx-spark-local-llm)."""
    assert _judged(tmp_path, READY + SHUTDOWN).status == "pass"
    assert _judged(tmp_path, READY + SHUTDOWN + DEAD).status == "pass"
    assert _judged(tmp_path, READY + DEAD).status == "fail"
    begun = READY.partition("INFO 06-01 10:00:02")[0]
    assert "SIGTERM" in _cause(_judged(tmp_path, begun + SHUTDOWN))


@pytest.mark.parametrize("banner", ["vLLM API server version 0.10.0", "  ▄▄ ▄█ █     █     █ ▀▄▀ █  version 0.25.1"])
def test_a_server_that_was_cut_off_before_its_engine_is_a_log(banner: str, tmp_path: Path):
    """A server's first lines are an unfinished start, not another kind of file."""
    verdict = _judged(tmp_path, f"(APIServer pid=2) INFO 08-01 18:02:54 [api_utils.py:339] {banner}\n")
    assert [finding.figure for finding in verdict.failures() if not finding.missing] == ["outcome"]


def test_a_second_start_after_one_that_failed_is_a_second_attempt(tmp_path: Path):
    """Both starts reached only the engine's line; the first is reported by its error (mrpid12org/imageworks)."""
    failed = (
        READY.splitlines(keepends=True)[0]
        + "ValueError: Free memory on device (13.58/15.99 GiB) on startup is less than desired GPU memory utilization (0.85, 13.59 GiB).\n"
    )
    _judged(tmp_path, failed + READY)
    outcomes = [attempt.outcome.value for attempt in parse_log(tmp_path / "load.log").attempts]
    assert outcomes == ["failed", "completed"]


def test_two_banners_of_unsloth_are_two_attempts(tmp_path: Path):
    """Two runs in one file are no edited log, even with different packages (johnson7788/RLDecisionAgent)."""
    banner = "==((====))==  Unsloth {}: Fast Qwen3 patching. Transformers: 4.55.4. vLLM: {}.\n"
    verdict = _judged(tmp_path, banner.format("2025.9.1", "0.10.1.1") + banner.format("2025.8.6", "0.8.5.post1"))
    assert len(parse_log(tmp_path / "load.log").attempts) == 2
    assert not [finding for finding in verdict.failures() if "was edited" in finding.remedy]


def test_the_configuration_that_a_crash_dumps_is_no_second_engine(tmp_path: Path):
    """V1 prints the configuration again with the batch that failed (v1/engine/core.py, dump_input.py)."""
    engine = READY.splitlines()[0].partition("] ")[2]
    dumped = engine.replace("Initializing a V1", "Dumping input data for V1")
    verdict = _judged(
        tmp_path, READY + f"ERROR 06-01 10:01:00 [dump_input.py:72] {dumped}\nEngineCore encountered a fatal error.\n"
    )
    assert not [finding for finding in verdict.failures() if "times in one attempt" in finding.why]


# ------------------------------------------------------------------------------------------------------------------------- causes


def test_a_failure_before_the_load_lacks_no_lines(tmp_path: Path):
    """A failure during the imports is reported by its error alone, whoever started it (apollo-mg/Project-Apollo)."""
    log = "Traceback (most recent call last):\n  File \"vllm/_custom_ops.py\", line 9, in <module>\nRuntimeError: Tried to instantiate class '_core_C.ScalarType'\n"
    verdict = _judged(tmp_path, log)
    assert {finding.figure for finding in verdict.failures()} == {"error"}
    assert "no line of a load before its error: RuntimeError: Tried to instantiate" in _cause(verdict)


@pytest.mark.parametrize("last", ["KeyboardInterrupt: terminated", "KeyboardInterrupt", "SystemExit: 15"])
def test_an_interrupted_start_is_reported_as_such(last: str, tmp_path: Path):
    """A server's handler raises SIGTERM as an exception: not a trouble to look up (kaimu11111/Prompt-Kernel_Generation)."""
    begun = READY.splitlines(keepends=True)[0]
    verdict = _judged(tmp_path, begun + f'Traceback (most recent call last):\n  File "a.py", line 1, in main\n{last}\n')
    assert _cause(verdict).startswith("the load was interrupted")
    earlier = _judged(
        tmp_path,
        begun
        + "ValueError: a wrong option\n\n"
        + f'Traceback (most recent call last):\n  File "a.py", line 1, in main\n{last}\n',
    )
    assert "a wrong option" in _cause(earlier)


def test_the_trouble_in_the_blamed_line_is_the_cause(t4_log: Path, tmp_path: Path):
    """An installer's line about a missing package that it then installed is no trouble (trietnguyeminh/Submission---EXACT--IJCNN)."""
    begun = t4_log.read_text().partition("Memory profiling takes")[0]
    log = f"Pre-installed vLLM: FAIL (No module named 'vllm')\n{begun}\n/usr/bin/ld: cannot find -lcuda: No such file or directory\n"
    assert "Triton cannot link" in _cause(_judged(tmp_path, log))


def test_a_warning_is_no_cause(t4_log: Path, tmp_path: Path):
    """An unknown error is reported itself, not an earlier warning of unsloth (johnson7788/RLDecisionAgent)."""
    log = f"UserWarning: WARNING: Unsloth should be imported before transformers\n{t4_log.read_text()}\nTypeError: 'NoneType' object is not iterable\n"
    assert "'NoneType' object is not iterable" in _cause(_judged(tmp_path, log))


def test_cudas_name_for_an_error_is_no_second_error(tmp_path: Path):
    """torch prints it below the error, as a search term (Panteaforoutan/151B_SP26_Competition_)."""
    log = READY.partition("INFO 06-01 10:00:05")[0] + (
        'Traceback (most recent call last):\n  File "vllm/compilation/cuda_graph.py", line 308, in __call__\n    with torch.cuda.graph(\n'
        "torch.AcceleratorError: CUDA error: out of memory\n"
        "Search for `cudaErrorMemoryAllocation' in https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html for more information.\n"
    )
    verdict = _judged(tmp_path, log)
    assert [cause.trouble for cause in causes(verdict)] == ["oom-graphs"]
    assert "torch.AcceleratorError: CUDA error" in next(
        finding.why for finding in verdict.failures() if finding.figure == "error"
    )


OOM = """\
ERROR 06-01 10:00:09 [core.py:708] Traceback (most recent call last):
ERROR 06-01 10:00:09 [core.py:708]   File "vllm/v1/worker/gpu_model_runner.py", line 2978, in capture_model
ERROR 06-01 10:00:09 [core.py:708] torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB.
"""


@pytest.mark.parametrize(
    "around",
    [
        "│ {} │",
        '2025-08-18T14:14:59.123Z,INFO,"{}"',
        "авг 18 14:14:59 llm python3[28145]: {}",
        "(head, rank=0, pid=2045) {}",
    ],
)
def test_frames_are_read_within_boxes_and_quotes(around: str, tmp_path: Path):
    """A traceback is read within a terminal's box or a table's quotes (k9s in vllm #12568; journald in 1CatAI/1Cat-vLLM #237)."""
    log = "\n".join(around.format(line) for line in (READY.partition("INFO 06-01 10:00:05")[0] + OOM).splitlines())
    assert [cause.trouble for cause in causes(_judged(tmp_path, log))] == ["oom-graphs"]


IPYTHON = """\
---------------------------------------------------------------------------
OutOfMemoryError                          Traceback (most recent call last)
Cell In[8], line 14
      1 trainer = GRPOTrainer(
---> 14 trainer.train()

{frames}
    100     x = y

OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 14.74 GiB
"""


@pytest.mark.parametrize(
    ("frames", "trouble"),
    [
        (
            "File ~/unsloth_compiled_cache/UnslothGRPOTrainer.py:1132, in _UnslothGRPOTrainer.compute_loss(self, model)",
            "oom-grpo",
        ),
        (
            "File ~/.conda/lib/python3.11/site-packages/transformers/trainer.py:2245, in Trainer.training_step(self, *args)",
            "oom-training",
        ),
        (
            "/usr/local/lib/python3.10/dist-packages/vllm/worker/model_runner.py in capture_model(self, kv_caches)",
            "oom-graphs",
        ),
    ],
)
def test_a_notebooks_frames_give_the_stage(frames: str, trouble: str, tmp_path: Path):
    """IPython prints frames in its own formats (unsloth #1634, unsloth #2387)."""
    assert [cause.trouble for cause in causes(_judged(tmp_path, IPYTHON.format(frames=frames)))] == [trouble]


def test_a_port_of_nccls_own_monitor_is_no_trouble(tmp_path: Path):
    """NCCL's RAS warns and goes on without its port (vllm #19204, 2215860382/VedioSifter); a server without its port does not."""
    begun = READY.partition("INFO 06-01 10:00:05")[0]
    warned = (
        begun
        + "[2025-06-05 10:45:19] paula09:2528103:2528103 [0] ras/client_support.cc:160 NCCL WARN Call to bind failed: Address already in use\n"
    )
    assert causes(_judged(tmp_path, warned))[0].trouble is None
    port = "OSError: [Errno 98] error while attempting to bind on address ('0.0.0.0', 8000): address already in use\n"
    assert causes(_judged(tmp_path, begun + port))[0].trouble == "host-address"


@pytest.mark.parametrize(
    ("line", "trouble"),
    [
        (
            "(VllmWorker rank=1 pid=12) RuntimeError: NCCL error: unhandled system error (run with NCCL_DEBUG=INFO for details)",
            "nccl",
        ),
        ("(head, rank=0, pid=2045) RuntimeError: No CUDA GPUs are available", "no-gpu"),
        (
            'Error: failed to start container "vllm": Error response from daemon: OCI runtime create failed: container_linux.go:370: starting '
            "container process caused: process_linux.go:459: container init caused: Running hook #0:: error running hook: exit status 1, stdout: , "
            "stderr: nvidia-container-cli.real: initialization error: driver error: failed to process request: unknown",
            "no-gpu",
        ),
    ],
)
def test_one_line_of_a_failure_is_enough(line: str, trouble: str, tmp_path: Path):
    """People often paste only the last line, behind its prefix (vllm #7800, SkyPilot's ranks, NVIDIA/gpu-operator #130)."""
    assert causes(_judged(tmp_path, line + "\n"))[0].trouble == trouble


def test_a_probe_that_failed_at_startup_ends_the_container(tmp_path: Path):
    """Kubernetes kills a container that does not answer in time, whichever of its probes asks."""
    event = "Normal   Killing    2m    kubelet  Container vllm failed startup probe, will be restarted\n"
    assert "failed startup probe" in _cause(_judged(tmp_path, READY.partition("INFO 06-01 10:00:05")[0] + event))


def test_a_linked_source_line_is_a_prefix(tmp_path: Path):
    """`[core.py:708]` becomes a link in chats and mails, and the traceback continues below it."""
    linked = OOM.replace("[core.py:708]", "[core.py:708](http://core.py:708/)]")
    verdict = _judged(tmp_path, READY.partition("INFO 06-01 10:00:05")[0] + linked)
    assert [cause.trouble for cause in causes(verdict)] == ["oom-graphs"]


@pytest.mark.parametrize(
    "line",
    [
        "ERROR:    [Errno 98] error while attempting to bind on address ('0.0.0.0', 8000): address already in use",
        "ERROR:    Application startup failed. Exiting.",
        "[rank0]:[E1119 10:00:00.123 ProcessGroupNCCL.cpp:1785] [PG ID 2 Rank 0] Exception (either an error or timeout) detected by watchdog at work: 3",
        "[rank1]:[F1119 10:00:00.123 ProcessGroupNCCL.cpp:1554] [PG ID 0 PG GUID 0(default_pg) Rank 1] [PG ID 0 PG GUID 0(default_pg) Rank 1] "
        "Terminating the process after attempting to dump debug info, due to collective timeout or exception.",
        "(APIServer pid=1) ERROR 08-06 10:00:09 [async_llm.py:480] AsyncLLM output_handler failed.",
        "Aug 18 14:14:59 host systemd[1]: vllm.service: Main process exited, code=exited, status=1/FAILURE",
        "Aug 18 14:14:59 host systemd[1]: vllm.service: Main process exited, code=dumped, status=6/ABRT",
        "systemd[1]: vllm.service: Failed with result 'exit-code'.",
        "Exit code: 1. Reason: application does not seem to be initializing",
        "Endpoint failed to start. See details below.",
        "ERROR conda.cli.main_run:execute(47): `conda run python load.py` failed. (See above for error)",
        "[2025-01-01 10:00:00,123] [INFO] [launch.py:319:sigkill_handler] Killing subprocess 1234",
        'ERROR: Job failed (system failure): pods "runner" not found',
        "Error response from daemon: Container abc is not running",
        "Status: FAILED",
        "The job was preempted",
        "srun: error: Unable to confirm allocation for job",
        "The kernel Python 3 died. Error: ... View Jupyter log for further details.",
        "NVRM: GPU at PCI:0000:01:00: GPU-1a2b has fallen off the bus.",
    ],
)
def test_a_death_is_reported_by_whoever_watched_the_process(line: str, tmp_path: Path):
    """Reports of uvicorn, torch, systemd, Hugging Face, conda, deepspeed, GitLab, Docker, Slurm, VS Code and the driver after a whole start."""
    assert _judged(tmp_path, READY + line + "\n").status == "fail"


@pytest.mark.parametrize(
    "line",
    [
        "WARNING 08-06 10:00:09 [shm_broadcast.py:466] No available shared memory broadcast block found in 60 second.",
        "ERROR 08-06 10:00:09 [fa_utils.py:57] Cannot use FA version 2 is not supported due to FA2 is only supported on devices with compute capability >= 8",
        "[2025-11-14 20:46:52,571] LMCache ERROR: Failed to connect to remote backend",
        "Error in cpuinfo: prctl(PR_SVE_GET_VL) failed",
        "Aug 18 14:14:59 host systemd[1]: vllm.service: Main process exited, code=exited, status=0/SUCCESS",
        "2025-01-01 10:00:00.123: E external/local_xla/xla/stream_executor/cuda/cuda_fft.cc:477] Unable to register cuFFT factory",
    ],
)
def test_a_survived_error_is_no_end(line: str, tmp_path: Path):
    """Lines of whole starts that mention an error or a failure."""
    assert _judged(tmp_path, READY + line + "\n").status == "pass"


def test_an_answer_in_an_example_is_no_end(tmp_path: Path):
    """vLLM's first example prints each prompt and the generated text."""
    answer = (
        "Prompt: 'Hello, my name is', Generated text: ' Joel. I was Killed by a signal 9 error: CUDA out of memory'\n"
    )
    assert _judged(tmp_path, READY + answer).status == "pass"


def test_a_failing_git_is_no_death(tmp_path: Path):
    """wandb looks for a checkout, and logs git's complaint about its owner (zhiyuanhubj/logic-rl-formula)."""
    line = "ERROR:2025-03-02 11:56:34,332:git root error: Cmd('git') failed due to: exit code(128)\n"
    assert _judged(tmp_path, READY + line).status == "pass"


def test_the_traceback_of_a_notebooks_cell_is_read(tmp_path: Path):
    """It is saved with colours and without line breaks, each part as a string (trietnguyeminh/Submission---EXACT--IJCNN)."""
    parts = ["-" * 75, "\x1b[0;31mRuntimeError\x1b[0m      Traceback (most recent call last)", "\x1b[0;32m/tmp/a.py\x1b[0m in \x1b[0;36m<cell line: 0>\x1b[0;34m()\x1b[0m\n    1 x", "\x1b[0;31mRuntimeError\x1b[0m: Engine core initialization failed."]  # fmt: skip
    cell = json.dumps({"output_type": "error", "ename": "RuntimeError", "traceback": parts}, indent=1)
    _judged(tmp_path, READY.partition("INFO 06-01 10:00:05")[0] + cell)
    texts = [error.text for error in parse_log(tmp_path / "load.log").last.errors]
    assert texts[-1] == "RuntimeError: Engine core initialization failed."


# ---------------------------------------------------------------------------------------------------------------- figures and shape

V0 = """\
INFO 09-18 09:25:15 [worker.py:287] the current vLLM instance can use total_gpu_memory (23.55GiB) x gpu_memory_utilization (0.78) = 18.28GiB
INFO 09-18 09:25:15 [worker.py:287] model weights take 3.42GiB; non_torch_memory takes 0.07GiB; PyTorch activation peak memory takes 2.62GiB; \
the rest of the memory reserved for KV Cache is 12.17GiB.
INFO 09-18 09:25:15 [executor_base.py:112] # cuda blocks: {blocks}, # CPU blocks: 2730
"""
PLAN = "Unsloth: vLLM's KV Cache can use up to 15.62 GB. Also swap space = 6 GB.\n"


@pytest.mark.parametrize(("blocks", "holds"), [(5540, True), (5535, True), (5550, False)])
def test_the_block_size_from_swap_space_is_an_interval(blocks: int, holds: bool, tmp_path: Path):
    """6 GiB hold 2,730 blocks of 2,303.7 to 2,304.6 KiB; Qwen3-4B's have 2,304 (johnson7788/RLDecisionAgent, an RTX 4090 D)."""
    verdict = _judged(tmp_path, PLAN + V0.format(blocks=blocks))
    assert ("num_gpu_blocks" not in {finding.figure for finding in verdict.failures()}) == holds


def test_a_start_of_0_6_is_refused_by_its_version(tmp_path: Path):
    """Its engine's line does not name the engine. No line of it is missing, and its figures are another stack's (Ning-Guo/hotpotqa-agent)."""
    engine = "INFO 06-30 03:44:12 llm_engine.py:234] Initializing an LLM engine (v0.6.6) with config: model='Qwen/Qwen2.5-32B-Instruct', quantization=None, "
    verdict = _judged(tmp_path, engine + "dtype=torch.bfloat16, max_seq_len=4096,\n")
    assert {finding.figure for finding in verdict.failures()} == {"vllm", "outcome"}


def test_a_cache_of_a_given_size_is_read(tmp_path: Path):
    """With --kv-cache-memory-bytes nothing is profiled, and another line has the cache (SergiioB/intel-arc-pro-b70-inference-cookbook #4)."""
    cache = f"{LLAMA.cache / 2**30:.2f}"
    given = f"Initial free memory 78.67 GiB, reserved {cache} GiB memory for KV Cache as specified by kv_cache_memory_bytes config and skipped memory profiling."
    verdict = _judged(tmp_path, READY.replace(f"Available KV cache memory: {cache} GiB", given))
    assert verdict.status == "pass", verdict.failures()
    assert parse_log(tmp_path / "load.log").last.reading("kv_cache_bytes") is not None


TRAINED = """\
==((====))==  Unsloth 2025.2.5: Fast Llama patching. Transformers: 4.48.2.
Unsloth 2025.2.5 patched 32 layers with 32 QKV layers, 32 O layers and 32 MLP layers.
   \\\\   /|    Num examples = 7,473 | Num Epochs = 1 | Total steps = 250
{'loss': 1.2, 'epoch': 0.01}
"""


def test_a_training_without_vllm_is_refused(tmp_path: Path):
    """unsloth trains like this without fast_inference: no line is missing, and nothing is judged (LEON-gittech/OpenFedLLM).

    With the event of a finished load its lines are missing.
    """
    verdict = _judged(tmp_path, TRAINED)
    assert verdict.status == "refused"
    assert [finding.figure for finding in verdict.failures()] == ["outcome"]
    plan = "Unsloth: vLLM loading unsloth/llama-3.1-8b with actual GPU utilization = 59.59%\n"
    assert (
        _judged(tmp_path, TRAINED.replace("Unsloth 2025.2.5 patched", plan + "Unsloth 2025.2.5 patched")).status
        == "fail"
    )
    done = 'loadcheck: {"event": "done", "at_s": 3.0}\n'
    assert _judged(tmp_path, TRAINED + done).status == "fail"
