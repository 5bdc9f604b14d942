"""How a log ends: chained exceptions, exceptions that Python ignores, processes that died, and prefixes that other programs add."""

import json
from itertools import product
from pathlib import Path

import pytest

from loadcheck import cli
from loadcheck.logs import Outcome
from loadcheck.logs.deaths import signal_name
from loadcheck.logs.payloads import unwrap
from loadcheck.logs.prefixes import strip_prefixes
from loadcheck.stacks import parse_log
from tests.conftest import ROOT, thinned

DEATHS = [
    ("Killed", "SIGKILL"),
    ("run.sh: line 3:  1234 Killed                  python load.py", "SIGKILL"),
    ("[1]    1234 killed     python load.py", "SIGKILL"),
    ("zsh: killed     python load.py", "SIGKILL"),
    ("make: *** [Makefile:25: load] Killed", "SIGKILL"),
    ("make: *** [Makefile:25: load] Error 137", "SIGKILL"),
    ("command terminated with exit code 137", "SIGKILL"),
    ("load-1 exited with code 139", "SIGSEGV"),
    ("Process finished with exit code 137 (interrupted by signal 9: SIGKILL)", "SIGKILL"),
    ("Error: Process completed with exit code 143.", "SIGTERM"),
    ("exitcode : -9 (pid: 77)", "SIGKILL"),
    ("    Exit Code:    137", "SIGKILL"),
    ("STEP 3 FAILED WITH EXIT CODE 137", "SIGKILL"),
    ("JOB FINISHED WITH STATUS 137", "SIGKILL"),
    ("Step 3: Finished With Code 137", "SIGKILL"),
    ("OUT OF MEMORY: KILLED PROCESS 1234 (PYTHON)", "SIGKILL"),
    ("Exceeded Job Memory Limit", "SIGKILL"),
    ("Low on resource: memory", "SIGKILL"),
    ("load.service: received 9/KILL", "SIGKILL"),
    ("Engine core process EngineCore_0 failed", None),
    ("    Reason:       OOMKilled", "SIGKILL"),
    (
        "slurmstepd: error: Detected 1 oom_kill event in StepId=9.0. Some of the step tasks have been OOM Killed.",
        "SIGKILL",
    ),
    ("slurmstepd: error: Detected 1 oom-kill event(s) in StepId=9.batch.", "SIGKILL"),
    ("Out of memory: Killed process 1234 (python) total-vm:91234kB", "SIGKILL"),
    ("Job 1, 'python load.py' terminated by signal SIGKILL (Forced quit)", "SIGKILL"),
    ("loader.service: Main process exited, code=killed, status=9/KILL", "SIGKILL"),
    ("Segmentation fault (core dumped)", "SIGSEGV"),
    ("Segmentation fault", "SIGSEGV"),
    ("Fatal Python error: Segmentation fault", "SIGSEGV"),
    ("!!!!!!! Segfault encountered !!!!!!!", "SIGSEGV"),
    ("Aborted (core dumped)", "SIGABRT"),
    ("Fatal Python error: Aborted", "SIGABRT"),
    ("terminate called after throwing an instance of 'c10::Error'", "SIGABRT"),
    ("double free or corruption (!prev)", "SIGABRT"),
    ("free(): invalid pointer", "SIGABRT"),
    ("Bus error (core dumped)", "SIGBUS"),
    ("Illegal instruction (core dumped)", "SIGILL"),
    ("Floating point exception (core dumped)", "SIGFPE"),
    ("Terminated", "SIGTERM"),
    ("*** SIGSEGV received at time=1739462069 on cpu 3 ***", "SIGSEGV"),
    ("Signal 9 (SIGKILL) received by PID 77", "SIGKILL"),
    ("Killed: 9", "SIGKILL"),
    ("/bin/bash: line 1: 12345 Killed: 9               python load.py", "SIGKILL"),
    ("srun: error: node1: task 0: Killed", "SIGKILL"),
    ("srun: error: node1: tasks 0-3: Out Of Memory", "SIGKILL"),
    ("srun: error: node01: task 0: Segmentation fault (core dumped)", "SIGSEGV"),
    ("slurmstepd: error: *** JOB 123 ON node1 CANCELLED AT 2025-02-13T16:00:00 DUE TO TIME LIMIT ***", None),
    ("slurmstepd: error: Exceeded job memory limit at some point.", "SIGKILL"),
    ("=>> PBS: job killed: mem 33554432kb exceeded limit 16777216kb", "SIGKILL"),
    ("TERM_MEMLIMIT: job killed after reaching LSF memory usage limit.", "SIGKILL"),
    ("[box:12345] *** Process received signal ***", "SIGABRT"),
    ("[box:12345] Signal: Segmentation fault (11)", "SIGSEGV"),
    (
        "Feb 13 15:57:05 host kernel: python[4321]: segfault at 0 ip 00007f sp 00007f error 4 in libcuda.so.1[7f+1]",
        "SIGSEGV",
    ),
    ("systemd-oomd[1]: Killed /user.slice due to memory pressure", "SIGKILL"),
    ("earlyoom[1]: sending SIGTERM to process 4321 uid 0", "SIGTERM"),
    ("timeout: sending signal TERM to command 'python'", "SIGTERM"),
    ("timeout: the monitored command dumped core", None),
    ("qemu: uncaught target signal 11 (Segmentation fault) - core dumped", "SIGSEGV"),
    ("Command exited with non-zero status 137", "SIGKILL"),
    ("ERROR:root:Worker exited with -9", "SIGKILL"),
    ("npm ERR! errno 137", "SIGKILL"),
    ("##[error]Process completed with exit code 137.", "SIGKILL"),
    (
        "(raylet) [2025-02-13 15:57:05,000 E 1 1] Workers (tasks / actors) killed due to memory pressure (OOM)",
        "SIGKILL",
    ),
    ("The node was low on resource: memory. Container load was using 30Gi", "SIGKILL"),
    ("Your session crashed after using all available RAM.", "SIGKILL"),
    ("The Kernel crashed while executing code in the current cell or a previous cell.", None),
    ("The kernel for load.ipynb appears to have died. It will restart automatically.", None),
    ("concurrent.futures.process.BrokenProcessPool: A process in the process pool was terminated abruptly", None),
    ("NVRM: Xid (PCI:0000:00:04): 79, pid=4321, GPU has fallen off the bus.", None),
    ("load-1 exited with code 1", None),
    # bash's jobs, zsh's own words, less common signals
    ("[1]+  Exit 137                python load.py", "SIGKILL"),
    ("zsh: abort (core dumped)  python load.py", "SIGABRT"),
    ("zsh: bus error  python load.py", "SIGBUS"),
    ("Abort trap: 6", "SIGABRT"),
    ("Bad system call (core dumped)", "SIGSYS"),
    ("CPU time limit exceeded", "SIGXCPU"),
    ("File size limit exceeded (core dumped)", "SIGXFSZ"),
    ("User defined signal 1", "SIGUSR1"),
    # runtimes that end the process themselves
    ("pure virtual method called", "SIGABRT"),
    ("F0213 15:57:03.123456  4321 ProcessGroupNCCL.cpp:12] Check failed: a == b (1 vs 2)", "SIGABRT"),
    ("panic: runtime error: invalid memory address or nil pointer dereference", "SIGABRT"),
    ("CUDA error: device-side assert triggered", None),
    ("NCCL error: unhandled system error, NCCL version 2.21.5", None),
    ("The job running on runner gpu-1 has exceeded the maximum execution time of 360 minutes.", None),
    ("Unable to determine the device handle for GPU0000:01:00.0: Unknown Error", None),
    ("EngineCore failed to start.", None),
    ("Engine core proc EngineCore_0 died unexpectedly, shutting down client.", None),
    ("Worker proc VllmWorker-1 died unexpectedly, shutting down executor.", None),
    ("RuntimeError('Engine process (pid 123) died.')", None),
    ("Engine process failed to start.", None),
    # in other languages: the words of glibc and bash
    ("Getötet", "SIGKILL"),
    ("Processus arrêté", "SIGKILL"),
    ("已杀死", "SIGKILL"),
    ("run.sh: Zeile 3:  1234 Getötet                python load.py", "SIGKILL"),
    ("./run.sh : ligne 3 : 1234 Processus arrêté      python load.py", "SIGKILL"),
    ("run.sh: 第 3 行：  1234 已杀死                 python load.py", "SIGKILL"),
    ("run.sh, linha 3:  1234 Terminado              python load.py", "SIGTERM"),
    ("Speicherzugriffsfehler (Speicherabzug geschrieben)", "SIGSEGV"),
    ("Violación de segmento (`core' generado)", "SIGSEGV"),
    ("段错误 （核心已转储）", "SIGSEGV"),
    ("セグメンテーションフォルト (コアダンプ)", "SIGSEGV"),
    ("Abgebrochen (Speicherabzug geschrieben)", "SIGABRT"),
    ("make: *** [Makefile:25: load] Fehler 137", "SIGKILL"),
    ("make: *** [Makefile:25: load] Ucciso", "SIGKILL"),
    # below terminal codes
    ("\x1b(B\x1b[mKilled\x1b(B\x1b[m", "SIGKILL"),
    ("\x1b[1;31mKilled\x1b[0m", "SIGKILL"),
    ("\x1b_bk;t=1739462069123\x07Killed", "SIGKILL"),
    ("\x1bP+q544e\x1b\\Killed", "SIGKILL"),
    # libraries that print an error and exit
    (
        "Indexing.cu:1308: indexSelect: block: [1,0,0], thread: [31,0,0] Assertion `srcIndex < srcSelectDimSize` failed.",
        None,
    ),
    ("CUDA error (/src/hopper/flash_fwd_launch_template.h:175): no kernel image is available for execution", None),
    ("Error an illegal memory access was encountered at line 387 in file /src/csrc/ops.cu", None),
    ("Failed: Cuda error /workspace/csrc/custom_all_reduce.cuh:346 'invalid argument'", None),
    ("NVRM: Xid (PCI:0000:65:00): 31, pid=1234, name=python, Ch 00000010, intr 00000000. MMU Fault", None),
    ("ERROR: Job 1 failed with return code list: [137]", None),
    ("Process SpawnProcess-1:", None),
    ("std::bad_alloc", "SIGABRT"),
    ("python3: symbol lookup error: /usr/lib/libcudnn.so.9: undefined symbol: cudnnGetLibConfig", None),
    ("python: error while loading shared libraries: libcuda.so.1: cannot open shared object file", None),
    ("python: can't open file '/load.py': [Errno 2] No such file or directory", None),
    ("load.py: error: unrecognized arguments: --gpu", None),
    ("LLVM ERROR: out of memory", "SIGABRT"),
    ("thread '<unnamed>' panicked at safetensors/src/tensor.rs:1:1:", "SIGABRT"),
    ('*** Aborted at 1739462069 (unix time) try "date -d @1739462069" if you are using GNU date ***', "SIGABRT"),
    ("*** SIGSEGV (@0x0) received by PID 77 (TID 0x7f) from PID 0; stack trace: ***", "SIGSEGV"),
    ("malloc_consolidate(): invalid chunk size", "SIGABRT"),
    ("*** buffer overflow detected ***: terminated", "SIGABRT"),
    ("*** Error in `python': double free or corruption (fasttop): 0x00007f", "SIGABRT"),
    ("Windows fatal exception: access violation", "SIGABRT"),
    ("Process finished with exit code -1073741819 (0xC0000005)", None),
    ("unable to mmap 4976698672 bytes: Cannot allocate memory (12)", None),
    ("bash: fork: Cannot allocate memory", None),
    ('INTERNAL ASSERT FAILED at "../c10/cuda/CUDACachingAllocator.cpp":838, please report a bug to PyTorch.', None),
    ("Killed process 1234 (python), UID 0, total-vm:91234kB", "SIGKILL"),
    ("Your notebook tried to allocate more memory than is available. It has restarted.", "SIGKILL"),
    ("fish: Job 1, « python load.py » terminé par le signal SIGKILL (Arrêt forcé)", "SIGKILL"),
    ("srun: Job step aborted: Waiting up to 32 seconds for job step to finish.", None),
    ("YOUR APPLICATION TERMINATED WITH THE EXIT STRING: Hangup (signal 1)", None),
    ("    Reason:       Error", None),
    ("Warning  BackOff  1s (x2 over 2s)  kubelet  Back-off restarting failed container load", None),
    ("load-x7   0/1   CrashLoopBackOff   3 (12s ago)   1m", None),
    ("Container load failed liveness probe, will be restarted", None),
    ("Job was active longer than specified deadline", None),
    ("OCI runtime exec failed: exec failed: unable to start container process", None),
    ("##[error]The operation was canceled.", None),
    ("The runner has received a shutdown signal. This can happen when the runner service is stopped.", None),
    ("ERROR: Job failed: execution took longer than 1h0m0s seconds", None),
    ("Job finished (status: FAILED).", None),
    ("State: OUT_OF_MEMORY", None),
    ("The replica workerpool0-0 exited with a non-zero status of 1.", None),
    ("Task's current input in-01 hit its timeout of 300s", None),
    # of other watchers, kernels and runtimes
    ("[1]+  Killed                  python load.py > load.log 2>&1", "SIGKILL"),
    ("[2]-  Segmentation fault      (core dumped) python load.py", "SIGSEGV"),
    ("[12345.678901] python3[4711]: segfault at 0 ip 00007f sp 00007f error 4 in libc10_cuda.so[7f+6]", "SIGSEGV"),
    (
        "[   98.123456] traps: python3[4711] general protection fault ip:7f3a sp:7ffd error:0 in libtorch_cuda.so[7f+1]",
        "SIGABRT",
    ),
    ("systemd-oomd killed 23 process(es) in this unit.", "SIGKILL"),
    ("srun: Force Terminated StepId=1234.0", None),
    ("TERM_RUNLIMIT: job killed after reaching LSF run time limit.", None),
    ("TERM_OWNER: job killed by owner.", None),
    ("2025-02-13 15:58:00,000 INFO gave up: vllm entered FATAL state, too many start retries too quickly", None),
    ("Build step 'Execute shell' marked build as failure", None),
    ("Finished: ABORTED", None),
    ("error: Recipe `train` was terminated on line 3 by signal 9", "SIGKILL"),
    ("error: Recipe `train` failed on line 3 with exit code 139", "SIGSEGV"),
    ("(raylet) [2025-02-13 15:58:00,000 C 12 12] (raylet) plasma_store_provider.cc:1: Check failed: s.ok()", "SIGABRT"),
    (
        "[rank0]:[E213 15:58:00.1 ProcessGroupNCCL.cpp:1515] [PG 0 Rank 0] Process group watchdog thread terminated with exception: x",
        None,
    ),
    ("libgomp: Thread creation failed: Resource temporarily unavailable", None),
    ("OMP: Error #15: Initializing libiomp5.so, but found libiomp5.so already initialized.", None),
    ("Intel MKL FATAL ERROR: Cannot load libmkl_avx512.so.1 or libmkl_def.so.1.", None),
    ('Script done on 2025-02-13 15:58:00+00:00 [COMMAND_EXIT_CODE="137"]', "SIGKILL"),
    ("thread '<unnamed>' has overflowed its stack", "SIGABRT"),
    ("memory allocation of 1073741824 bytes failed", "SIGABRT"),
    ("signal: killed", None),
    ("model.safetensors:  45%|####5     | 2.50G/5.70G [00:20<00:30, 100MB/s]Killed", "SIGKILL"),
    ("KeyboardInterrupt", None),
    ("torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", None),
]
BENIGN = [
    '# Note: if you see "torch.OutOfMemoryError: CUDA out of memory", lower the batch size',
    "[1]+  Done                    python load.py",
    "abort",
    "CUDA error: no error",
    "NCCL error: none",
    "load-1 exited with code 0",
    "Process finished with exit code 0",
    "SystemExit: 0",
    "WARNING 02-13 15:57:05 config.py:9] the process may be killed where host memory is short; see `dmesg`",
    "INFO 02-13 15:57:05 multiproc.py:9] Terminating local vLLM worker processes",
    "- a load that was Killed, with exit code 137, is a failure",
    "nanobind: leaked 3 instances!",
    "Answer: To kill a process, use kill -9 PID; it is then Killed by SIGKILL.",
    "The exit code of a process killed by signal 9 is 137.",
    "Job 123 COMPLETED ExitCode 0:0",
    "Timeout: 30",
    "Q: What does exit code 137 mean?",
    "A: The container was killed by SIGKILL (128 + 9), most likely for want of memory.",
    # what a container's state says of one that goes on, advice, and counts
    "OOMKilled: false",
    '            "OOMKilled": false,',
    "If you get CUDA out of memory, lower the batch size.",
    "To avoid CUDA out of memory errors set expandable_segments:True",
    "Error: none",
    "Error: 0.0132",
    "Error: 3 %",
    "Aborted: 0",
    "Finished: SUCCESS",
    'Script done on 2025-02-13 15:58:00+00:00 [COMMAND_EXIT_CODE="0"]',
    # a script's own word for `done`
    "Terminado",
    "Terminé",
    "Beendet",
    "Die Speicherzugriffsfehler sind behoben",
    # notes of the driver
    "NVRM: Xid (PCI:0000:65:00): 121, pid='<unknown>', name=<unknown>, C2C correctable error",
    "NVRM: Xid (PCI:0000:65:00): 63, pid='<unknown>', name=<unknown>, Row Remapper: New row marked for remapping",
    "Job finished (status: SUCCEEDED).",
    "    Reason:       Completed",
    "ERROR: pip's dependency resolver does not currently take into account all the packages that are installed.",
    "E0000 00:00:1739462069.123456    1234 cuda_dnn.cc:8310] Unable to register cuDNN factory: it has already been registered",
    "Retrying in 1s [Retry 1/5].",
    # a model's prompts or answers
    "Bus error handling is described in chapter 3.",
    "CUDA out of memory is a common error when training a model.",
    "The error 'CUDA out of memory' means that the GPU has no memory left.",
    'Assistant: You can fix "CUDA out of memory" by lowering the batch size.',
    "1. CUDA out of memory: lower the batch size",
    "Answer: RuntimeError: CUDA error: out of memory happens when a tensor does not fit.",
    '{"prompt": "What does CUDA out of memory mean?"}',
    "INFO 02-13 15:58:05 logger.py:39] Received request cmpl-1: prompt: 'Why CUDA out of memory?', params: SamplingParams(n=1)",
    "INFO 02-13 15:58:05 logger.py:39] Received request cmpl-2: prompt: 'My pod exited with code 137.', params: SamplingParams(n=1)",
    'RequestOutput(prompt="?", outputs=[CompletionOutput(text=" RuntimeError: CUDA error: out of memory")])',
    '[{"generated_text": "Traceback (most recent call last):\\n  File \\"a.py\\"\\nValueError: bad"}]',
    'print("Traceback (most recent call last)")',
]
PREFIXES = [
    "load-1  | ",
    "2026-11-24T04:47:07.123456789Z ",
    "2026-11-24T04:47:07.123456789Z stderr F ",
    "[pod/load-x7/main] ",
    "Nov 24 04:47:07 node-3 load[812]: ",
    "0: ",
    "(VllmWorkerProcess pid=9) ",
    "(EngineCore_0 pid=41) ",
    "(EngineCore pid=1) ERROR 01-01 00:00:00 [core.py:1] ",
    "ERROR 02-13 15:57:05 engine.py:389] ",
    "(load pid=77, ip=10.0.0.3) ",
    "vLLM STDERR: ",
    "[rank0]: ",
    "load-1  | 2026-11-24T04:47:07Z (EngineCore pid=1) ERROR 01-01 00:00:00 [core.py:1] ",
    "2026-11-24 04:47:07,123 ",
    "> ",
    # of unknown programs: learned from lines whose own beginning is known
    "[2026-11-24 04:47:07,123][INFO] ",
    "2026/11/24 04:47:07 ",
    "[1,0]<stdout>:",
    "node1: ",
    "pod/load-1 main › ",
    "I1124 04:47:07.123456 12 x.cc:1] ",
    "# ",
    "    ",
    "[Tue Nov 24 04:47:07 2026] ",
    "47:",
    "[12345.678901] ",
]
CHAIN = """\
Traceback (most recent call last):
  File "a.py", line 3, in load
    raise ValueError("first")
ValueError: first

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "a.py", line 5, in load
RuntimeError: second
"""
IGNORED = "Exception ignored in: <function Engine.__del__ at 0x7f>\n"


@pytest.fixture
def log(t4_log: Path, tmp_path: Path):
    """Writes the reference log with something appended."""

    def write(after: str) -> Path:
        path = tmp_path / "log"
        path.write_text(t4_log.read_text(encoding="utf-8").rstrip("\n") + "\n" + after, encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize(("words", "signal"), thinned(DEATHS))
def test_a_process_that_died_fails_the_load(words: str, signal: str | None, log):
    """A log that reports a process's death fails the load, whatever came before, and the signal is named."""
    parsed = parse_log(log(words + "\n"))
    assert parsed.outcome is Outcome.FAILED
    death = parsed.last.death
    assert (None if death is None else death.signal) == signal


@pytest.mark.parametrize(
    ("prefix", "words"), thinned([*product(PREFIXES, (DEATHS[number][0] for number in (0, 6, 18, 24, -1)))])
)
def test_a_death_is_found_behind_every_prefix(prefix: str, words: str, t4_log: Path, tmp_path: Path):
    """A death is found behind every prefix; an unknown prefix is learned from the lines before it."""
    path = tmp_path / "log"
    lines = [*t4_log.read_text(encoding="utf-8").splitlines(), words]
    path.write_text("".join(prefix + line + "\n" for line in lines), encoding="utf-8")
    assert parse_log(path).outcome is Outcome.FAILED


@pytest.mark.parametrize("prefix", ["", *PREFIXES])
def test_prefixes_leave_the_figures_alone(prefix: str, t4_log: Path, tmp_path: Path):
    """The reference log has the same figures and end with each line prefixed."""
    path = tmp_path / "log"
    path.write_text(
        "".join(prefix + line + "\n" for line in t4_log.read_text(encoding="utf-8").splitlines()), encoding="utf-8"
    )
    wrapped, plain = parse_log(path), parse_log(t4_log)
    assert (wrapped.last.figures, wrapped.outcome) == (plain.last.figures, Outcome.COMPLETED)


@pytest.mark.parametrize("key", ["textPayload", "message", "log"])
def test_a_line_in_json_is_its_message(key: str, t4_log: Path, tmp_path: Path):
    """A log collector's JSON objects, one per line, are read as the message in them, also one level down."""
    lines = t4_log.read_text(encoding="utf-8").splitlines()
    path = tmp_path / "log"
    path.write_text(
        "".join(json.dumps({key: line + "\n", "severity": "INFO"}) + "\n" for line in lines), encoding="utf-8"
    )
    assert parse_log(path).last.figures == parse_log(t4_log).last.figures
    assert unwrap(json.dumps({"jsonPayload": {"message": "Killed"}})) == "Killed"


@pytest.mark.parametrize("words", thinned(BENIGN))
def test_a_mention_of_an_end_is_no_failure(words: str, log):
    """Exit code 0, a warning or a sentence about an end is no failure: the load is completed."""
    assert parse_log(log(words + "\n")).outcome is Outcome.COMPLETED


@pytest.mark.parametrize(
    "line",
    [
        "Error response from daemon: No such container: vllm",
        "srun: error: ioctl(TIOCGWINSZ): Inappropriate ioctl for device",
        "srun: error: Not using a pseudo-terminal, disregarding --pty option",
        "| Exit code: 1 | the server failed |",
        "| Error: no such model | see below |",
        "| RuntimeError: it failed | see below |",
    ],
)
def test_what_scripts_and_tables_print_beside_a_load_is_no_failure(line: str, t4_log: Path, tmp_path: Path):
    """A script removes a container that is not there, srun has no terminal, and a table may list failures."""
    path = tmp_path / "log"
    path.write_text(line + "\n" + t4_log.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    assert parse_log(path).outcome is Outcome.COMPLETED


@pytest.mark.parametrize(
    "words",
    [
        "ReturnCode: 3",
        "Return Code: 3",
        "RETURN CODE 3",
        "Non-Zero exit status 1",
        "NON-ZERO STATUS 3",
        "Oom-Kill",
        "[1]  + 1234 bus error  python load.py",
        "[1]    1234 abort      python load.py",
        "[2]  - 1234 killed     python load.py",
        "[1]  + 1234 exit 137   python load.py",
    ],
)
def test_a_death_in_other_capitals_or_in_a_job_of_zsh_is_found(words: str, log):
    """Whatever a pattern of deaths can match holds an anchor: a line without one is not read."""
    assert parse_log(log(words + "\n")).outcome is Outcome.FAILED


@pytest.mark.parametrize(
    "words",
    [
        "CUDA out of memory",
        "CUDA error: out of memory",
        "RuntimeError('CUDA error: out of memory')",
        "ERROR: engine failed: 'CUDA out of memory'",
        "1. CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 22.03 GiB",
        '{"status": "failed", "output": "CUDA out of memory"}',
        '{"level": "error", "error": "CUDA out of memory. Tried to allocate 2.00 GiB."}',
        "CUDA out of memory. Try a smaller batch.",
        "CUDA error: out of memory CUDA kernel errors might be asynchronously reported at some other API call",
        "CUDA out of memory. Capturing CUDA graph shapes:   0%|          | 0/32 [00:00<?, ?it/s]",
    ],
)
def test_a_quoted_or_glued_report_counts(words: str, log):
    """A report of running out of memory counts, in quotes or glued to a progress bar, if it is not a sentence about it."""
    assert parse_log(log(words + "\n")).outcome is Outcome.FAILED


@pytest.mark.parametrize(
    "before",
    [
        "INFO 02-13 15:57:03 llm_engine.py:431] init engine (profile, create kv cache, warmup model) took 54.71 seconds",
        "INFO 02-13 15:56:09 model_runner.py:1115] Loading model weights took 5.3541 GB",
        "Unsloth 2025.2.5 patched 32 layers with 32 QKV layers, 32 O layers and 32 MLP layers.",
        "  0%|          | 0/250 [00:00<?, ?it/s]",
        "model.safetensors:  45%|####5     | 2.50G/5.70G [00:20<00:30, 100MB/s]",
        "Loading safetensors checkpoint shards: 100% Completed | 1/1 [00:23<00:00, 23.68s/it]",
    ],
)
@pytest.mark.parametrize(
    "words",
    [
        "RuntimeError: CUDA error: an illegal memory access was encountered",
        "terminate called after throwing an instance of 'c10::Error'",
        "Fatal Python error: Segmentation fault",
        "malloc_consolidate(): invalid chunk size",
    ],
)
def test_what_is_glued_to_a_figure_or_a_progress_bar_counts(before: str, words: str, log):
    """stdout and stderr share lines: an end of the load is read behind a figure or a progress bar that did not end its line."""
    parsed = parse_log(log(before + words + "\n"))
    assert parsed.outcome is Outcome.FAILED
    assert parsed.last.error is not None and parsed.last.error.text == words


def test_the_first_of_a_chain_is_the_cause(log):
    """An exception raised while another was handled is not the cause; the first of the chain is."""
    attempt = parse_log(log(CHAIN)).last
    assert attempt.error is not None and attempt.error.text == "ValueError: first"
    assert [error.text for error in attempt.errors if error.follows and error.text[:9] != "Traceback"] == [
        "RuntimeError: second"
    ]
    assert attempt.error.frames[-1] == 'raise ValueError("first")'


def test_a_pointer_to_the_cause_is_not_the_cause(log):
    """`See stack trace for the root cause` is never the cause."""
    words = "ERROR 01-01 00:00:00 engine.py:1] KeyError: 'x'\nRuntimeError: Engine process failed to start. See stack trace for the root cause.\n"
    error = parse_log(log(words)).last.error
    assert error is not None and error.text == "KeyError: 'x'"


@pytest.mark.parametrize(
    "ignored",
    [
        IGNORED + CHAIN,
        "Exception ignored while calling deallocator <function A.__del__ at 0x7f>:\n" + CHAIN,  # Python 3.14
        "Exception ignored on threading shutdown <module 'threading'>:\n" + CHAIN,
        IGNORED + "SystemExit: 1\n",
        "--- Logging error ---\n"
        + CHAIN
        + "Call stack:\n  File \"a.py\", line 1\nMessage: 'Killed %s'\nArguments: (1,)\n",
    ],
)
def test_an_ignored_exception_hides_only_its_own_traceback(ignored: str, log):
    """A chain in a __del__ or a log handler is no failure; an exception after it is."""
    assert parse_log(log(ignored)).outcome is Outcome.COMPLETED
    after = "step done\n" * 3 + 'Traceback (most recent call last):\n  File "t.py", line 9\nRuntimeError: CUDA error\n'
    assert parse_log(log(ignored + after)).outcome is Outcome.FAILED


@pytest.mark.parametrize(
    "words",
    [
        "Killed",
        "torch.OutOfMemoryError: CUDA out of memory.",
        "ValueError: LoRA rank 64 is greater than max_lora_rank 32.",
    ],
)
def test_an_error_before_a_good_end_counts(words: str, t4_log: Path, tmp_path: Path):
    """An error in the only attempt counts, on its own line or at the end of another: good lines after it do not undo it."""
    lines = t4_log.read_text(encoding="utf-8").splitlines()
    ready = next(number for number, line in enumerate(lines) if "init engine" in line)
    path = tmp_path / "log"
    for changed in (
        [*lines[:ready], words, *lines[ready:]],
        [*lines[:ready], lines[ready] + words, *lines[ready + 1 :]],
    ):
        path.write_text("\n".join(changed), encoding="utf-8")
        failed = parse_log(path).outcome is Outcome.FAILED
        assert failed or words.startswith("ValueError")


@pytest.mark.parametrize(
    "name", ["README.md", "CHANGELOG.md", "docs/troubles.md", "docs/recovery.md", "env/troubles.toml", "SECURITY.md"]
)
def test_prose_is_not_a_log(name: str, capsys: pytest.CaptureFixture[str]):
    """Prose that quotes an engine's words within sentences is refused with exit code 2."""
    assert cli.run(["check", str(ROOT / name)]) == 2
    assert "not a load log" in capsys.readouterr().err


def test_signals_have_names():
    """Signals are named from a number, an exit code or a negative one; a code that is no signal has no name."""
    assert [signal_name(code) for code in (9, 137, -9, 143, 255)] == ["SIGKILL", "SIGKILL", "SIGKILL", "SIGTERM", None]


def test_indentation_is_kept_below_a_prefix():
    """A traceback's frames stay indented behind a prefix, so that they are recognized."""
    assert strip_prefixes('ERROR 02-13 15:57:05 engine.py:389]   File "a.py", line 1') == '  File "a.py", line 1'


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("Killed", "ended by SIGKILL, most likely by the kernel for lack of host memory"),
        ("Segmentation fault", "ended by SIGSEGV: native code crashed"),
        (CHAIN, "ValueError: first; it surfaced as: RuntimeError: second"),
        ("RuntimeError: lost\nAborted (core dumped)", "RuntimeError: lost; then the process was ended by SIGABRT"),
    ],
)
def test_the_finding_tells_the_cause_and_how_it_surfaced(
    words: str, message: str, log, capsys: pytest.CaptureFixture[str]
):
    """The finding gives the signal with its most likely meaning, and both ends of an exception chain."""
    assert cli.run(["check", str(log(words + "\n")), "--json"]) == 1
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert message in next(each["why"] for each in findings if each["figure"] == "error" and each["measured"] is None)


RANK_LINE = "INFO 02-13 15:56:20 worker.py:267] model weights take 5.35GiB; non_torch_memory takes 0.05GiB; PyTorch activation peak memory takes 0.74GiB; the rest of the memory reserved for KV Cache is 2.64GiB."


@pytest.mark.parametrize(
    "prefix",
    [
        "(VllmWorkerProcess pid=9) ",
        "(VllmWorker rank=1 pid=9) ",
        "(Worker_TP1 pid=9) ",
        "(EngineCore_1 pid=9) ",
        "[rank1]: ",
    ],
)
def test_another_ranks_lines_are_no_second_load(
    prefix: str, t4_log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """The lines of a tensor-parallel load's ranks are one load: one rank is judged, and a note says that this is not modelled."""
    lines = t4_log.read_text(encoding="utf-8").splitlines()
    profiled = next(number for number, line in enumerate(lines) if "model weights take" in line)
    path = tmp_path / "log"
    path.write_text(
        "\n".join([*lines[: profiled + 1], prefix + RANK_LINE.replace("0.74", "0.72"), *lines[profiled + 1 :]]),
        encoding="utf-8",
    )
    parsed = parse_log(path)
    assert len(parsed.attempts) == 1 and parsed.last.other_ranks and max(parsed.last.formats.values()) == 1
    assert cli.run(["check", str(path)]) == 0
    assert "tensor parallel is not modelled" in capsys.readouterr().out


def test_an_engine_over_two_cards_is_not_modelled(t4_log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The engine's first line alone shows a load over two cards."""
    path = tmp_path / "log"
    path.write_text(
        t4_log.read_text(encoding="utf-8").replace("tensor_parallel_size=1", "tensor_parallel_size=2"), encoding="utf-8"
    )
    cli.run(["check", str(path)])
    assert "tensor parallel is not modelled" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("of_stdout", "of_stderr"),
    [
        ("[INFO ] PyProcess - W-210-model-stdout: ", "[WARN ] PyProcess - W-210-model-stderr: "),
        ("2025-02-13T15:54:01.123456Z 01O ", "2025-02-13T15:58:01.123456Z 01E "),
        ("INFO\t2025-02-13 15:54:01 +0000\tworkerpool0-0\t", "ERROR\t2025-02-13 15:58:01 +0000\tworkerpool0-0\t"),
        ("[1,0]<stdout>:", "[1,0]<stderr>:"),
        ("2025-02-13 15:54:01.1 | INFO     | app:main:42 - ", "2025-02-13 15:58:01.2 | CRITICAL | app:main:42 - "),
        ("2025-02-13 15:54:01,1 - runner - INFO - ", "2025-02-13 15:58:01,2 - runner - ERROR - "),
        ("2025-02-13 15:54:01,123 DEBG 'vllm' stdout output: ", "2025-02-13 15:58:01,123 DEBG 'vllm' stderr output: "),
        ("     7\t", "   123\t"),
    ],
)
@pytest.mark.parametrize("end", ["Killed", CHAIN.rstrip()])
def test_a_prefix_may_name_another_level_or_stream_at_the_end(of_stdout: str, of_stderr: str, end: str, tmp_path: Path):
    """The prefix of a log is known again where only its level, its stream or the width of a number differs."""
    said = ("Memory profiling takes 11.34 seconds", "# CUDA blocks: 1353, # CPU blocks: 1024",
            "Maximum concurrency for 512 tokens per request: 42.28x", "Graph capturing finished in 41 secs, took 0.36 GiB")  # fmt: skip
    lines = [f"INFO 02-13 15:56:20 worker.py:267] {words}" for words in said]
    text = "".join(f"{of_stdout}{line}\n" for line in lines) + "".join(
        f"{of_stderr}{line}\n" for line in end.split("\n")
    )
    (tmp_path / "log").write_text(text)
    error = parse_log(tmp_path / "log").last.error
    assert error is not None and error.text == ("Killed" if end == "Killed" else "ValueError: first")


@pytest.mark.parametrize("escape", ["#033", "^[", "\\x1b", "\\033", "\\u001b", "\\e", "\u241b", ""])
def test_written_out_colours_are_no_text(escape: str, log):
    """Colours count as such where a collector wrote their escape character out, or dropped it."""
    text = f"{escape}[1;36m(VllmWorkerProcess pid=240){escape}[0;0m {escape}[31mKilled{escape}[0m\n"
    assert parse_log(log(text)).outcome is Outcome.FAILED


DOCUMENTED = [
    '    Raises:\n        ValueError: If matrix dimensions are incompatible.\n    """\n',
    'Raises\n------\nValueError\n    If the inner dimensions do not match.\n"""\n',
    "    Raises:\n        RuntimeError: if CUDA fails\n\n        MemoryError: if memory is short\n    '''\n",
]


@pytest.mark.parametrize("docstring", DOCUMENTED)
def test_a_docstring_that_a_model_wrote_raises_nothing(docstring: str, log):
    """Exceptions that a docstring only names, as in a training that prints the model's programs, are no failure; those after it are."""
    assert parse_log(log(docstring)).outcome is Outcome.COMPLETED
    for end in ("RuntimeError: boom\n", CHAIN, "Killed\n"):
        assert parse_log(log(docstring + end)).outcome is Outcome.FAILED
    assert parse_log(log(docstring.rstrip("\n\"' ") + "\n" + CHAIN)).outcome is Outcome.FAILED


@pytest.mark.parametrize(
    "words",
    thinned(
        [
            "ResourceNotFound: no such checkpoint",
            "ServiceUnavailable: 503 the engine is gone",
            "ray.exceptions.ActorUnavailable: The actor 7f is temporarily unavailable",
            "mlflow.store.ExperimentNotFound",
            "TimeoutExpired: Command '['nvcc']' timed out after 60 seconds",
            "subprocess.TimeoutExpired: Command '['nvcc']' timed out after 60 seconds",
            "triton.compiler.OutOfResources: out of resource: shared memory, Required: 81920, Hardware limit: 65536.",
            "http.client.RemoteDisconnected: Remote end closed connection without response",
            "http.client.IncompleteRead: IncompleteRead(0 bytes read, 7 more expected)",
            "_queue.Empty",
            "queue.Full",
            "asyncio.queues.QueueEmpty",
            "socket.timeout: timed out",
            "socket.gaierror: [Errno -2] Name or service not known",
            "struct.error: unpack requires a buffer of 8 bytes",
            "zlib.error: Error -3 while decompressing data: invalid block type",
            "CudaError: 3",
            "ncclSystemError: System call (e.g. socket, malloc) or external library call failed.",
        ]
    ),
)
def test_an_exception_alone_counts_by_the_kind_of_its_name(words: str, log):
    """Names that end as those of exceptions do, and well-known ones that do not, end a load without a traceback, too."""
    parsed = parse_log(log(words + "\n"))
    assert parsed.outcome is Outcome.FAILED
    assert parsed.last.error is not None and parsed.last.error.text == words


@pytest.mark.parametrize(
    "words",
    thinned(
        [
            "maxUnavailable: 25%",
            "  maxUnavailable: 1",
            "failOnError: true",
            "exit_on_Error: no",
            "ResourceNotFound: 0",
            "NotFound: false",
            "numUnavailable: 0",
            "raiseException: null",
            "onError: []",
        ]
    ),
)
def test_a_setting_or_a_count_with_such_a_name_is_no_exception(words: str, log):
    """A dumped configuration and a summary have names that end alike, and values that no message is."""
    assert parse_log(log(words + "\n")).outcome is Outcome.COMPLETED


OF_EARLIER = [
    "previous run was killed by signal 9",
    "Previous run exited with code 137, resuming from checkpoint-200",
    "[watchdog] last exit code was 137",
    "last exit code: 137",
    "Restarted after OOMKilled",
    "restarting after exit code 137",
    "Last termination reason: OOMKilled",
    "The last attempt was OOM-killed; lowering gpu_memory_utilization to 0.5",
    "Exit code of the previous container: 139",
    "The previous attempt failed: CUDA out of memory",
    "Retrying after CUDA out of memory",
    "Recovering from an earlier run that was terminated by signal SIGTERM",
    "Requeued: job 7 was preempted before; its last run was killed by SIGTERM",
]
"""What supervisors, trainers' scripts and schedulers print about the run before."""


@pytest.mark.parametrize("words", thinned(OF_EARLIER))
@pytest.mark.parametrize("place", [0, 3])
def test_an_end_of_an_earlier_run_ends_not_this_one(words: str, place: int, t4_log: Path, tmp_path: Path):
    """A line about the run before, ahead of the load or within its banner, is no end of the load that goes on."""
    lines = t4_log.read_text(encoding="utf-8").splitlines()
    path = tmp_path / "log"
    path.write_text("\n".join([*lines[:place], words, *lines[place:]]) + "\n", encoding="utf-8")
    assert parse_log(path).outcome is Outcome.COMPLETED


@pytest.mark.parametrize("words", thinned(OF_EARLIER))
def test_an_end_of_this_run_in_the_words_of_an_earlier_one_counts(words: str, t4_log: Path, tmp_path: Path):
    """Behind the load, or where it stops, the earlier run is the load itself; alone, it is all that is known of one."""
    lines = t4_log.read_text(encoding="utf-8").splitlines()
    ready = next(number for number, line in enumerate(lines) if "init engine (" in line)
    path = tmp_path / "log"
    for before in (lines, lines[: ready + 1], lines[:ready], lines[:3]):
        path.write_text("\n".join([*before, words]) + "\n", encoding="utf-8")
        assert parse_log(path).outcome is Outcome.FAILED
    for first in (lines, lines[:ready]):  # restarted, and its first load failed
        path.write_text("\n".join([*first, words, *lines]) + "\n", encoding="utf-8")
        parsed = parse_log(path)
        assert len(parsed.attempts) == 2 and parsed.attempts[0].outcome is Outcome.FAILED
    path.write_text("\n".join([*lines[:ready], words, *lines[ready:]]) + "\n", encoding="utf-8")
    assert parse_log(path).outcome is Outcome.FAILED  # within a load it may be about a process of its own


@pytest.mark.parametrize(
    "words", ["Killed", "python load.py exited with code 137", "The process was killed by signal 9", "OOMKilled"]
)
def test_an_end_without_words_of_an_earlier_run_counts_wherever_it_is(words: str, t4_log: Path, tmp_path: Path):
    """In doubt a report is about this load, even before its first line."""
    path = tmp_path / "log"
    path.write_text(words + "\n" + t4_log.read_text(encoding="utf-8"), encoding="utf-8")
    assert parse_log(path).outcome is Outcome.FAILED


def test_the_earlier_run_of_a_load_on_the_cpu_is_no_end(tmp_path: Path):
    """Our own events show, too, that a load went on behind the line."""
    events = (ROOT / "tests" / "training" / "run" / "load.log").read_text(encoding="utf-8")
    path = tmp_path / "log"
    path.write_text(f"previous run was killed by signal 9\n{events}", encoding="utf-8")
    assert parse_log(path).last.error is None
    path.write_text(f"{events}previous run was killed by signal 9\n", encoding="utf-8")
    assert parse_log(path).last.error is not None
