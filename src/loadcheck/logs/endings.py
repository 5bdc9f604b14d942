"""How a log ends: exceptions, with what they were raised from and where, and processes that died.

Python's own forms: a traceback is its head, indented frames, and a line `Type: message`; a chain joins several by two known sentences
(Lib/traceback.py, _cause_message and _context_message). What `Exception ignored in` or `--- Logging error ---` begins ends nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto

from loadcheck.logs.deaths import DEATH_ANCHORS, find_death
from loadcheck.logs.dialect import EndingWords
from loadcheck.logs.formats import Stage
from loadcheck.logs.spoken import is_spoken_of, own_words

MAX_FRAMES = 200
"""Lines kept of one traceback, the last ones: far over what Python prints of one without recursion."""
MAX_TEXT = 500

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


# What ends a load whatever its stack: CUDA and its libraries, then what comes before there is a load (Docker, the linker, the system), and
# our own engine that refuses.
ENDINGS: tuple[EndingWords, ...] = tuple(
    (anchor, re.compile(pattern))
    for anchor, pattern in (
        ("out of memory", r"(?:torch\.(?:cuda\.)?\w+Error: )?CUDA (?:driver )?(?:error: )?out of memory.*"),
        ("out of memory", r"Cuda failure \d+ 'out of memory'.*"),
        (
            "Cannot allocate memory",
            r"(?:unable to mmap \d+ bytes.{0,300}: |\[Errno 12\] |\bfork: |^)Cannot allocate memory.*",
        ),
        ("INTERNAL ASSERT FAILED", r"INTERNAL ASSERT FAILED at .*"),
        ("Watchdog caught", r"Watchdog caught collective operation timeout.*"),
        ("cudaErrorMemoryAllocation", r"cudaErrorMemoryAllocation.*"),
        ("CUBLAS_STATUS_ALLOC_FAILED", r"CUBLAS_STATUS_ALLOC_FAILED.*"),
        ("unsatisfied condition", r"requirement error: unsatisfied condition:.*"),
        ("could not select device driver", r"could not select device driver.*"),
        ("cannot find -lcuda", r"cannot find -lcuda.*"),
        ("fatal error: Python.h", r"fatal error: Python\.h.*"),
        ("CUDA Setup failed", r"CUDA Setup failed.*"),
        ("Bus error", r"Bus error(?: \(.*|[:.].*|\s*$)"),
        ("fallen off the bus", r"GPU has fallen off the bus.*"),
        ("GPU is lost", r"GPU is lost.*"),
        ("uncorrectable ECC", r"uncorrectable ECC error encountered.*"),
        # the kernel's driver; the others of its numbers are notes (docs.nvidia.com/deploy/xid-errors)
        ("NVRM: Xid", r"NVRM: Xid \([^)]{1,64}\): (?:13|31|43|45|48|6[1249]|74|79|9[45]|119|120), .*"),
        # libraries that print and exit: an assertion of a kernel, then the strings of the pinned wheels' vllm_flash_attn/_vllm_fa2_C.abi3.so,
        # libbitsandbytes_cuda124.so and vllm/_C.abi3.so
        (
            "Assertion `",
            r"(?<!\S)\S{1,255}:\d+: \S.{0,999}: block: \[[\d,]+\], thread: \[[\d,]+\] Assertion `.{1,400}` failed.*",
        ),
        ("CUDA error (", r"^\W{0,4}CUDA error \(\S{1,255}:\d+\): .*"),
        (" at line ", r"^\W{0,4}Error .{1,200} at line \d+ in file \S.*"),
        ("Failed: ", r"^\W{0,4}Failed: (?:Cuda|CUDA|NCCL) error .*"),
        ("failed with return code list", r"failed with return code list: ?.*"),  # SkyPilot
        ("Process ", r"^Process [\w.-]{1,64}-\d+(?::\d+)?:\s*$"),  # multiprocessing/process.py, before its traceback
        ("Error: ", r"^Error: .*"),
    )
)

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
        if TRACEBACK in bare and not _is_quoted(bare):
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
        if death := find_death(own_words(text)):
            return LogError(line, death[0], Kind.DEATH, signal=death[1])
        for anchor, pattern in self._words:
            if anchor in text and (match := pattern.search(text)) and not _is_spoken_of(text, match, anchor):
                return LogError(line, match.group())
        return None


def _is_quoted(text: str) -> bool:
    """Whether the head of a traceback stands in a string of a program, or in what a model answered."""
    start = text.index(TRACEBACK)
    return is_spoken_of(text, start, start + len(TRACEBACK))


def _is_spoken_of(text: str, match: re.Match[str], anchor: str) -> bool:
    """See logs/spoken.py; words that must begin their line are a program's."""
    begins = match.re.pattern.startswith("^")
    return not begins and is_spoken_of(text, match.start(), text.index(anchor, match.start()) + len(anchor))


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
