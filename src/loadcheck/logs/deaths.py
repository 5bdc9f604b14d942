"""Reports that a process died, from whatever watched it: a shell, a kernel, a container, a scheduler, the other process of an engine."""

from __future__ import annotations

import re
import signal

from loadcheck.logs.signal_words import ENGLISH, find_report

MAX_REPORT_CHARS, MAX_WORDS_BEFORE, PROSE = 400, 12, "|#-*"
"""A report of a death is a short line that says so early. A longer line, or one of Markdown, only mentions a death."""

_EXIT_CODE = re.compile(
    r"(?:^\[\d{1,4}\][-+]? {1,8}(?:[-+] {1,8})?(?:\d{1,8} {1,8})?exit|\b(?:exit(?:ed)?(?: with)? (?:exit )?(?:code|status)(?: was| of (?:the |its )?(?:previous|last|earlier) \w{1,20}(?: was)?)?|(?:COMMAND_)?exit_?code|non-zero (?:exit )?status(?: of)?|exited with(?= -\d| 1[2-5]\d\b)|npm \S+ errno|"
    r"(?:failed|died|terminated|finished) with (?:exit )?(?:code|status)|returncode|return code))[\"']?\s*(?:[:=(]\s*|\s)[\"']?"
    r"(?P<code>-?\d{1,10})(?=[)\]}.,;:\"'\s]|$)",
    re.IGNORECASE | re.ASCII,
)
_MAKE_ERROR = re.compile(r"make(?:\[\d+\])?: \*\*\* \[[^\]]+\] (?:Error|[^\W\d]{2,30}) (?P<code>\d+)")
_SIGNALLED = re.compile(
    r"\b(?:[Kk]illed|[Tt]erminated|[Ee]nded|[Dd]ied|[Ee]xited|[Ii]nterrupted|[Ss]topped|[Cc]aught|[Rr]eceived|[Uu]ncaught target|[Ss]ending|"
    r"code=killed)\b[^\n]{0,60}?"
    r"\b(?P<signal>SIG[A-Z]{2,6}\b|[Ss]ignal[ :=]+(?:\d{1,2}|TERM|KILL|INT|HUP)\b|9/KILL\b)|^(?:warning: |error: )?fish: .{1,300}?\b(?P<fish>SIG[A-Z]{2,6})\b|"
    r"^Signal (?P<number>\d{1,2}) \(SIG[A-Z]+\) received|"
    r"^Signal: [A-Z][\w ]{2,30} \((?P<mpi>\d{1,2})\)"
)
_RECIPE = "error: Recipe `"
"""The beginning of just's report that a command of a recipe failed, the only one with backquotes."""
_CAUGHT = re.compile(
    r"\*\*\* (?P<signal>SIG[A-Z]{2,6}) (?:\(@0x[0-9a-f]+\) )?received\b.*"
)  # absl's failure handler, of Ray; glog's
_HOST_MEMORY = re.compile(
    r"due to (?:memory pressure|out of memory)|low on resource: memory|[Ee]xceeded (?:job|step|job step) memory limit|job killed: mem|TERM_(?:MEMLIMIT|SWAP)|"
    r"using all available RAM|tasks? \d[\d,-]{0,99}: Out Of Memory|OOMKilled(?!\W{1,9}(?:false|0)\b)|\boom(?:[-_ ]kill|kill(?!ed))|Out of memory: Kill|Killed process \d+ \(|tried to allocate more memory than is available|ran out-of-memory and exited|systemd-oomd killed|[Mm]emory cgroup out of memory|\boom_reaper|Detected \d+ oom[-_ ]?kill",
    re.IGNORECASE,
)
_NATIVE = re.compile(
    r"(?:Windows fatal exception|Fatal Python error): .*|terminate called .*|libc\+\+abi: terminating.*|LLVM ERROR: .*|std::bad_alloc\s*$|\s*what\(\):  .*|"
    r"thread '[^'\n]{1,255}' panicked at .*|\*\*\* Process received signal \*\*\*.*|\*\*\* Aborted at \d+ \(unix time\) .*|"
    # glibc: malloc/malloc.c (malloc_printerr), debug/fortify_fail.c
    r"(?:\*\*\* Error in `[^`\n]{1,255}': )?(?:\*\*\* (?:stack smashing|buffer overflow) detected.*|double free or corruption.*|corrupted (?:size|double|unsorted).*|"
    r"(?:free|calloc|malloc|realloc|malloc_\w+|munmap_chunk|mremap_chunk|unlink_chunk|tcache\w*)\(\): \S.*)|"
    # C++'s runtime, glog (a failed check ends the process), Go's runtime
    r"pure virtual method called\s*$|(?:F\d{4,8} \d\d:\d\d:\d\d\.\d{1,9} +\d+ )?(?:\(\w+\) )?\S{1,255}:\d+(?:\]|: ) ?Check failed: .*|panic: \S.*|"
    # Rust's and Go's runtimes, and the kernel's report of a fault
    r"thread '[^'\n]{1,255}' (?:\(\d+\) )?has overflowed its stack.*|memory allocation of \d+ bytes failed.*|fatal runtime error: \S.*|"
    r"traps: \S{1,99}\[\d+\] (?:general protection|trap ).*|"
    r"\w[\w.-]{0,63}\[\d+\]: segfault at [0-9a-f]+ ip .*|!+ Segfault encountered !+.*|\S{1,255}: \S{1,255}:\d+: .{1,400}: Assertion .{1,400} failed\.?"
)
# ld.so, Python and argparse, before there is a program that runs
_NOT_STARTED = re.compile(
    r"\S{1,255}: (?:symbol lookup error: \S.*|error while loading shared libraries: .*|can't open file '.{1,400}': \[Errno \d+\] .*|"
    r"error: (?:unrecognized arguments|the following arguments are required|argument \S.{0,80}): .*)"
)
_IS_SEGFAULT = re.compile(r"egmentation|[Ss]egfault")
_ENGINE = re.compile(
    r"EngineCore (?:failed to start|encountered (?:a fatal error|an issue)|.{0,60}died)|EngineDeadError|"
    r"Engine core (?:proc|initialization|process)\b.{0,80}(?:died|failed)|Engine process (?:\(pid \d+\) )?(?:died|failed to start)|"
    r"Engine loop (?:has died|is not running)|Worker(?:Proc| proc| process| \S+)\b.{0,80}\b(?:died|failed to start|exited unexpectedly|initialization failed)|"
    r"(?:A|The) worker died|[Ww]orker (?:process )?(?:has )?(?:crashed|died)|actor (?:has )?died|DataLoader worker .{0,80}(?:killed|exited unexpectedly)|"
    r"(?:Background loop|MQLLMEngine) (?:has errored|is (?:already )?dead|terminated)|AsyncLLM output_handler failed"
)
_OF_TOOL = "Cmd('"
"""GitPython's report of a git that failed (git/exc.py), such as wandb logs where a checkout is another user's."""


# Reports of schedulers, mpirun, timeout, Jupyter, Kubernetes, CI and clouds that a process they watched is gone.
_GONE = re.compile(
    r"\*\*\* (?:JOB|STEP) \S+ ON \S+ (?:CANCELLED|FAILED)|PBS: job killed|^TERM_[A-Z_]{3,20}: job |dumped core|"
    r"[Kk]ernel (?:crashed while executing|(?:[\w.()]+ ){0,4}died\b|for \S+ appears to have died|appears to have died|\S+ restarted$)|"
    r"restarting kernel \(|Canceled future for execute_request|session crashed|^Evicted\b|\bpod \S+ evicted|"
    r"^srun: Job step aborted|APPLICATION TERMINATED WITH THE EXIT STRING|BAD TERMINATION OF ONE OF YOUR APPLICATION|^\W*(?:[Jj]ob_?)?[Ss]tat(?:e|us): +"
    r"(?:FAILED|OUT_OF_MEMORY|NODE_FAIL|TIMEOUT|CANCELLED|PREEMPTED)\b|\(status: FAILED\w*\)|[Bb]ack-off restarting failed|\bCrashLoopBackOff\b|"
    r"^\s*Reason:\s+(?:Error|StartError|ContainerCannotRun|Evicted|DeadlineExceeded)\s*$|failed (?:liveness|startup) probe, will be restarted|"
    r"active longer than specified deadline|\bhas reached the specified backoff limit|exceeds the total limit of containers|OCI runtime (?:exec|create) failed|"
    r"^The operation was cancell?ed\b|^The runner has received a shutdown signal|^The (?:self-)?hosted runner\b.{0,200} lost communication|"
    r"^Job failed(?: \(system failure\))?: |^srun: (?:error|fatal): (?!ioctl\(TIOCGWINSZ\)|Not using a pseudo-terminal)|^(?:The )?job was preempted\b|sigkill_handler\] Killing subprocess|"
    # systemd; Hugging Face's endpoints and spaces; conda run
    r"Main process exited, code=(?:exited, status=[1-9]|killed|dumped)|Failed with result '(?!success)|^Exit code: [1-9]|^Endpoint failed to start|ran longer than the maximum time|hit its timeout of \d+|^Runner terminated\b|has exceeded the maximum execution time|^The job was cancell?ed because|"
    r"^Unable to determine the device handle for (?:GPU|gpu)|"
    # srun, supervisord, Jenkins, Go's os/exec
    r"^srun: Force Terminated |\bgave up: \S{1,99} entered FATAL state|^Build step '.{1,99}' marked build as failure|^Finished: (?:FAILURE|ABORTED)\s*$|"
    r"^signal: (?:killed|aborted|terminated|segmentation fault|bus error|illegal instruction)\b"
)
_PROSE = re.compile(
    r"\b(?:you|your|if|when|use|means?|would|could|should|may|likely|does|why|how|what|an? process)\b", re.IGNORECASE
)
"""Words of a sentence about signals and exit codes, such as a model's answer; no report of a death has them."""


def signal_name(number: int) -> str | None:
    """The signal of a signal number, an exit code above 128, or a negative return code (subprocess); None if there is none."""
    number = -number if number < 0 else number - 128 if number > 128 else number
    try:
        return signal.Signals(number).name
    except ValueError:
        return None


def find_death(text: str) -> tuple[str, str | None] | None:
    """The report of a process death in a line without its prefixes, and the signal; None if the line holds no such report."""
    if report := find_report(text):
        return report
    if match := _NATIVE.match(text):
        return match.group(), "SIGSEGV" if _IS_SEGFAULT.search(match.group()) else "SIGABRT"
    if match := _NOT_STARTED.match(text):
        return match.group(), None
    if match := _CAUGHT.match(text):
        return match.group(), match["signal"]
    if (
        len(text) > MAX_REPORT_CHARS
        or ("`" in text and not text.startswith(_RECIPE))
        or text[:1] in PROSE
        or _OF_TOOL in text
    ):
        return None
    return _reported_death(text)


def _reported_death(text: str) -> tuple[str, str | None] | None:
    """The same for a report by what watched the process: a kernel, a container, a scheduler, the other process of an engine."""
    words = text.strip()
    if _search_near(_HOST_MEMORY, text):
        return words, signal.SIGKILL.name
    if not _PROSE.search(text):
        if match := _search_near(_SIGNALLED, text):
            return words, _signal_in(match["signal"] or match["fish"] or match["number"] or match["mpi"])
        if match := _search_near(_EXIT_CODE, text) or _MAKE_ERROR.match(text):
            code = int(match["code"])
            return (words, signal_name(code) if code < 0 or code > 128 else None) if code else None
    match = _ENGINE.search(text) or _GONE.search(text)
    return (words, None) if match and _is_near(text, match) else None


def _signal_in(word: str) -> str | None:
    """The signal that a report names, or states as a number."""
    if digits := re.search(r"\d+", word):
        return signal_name(int(digits.group()))
    return f"SIG{word.removeprefix('SIG').split()[-1]}"


def _search_near(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    """The first match, if it is near the beginning of its line."""
    match = pattern.search(text)
    return match if match and _is_near(text, match) else None


def _is_near(text: str, match: re.Match[str]) -> bool:
    """Whether the match is near the beginning of its line, as in a report. A sentence may get there later."""
    return len(text[: match.start()].split()) <= MAX_WORDS_BEFORE


DEATH_ANCHORS = (
    *ENGLISH, "oom", "OOM", "Oom", "ut of memory", "Fatal Python", "fatal exception", "LLVM ERROR", "panicked at", "*** A", "*** b", "*** E", "terminate called", "libc++abi", "*** s", "*** S", "corrupt", "(): ",
    "segfault at", "what():", "emory pressure", "emory Pressure", "ow on resource", "emory limit", "emory Limit", "MEMORY", "job killed", "available RAM", "Out Of Memory",
    "*** J", "*** P", "dumped core", "ernel ", "Canceled future", "session crashed", "victed", "errno", "Signal", "Sending", "sending",
    "Iteration", "Pool", "exc.", "error.", "errors.", "exception.", "exceptions.", "Timeout", "Failed", "Failure", "Refused", "Crashed", "Cancelled", "on-zero", "on-Zero", "ON-ZERO",
    "bad_alloc", "Segfault", "Assertion", "SIG", "signal", "exit", "Exit", "EXIT", "returncode", "return code", "eturnCode", "eturn Code", "RETURN", "died", "dead", "failed to start",
    "encountered a", "crashed", "initialization failed", "/KILL", "KILLED", "ERRNO", "status=9", "with code", "with status", "ith Code", "ith Status", "WITH CODE", "WITH STATUS", "loop is not", "has errored", "make", "lookup error", "shared libraries", "can't open file", ": error: ", "Job step aborted",
    "EXIT STRING", "BAD TERMINATION", "state:", "State:", "status: ", "Status: ", "ack-off restarting", "BackOff", "Reason:", "probe, will be restarted", "output_handler failed", "Failed with result", "rocess exited", "was preempted", "sigkill_handler", "srun: ",
    "specified deadline", "specified backoff", "total limit", "OCI runtime", "operation was cancel", "hosted runner", "shutdown signal", "Job failed", "maximum time",
    "its timeout", "Runner terminated", "maximum execution", "job was cancel", "device handle", "pure virtual", "Check failed", "panic: ", "zsh: ", "]  ", "out-of-memory", "more memory than", "cess ", "fish: ", "ngine core",
    "TERM_", "gave up: ", "marked build", "Finished: ", "Recipe `", "overflowed its stack", "memory allocation of", "fatal runtime error", "traps: ",
)  # fmt: skip
