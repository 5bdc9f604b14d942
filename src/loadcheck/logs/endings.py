"""How a log ends: exceptions, with what they were raised from and where, and processes that died.

Python's own forms: a traceback is its head, indented frames, and a line `Type: message`; a chain joins several by two known sentences
(Lib/traceback.py, _cause_message and _context_message). What `Exception ignored in` or `--- Logging error ---` begins ends nothing.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto

from loadcheck.logs.dialect import EndingWords
from loadcheck.logs.formats import Stage

MAX_FRAMES = 200
"""Lines kept of one traceback, the last ones: far over what Python prints of one without recursion."""
MAX_TEXT = 500
MAX_REPORT_CHARS, MAX_WORDS_BEFORE, PROSE = 400, 12, "|#-*"
"""A report of a death is a short line that comes to the point; a longer one, or one of Markdown, only speaks of it."""

TRACEBACK = "Traceback (most recent call last)"
_IGNORED = re.compile(r"Exception ignored (?:in|on)\b|--- Logging error ---")
_CHAIN = re.compile(
    r"(?:During handling of the above exception, another exception occurred|"
    r"The above exception was the direct cause of the following exception):?"
)
_NAME = r"[A-Za-z_][\w.]*"
_EXCEPTION = re.compile(
    rf"(?P<name>{_NAME}(?:Error|Exception|Interrupt|ExceptionGroup|Exit|Died|NotFound|Unavailable)\w*|Stop(?:Async)?Iteration|"
    r"(?:\w+\.){1,9}[A-Z]\w*(?:Pool|Timeout|Failed|Failure|Refused|Killed|Crashed|Cancelled|Aborted)|"
    r"(?:\w+\.){0,9}(?:exc|errors?|exceptions?|_exceptions?|_errors?)\.[A-Z]\w*(?:\(\w+\))?)(?::\s.*|:?$|\(['\"].*)",
    re.ASCII,
)
_RAISED = re.compile(rf"{_NAME}(?:: .*|:?$)", re.ASCII)
BENIGN_EXITS = ("SystemExit: 0", "SystemExit: None", "SystemExit")
_GROUP_EDGE = re.compile(r"^[ |+-]*(?=\S)")
_LOGGING_TAIL = ("Call stack:", "Message: ", "Arguments: ")
# What points to an error elsewhere, and is none itself.
_POINTER = re.compile(r"root cause|see (?:the )?(?:stack ?trace|error|above)", re.IGNORECASE)

_SIGNAL_WORDS = {  # what shells print of a signal: strsignal(3)
    "Hangup": signal.SIGHUP, "Quit": signal.SIGQUIT, "Illegal instruction": signal.SIGILL, "Trace/breakpoint trap": signal.SIGTRAP,
    "Aborted": signal.SIGABRT, "Bus error": signal.SIGBUS, "Floating point exception": signal.SIGFPE, "Killed": signal.SIGKILL,
    "killed": signal.SIGKILL, "Segmentation fault": signal.SIGSEGV, "segmentation fault": signal.SIGSEGV, "aborted": signal.SIGABRT,
    "Terminated": signal.SIGTERM, "terminated": signal.SIGTERM,
}  # fmt: skip
_WORDS = "|".join(map(re.escape, _SIGNAL_WORDS))
# bash: `Killed`, `run.sh: line 3:  1234 Killed   python load.py`; zsh: `[1]  1234 killed  python load.py`; make: `*** [Makefile:3: load] Killed`
_SHELL = re.compile(
    rf"(?:\S{{1,255}}: line \d+: +\d+ |\[\d+\] {{2,}}\+? *\d+ |zsh: |make(?:\[\d+\])?: \*\*\* \[[^\]]+\] |"
    rf"srun: error: \S{{1,255}}: tasks? [\d,-]{{1,99}}: )?(?P<word>{_WORDS})(?:: \d{{1,2}})?(?: +\(core dumped\))?(?: {{2,}}.*|\s*)$"
)
# The same, printed on a line that a progress bar or a line without its end had begun.
_GLUED = re.compile(rf"(?:it/s?\]|s/it\]|\bseconds|\bGi?B|\blayers\.|%)\s?(?P<word>{_WORDS})(?: +\(core dumped\))?\s*$")
_EXIT_CODE = re.compile(
    r"\b(?:exit(?:ed)?(?: with)? (?:exit )?(?:code|status)|exit_?code|non-zero (?:exit )?status|exited with(?= -\d| 1[2-5]\d\b)|npm \S+ errno|"
    r"(?:failed|died|terminated|finished) with (?:exit )?(?:code|status)|returncode|return code)[\"']?\s*(?:[:=(]\s*|\s)[\"']?"
    r"(?P<code>-?\d{1,4})(?=[)\]}.,;:\"'\s]|$)",
    re.IGNORECASE | re.ASCII,
)
_MAKE_ERROR = re.compile(r"make(?:\[\d+\])?: \*\*\* \[[^\]]+\] Error (?P<code>\d+)")
_SIGNALLED = re.compile(
    r"\b(?:[Kk]illed|[Tt]erminated|[Ee]nded|[Dd]ied|[Ee]xited|[Ii]nterrupted|[Ss]topped|[Cc]aught|[Rr]eceived|[Uu]ncaught target|[Ss]ending|"
    r"code=killed)\b[^\n]{0,60}?"
    r"\b(?P<signal>SIG[A-Z]{2,6}\b|[Ss]ignal[ :=]+(?:\d{1,2}|TERM|KILL|INT|HUP)\b|9/KILL\b)|^Signal (?P<number>\d{1,2}) \(SIG[A-Z]+\) received|"
    r"^Signal: [A-Z][\w ]{2,30} \((?P<mpi>\d{1,2})\)"
)
_CAUGHT = re.compile(r"\*\*\* (?P<signal>SIG[A-Z]{2,6}) received\b.*")  # absl's failure handler, of Ray
_HOST_MEMORY = re.compile(
    r"due to (?:memory pressure|out of memory)|low on resource: memory|[Ee]xceeded (?:job|step|job step) memory limit|job killed: mem|TERM_MEMLIMIT|"
    r"using all available RAM|tasks? \d[\d,-]{0,99}: Out Of Memory|OOMKilled|\boom[-_ ]?kill|Out of memory: Kill|[Mm]emory cgroup out of memory|\boom_reaper|Detected \d+ oom[-_ ]?kill",
    re.IGNORECASE,
)
_NATIVE = re.compile(
    r"Fatal Python error: .*|terminate called .*|libc\+\+abi: terminating.*|\*\*\* stack smashing detected.*|\*\*\* Process received signal \*\*\*.*|"
    r"double free or corruption.*|(?:free|malloc|realloc)\(\): \S.*|corrupted (?:size|double).*|munmap_chunk\(\): .*|"
    r"\s*what\(\):  .*|\w[\w.-]{0,63}\[\d+\]: segfault at [0-9a-f]+ ip .*|!+ Segfault encountered !+.*|\S{1,255}: \S{1,255}:\d+: .{1,400}: Assertion .{1,400} failed\.?"
)
_IS_SEGFAULT = re.compile(r"egmentation|[Ss]egfault")
_ENGINE = re.compile(
    r"EngineCore (?:failed to start|encountered (?:a fatal error|an issue)|.{0,60}died)|EngineDeadError|"
    r"Engine core (?:proc|initialization|process)\b.{0,80}(?:died|failed)|Engine process (?:\(pid \d+\) )?(?:died|failed to start)|"
    r"Engine loop (?:has died|is not running)|Worker(?:Proc| proc| process| \S+)\b.{0,80}\b(?:died|failed to start|exited unexpectedly|initialization failed)|"
    r"(?:A|The) worker died|[Ww]orker (?:process )?(?:has )?(?:crashed|died)|actor (?:has )?died|DataLoader worker .{0,80}(?:killed|exited unexpectedly)|"
    r"(?:Background loop|MQLLMEngine) (?:has errored|is (?:already )?dead|terminated)"
)


# Who watched a process, and says that it is gone: schedulers, mpirun, timeout, Jupyter.
_GONE = re.compile(
    r"\*\*\* (?:JOB|STEP) \S+ ON \S+ (?:CANCELLED|FAILED)|PBS: job killed|dumped core|"
    r"[Kk]ernel (?:crashed while executing|died\b|for \S+ appears to have died|appears to have died|\S+ restarted$)|"
    r"restarting kernel \(|Canceled future for execute_request|session crashed|^Evicted\b|\bpod \S+ evicted"
)
_PROSE = re.compile(
    r"\b(?:you|your|if|when|use|means?|would|could|should|may|likely|does|why|how|what|an? process)\b", re.IGNORECASE
)
"""Words of a sentence about signals and exit codes, such as a model's answer; no report of one has them."""


class Kind(Enum):
    """What ended a load: an exception that Python printed, the engine's own words, or the death of a process."""

    EXCEPTION = auto()
    WORDS = auto()
    HEAD = auto()
    DEATH = auto()


@dataclass(frozen=True, slots=True)
class LogError:
    """A line that ends a load.

    Attributes:
        text: the line's own words, at most MAX_TEXT characters.
        stage: how far the load had come there; None where no line of a load stood before it.
        frames: the lines of its traceback, the innermost last.
        follows: whether it was raised from the error before it.
        signal: the name of the signal that ended a process; None where there was none, or none is known.
    """

    line: int
    text: str
    kind: Kind = Kind.WORDS
    stage: Stage | None = None
    frames: tuple[str, ...] = ()
    follows: bool = False
    signal: str | None = None

    @property
    def is_pointer(self) -> bool:
        """Whether it only says that the cause stands elsewhere."""
        return _POINTER.search(self.text) is not None


def signal_name(number: int) -> str | None:
    """The signal of a number, of an exit code above 128, or of a negative one (subprocess); None where there is none."""
    number = -number if number < 0 else number - 128 if number > 128 else number
    try:
        return signal.Signals(number).name
    except ValueError:
        return None


def find_death(text: str) -> tuple[str, str | None] | None:
    """The words of a process that died in a line below its prefixes, and its signal; None where the line says no such thing."""
    if (match := _SHELL.match(text)) or (match := _GLUED.search(text)):
        return match.group().strip(), _SIGNAL_WORDS[match["word"]].name
    if match := _NATIVE.match(text):
        return match.group(), "SIGSEGV" if _IS_SEGFAULT.search(match.group()) else "SIGABRT"
    if match := _CAUGHT.match(text):
        return match.group(), match["signal"]
    if len(text) > MAX_REPORT_CHARS or "`" in text or text[:1] in PROSE:
        return None
    return _reported_death(text)


def _reported_death(text: str) -> tuple[str, str | None] | None:
    """The same, in the words of whoever watched the process: a kernel, a container, a scheduler, an engine's other half."""
    words = text.strip()
    if (match := _HOST_MEMORY.search(text)) and _is_near(text, match):
        return words, signal.SIGKILL.name
    if _PROSE.search(text):
        return (
            (words, None) if (match := (_ENGINE.search(text) or _GONE.search(text))) and _is_near(text, match) else None
        )
    if (match := _SIGNALLED.search(text)) and _is_near(text, match):
        word = match["signal"] or match["number"] or match["mpi"]
        digits = re.search(r"\d+", word)
        return words, signal_name(int(digits.group())) if digits else f"SIG{word.removeprefix('SIG').split()[-1]}"
    if ((match := _EXIT_CODE.search(text)) and _is_near(text, match)) or (match := _MAKE_ERROR.match(text)):
        code = int(match["code"])
        return (words, signal_name(code) if code < 0 or code > 128 else None) if code else None
    return (words, None) if (match := (_ENGINE.search(text) or _GONE.search(text))) and _is_near(text, match) else None


def _is_near(text: str, match: re.Match[str]) -> bool:
    """Whether the words stand near the beginning of their line, as in a report; a sentence may come to them later."""
    return text[: match.start()].count(" ") <= MAX_WORDS_BEFORE


# What ends a load whatever its stack: CUDA and its libraries, then what comes before there is a load (Docker, the linker, the system), and
# our own engine that refuses.
ENDINGS: tuple[EndingWords, ...] = tuple(
    (anchor, re.compile(pattern))
    for anchor, pattern in (
        ("out of memory", r"(?:torch\.(?:cuda\.)?\w+Error: )?CUDA (?:driver )?(?:error: )?out of memory.*"),
        ("out of memory", r"Cuda failure \d+ 'out of memory'.*"),
        ("cudaErrorMemoryAllocation", r"cudaErrorMemoryAllocation.*"),
        ("CUBLAS_STATUS_ALLOC_FAILED", r"CUBLAS_STATUS_ALLOC_FAILED.*"),
        ("unsatisfied condition", r"requirement error: unsatisfied condition:.*"),
        ("could not select device driver", r"could not select device driver.*"),
        ("cannot find -lcuda", r"cannot find -lcuda.*"),
        ("fatal error: Python.h", r"fatal error: Python\.h.*"),
        ("CUDA Setup failed", r"CUDA Setup failed.*"),
        ("Bus error", r"Bus error\b.*"),
        ("fallen off the bus", r"GPU has fallen off the bus.*"),
        ("GPU is lost", r"GPU is lost.*"),
        ("uncorrectable ECC", r"uncorrectable ECC error encountered.*"),
        ("Error: ", r"^Error: .*"),
    )
)

DEATH_ANCHORS = (
    *_SIGNAL_WORDS, "oom", "OOM", "ut of memory", "Fatal Python", "terminate called", "libc++abi", "*** s", "*** S", "corrupt", "(): ",
    "segfault at", "what():", "memory pressure", "low on resource", "memory limit", "TERM_MEMLIMIT", "job killed", "available RAM", "Out Of Memory",
    "*** J", "*** P", "dumped core", "ernel ", "Canceled future", "session crashed", "victed", "errno", "Signal", "Sending", "sending",
    "Iteration", "Pool", "exc.", "error.", "errors.", "exception.", "exceptions.", "Timeout", "Failed", "Failure", "Refused", "Crashed", "Cancelled", "non-zero",
    "Segfault", "Assertion", "SIG", "signal", "exit", "Exit", "EXIT", "returncode", "return code", "died", "dead", "failed to start",
    "encountered a", "crashed", "initialization failed", "status=9", "with code", "with status", "loop is not", "has errored", "make",
)  # fmt: skip
ANCHORS = (
    TRACEBACK,
    "During handling",
    "direct cause of",
    "Exception",
    "Error",
    "Interrupt",
    "Exit",
    "Died",
    "--- Logging error",
    *DEATH_ANCHORS,
    *(anchor for anchor, _ in ENDINGS),
)


class _State(Enum):
    NOTHING = auto()
    FRAMES = auto()
    """In a traceback, before the line that names its exception."""
    RAISED = auto()
    """Right after that line, where a sentence may join another exception to it."""


class EndingReader:
    """Reads lines one by one, below their prefixes; `feed` gives the error that a line completes."""

    def __init__(self, words: Sequence[EndingWords] = ()) -> None:
        """Args:
        words: of the engines' own, which come before ENDINGS.
        """
        self._words = (*words, *ENDINGS)
        self._state = _State.NOTHING
        self._frames: list[str] = []
        self._ignoring = False
        self._logging = False
        self._expects = False
        """Of what Python ignores: whether its exception, or one that it was raised from, is still to come."""
        self._follows = False

    @property
    def wants_all(self) -> bool:
        """Whether the next line is needed, whatever it holds."""
        return self._state is not _State.NOTHING or self._ignoring

    def feed(self, line: int, text: str, stage: Stage | None) -> LogError | None:
        """Read one line; None where it ends no load.

        Args:
            text: the line below its prefixes.
            stage: how far the load has come.
        """
        if _IGNORED.search(text):
            self._ignoring, self._logging, self._expects, self._state = True, "Logging" in text, True, _State.RAISED
            return None
        found = self._read(line, text)
        if found is None:
            return None
        if self._ignoring:
            return None
        return replace(found, text=found.text[:MAX_TEXT], stage=stage)

    def _read(self, line: int, text: str) -> LogError | None:
        bare = _GROUP_EDGE.sub("", text) if text[:3].strip() in ("|", "+") else text
        if TRACEBACK in bare:
            return self._head(line, bare)
        if _CHAIN.match(bare.strip()):
            self._follows, self._expects, self._state = True, True, _State.RAISED
            return None
        if self._state is _State.FRAMES:
            return self._in_frames(line, bare)
        if self._state is _State.RAISED and not bare.strip():
            return None
        if self._ignoring and self._is_covered(bare):
            return None
        self._state, self._ignoring = _State.NOTHING, False
        return self._alone(line, bare)

    def _head(self, line: int, text: str) -> LogError | None:
        self._state, self._frames = _State.FRAMES, []
        _, _, after = text.partition(TRACEBACK)
        self._ignoring, self._expects = self._ignoring and self._expects, False
        if self._ignoring:
            return None
        if rest := after.lstrip("): "):  # a page or a repr put it all on one line
            self._state = _State.NOTHING
            return LogError(line, rest, Kind.EXCEPTION)
        return LogError(line, (TRACEBACK + after).strip(), Kind.HEAD, follows=self._follows)

    def _in_frames(self, line: int, text: str) -> LogError | None:
        if not text.strip() or text[:1] in " \t":
            self._frames = [*self._frames[-MAX_FRAMES:], text.strip()]
            return None
        self._state = _State.RAISED
        if not _RAISED.match(text) and not _EXCEPTION.match(text):
            self._state, self._ignoring = _State.NOTHING, False
            return self._alone(line, text)
        return self._raised(line, text)

    def _raised(self, line: int, text: str) -> LogError:
        error = LogError(line, text.strip(), Kind.EXCEPTION, frames=tuple(self._frames), follows=self._follows)
        self._frames, self._follows = [], False
        return error

    def _is_covered(self, text: str) -> bool:
        """Whether a line still belongs to what Python ignores: its exception without a traceback, or the tail of a log handler's."""
        if self._expects and _EXCEPTION.match(text):
            self._expects = False
            return True
        if self._logging:
            return text[:1] in " \t" or text.startswith(_LOGGING_TAIL)
        return self._expects and text[:1] in " \t"

    def _alone(self, line: int, text: str) -> LogError | None:
        """An exception without a traceback, the engine's words, or a death."""
        if _EXCEPTION.match(text.strip()):
            return None if text.strip() in BENIGN_EXITS else self._raised(line, text)
        if death := find_death(text):
            return LogError(line, death[0], Kind.DEATH, signal=death[1])
        for anchor, pattern in self._words:
            if anchor in text and (match := pattern.search(text)):
                return LogError(line, match.group())
        return None


def cause_of(errors: list[LogError]) -> LogError | None:
    """The error to blame: the first specific one of the last chain that has one; None where there is none.

    An exception says more than the death that follows it, and a line that points elsewhere says nothing.
    """
    telling = [error for error in errors if error.kind is not Kind.HEAD and not error.is_pointer]
    raised = [error for error in telling if error.kind is not Kind.DEATH] or telling
    if not raised:
        return errors[-1] if errors else None
    position = len(raised) - 1
    while position and raised[position].follows:
        position -= 1
    return raised[position]
