"""What ends a load in its log: exceptions, with their chain and frames, failure messages of known libraries, and process deaths.

As Python prints it, a traceback is a head, indented frames, and a line `Type: message`; one of two sentences joins each traceback of a chain
to the next (Lib/traceback.py, _cause_message and _context_message). What follows `Exception ignored in` or `--- Logging error ---` ends no load.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto

from loadcheck.logs.deaths import DEATH_ANCHORS, find_death
from loadcheck.logs.dialect import EndingWords
from loadcheck.logs.formats import Stage
from loadcheck.logs.mentions import before_quote, is_mention

MAX_FRAMES = 200
"""How many of the last lines of a traceback are kept: far more than Python prints of one without recursion."""
MAX_TEXT = 500

TRACEBACK = "Traceback (most recent call last)"
_IGNORED = re.compile(r"Exception ignored (?:in|on|while|for|during|from)\b|--- Logging error ---")
# Lines that a server logs before the traceback of a failed request, after which it goes on: uvicorn's protocols/http/httptools_impl.py, and
# vLLM's entrypoints/openai/serving_*.py and tool_parsers/ at 0.7.2.
_OF_REQUEST = re.compile(
    r"\W{0,4}(?:Exception in ASGI application|Error (?:trying to handle streaming tool call|in (?:preprocessing prompt inputs|"
    r"applying chat template from request|(?:chat )?completion stream generator|(?:reasoning|tool) parser creation|"
    r"extracting tool call from response)))\b"
)
_OF_ENGINE = re.compile(r"\b(?:CUDA|HIP|NCCL|cuBLAS|cuDNN|Triton)\b|RuntimeError|memory|Engine|Worker")
"""Words of an exception that may affect more than the failed request."""
_GROUP_MEMBER = re.compile(r"(?:\d{1,4} )?-{4,}")
_CHAIN = re.compile(
    r"(?:During handling of the above exception, another exception occurred|"
    r"The above exception was the direct cause of the following exception):?"
)
_NAME = r"[A-Za-z_][\w.]*"
# `failOnError: true`, `maxUnavailable: 25%`, `NotFound: 0`: such a name with a value that is no message. A KeyError may be about a number.
_SETTING = (
    r"(?:(?:\w{1,64}\.){0,9}[a-z]\w{0,64}|[\w.]{0,64}(?:NotFound|Unavailable)\w{0,64}): "
    r"(?:[Tt]rue|[Ff]alse|[Yy]es|[Nn]o|on|off|null|[Nn]one|\[\]|\{\}|[-+]?\d[\d.,]{0,19} ?(?:%|[a-zA-Z]{1,3})?)\s*$"
)
# By the kind of its name: an ending that only exceptions have, an ending within a module, a module of exceptions, or a well-known name without any.
_KNOWN = (
    "TimeoutExpired", "OutOfResources", "RemoteDisconnected", "IncompleteRead", "queue.Empty", "queue.Full", "QueueEmpty", "QueueFull",
    "socket.timeout", "socket.gaierror", "struct.error", "zlib.error",
)  # fmt: skip
_EXCEPTION = re.compile(
    rf"(?!{_SETTING})(?P<name>{_NAME}(?:Error|Exception|Interrupt|ExceptionGroup|Exit|Died|NotFound|Unavailable)\w*|Stop(?:Async)?Iteration|"
    rf"(?:\w+\.){{0,9}}_?(?:{'|'.join(map(re.escape, _KNOWN))})|"
    r"(?:\w+\.){1,9}[A-Z]\w*(?:Pool|Timeout|Failed|Failure|Refused|Killed|Crashed|Cancelled|Aborted)|"
    r"(?:\w+\.){0,9}(?:exc|errors?|exceptions?|_exceptions?|_errors?)\.[A-Z]\w*(?:\(\w+\))?)(?::\s.*|:?$|\(['\"].*)",
    re.ASCII,
)
_RAISED = re.compile(rf"{_NAME}(?:: .*|:?$)", re.ASCII)
ORDERLY = "[shutdown] "
"""The beginning of the lines that vLLM's processes print while they shut down on a signal (v1/engine/core.py, from 0.25)."""
ORDERLY_ENDS = (ORDERLY, TRACEBACK, "AsyncLLM output_handler failed", "vllm.v1.engine.exceptions.EngineDeadError")
BENIGN_EXITS = ("SystemExit: 0", "SystemExit: None", "SystemExit")
_GROUP_EDGE = re.compile(r"^ {0,8}[|+](?:-[+-]*)? ?")
"""The margin that Python prints before the lines of an exception group (Lib/traceback.py), without the frames' own indentation."""
# IPython's frames, 7.34 to 9: `/x/vllm/utils.py in inner(*args)`, `File ~/x/trainer.py:2245, in Trainer.train(self)`, `---> 14 trainer.train()`
# (IPython/core/ultratb.py).
_FRAME_OF_IPYTHON = re.compile(
    r"(?:File )?(?P<file>[~/<][^\s:]{1,255})(?::(?P<number>\d+),)? in (?:[\w<>]+\.){0,4}(?P<name>[\w<>]+)(?:\(.*)?"
)
_OF_IPYTHON = re.compile(rf"-+> ?\d+ |(?:Cell )?In ?\[\d+\]|{_FRAME_OF_IPYTHON.pattern}$")
_EDGES = " │|\"'"
"""Characters that may end a line: the border of a terminal's box (k9s), or the quotes of a CSV file."""
# A docstring's section on exceptions, in the styles of Google and numpy, as models write it; it ends with the docstring.
_RAISES = re.compile(r"\s*(?:Raises|Exceptions):?\s*")
_DOCSTRING_END = re.compile(r"\"\"\"|\'\'\'|```")
MAX_RAISES_LINES = 12
MAX_FRAME_CHARS = 400
"""A longer frame has no wrapped path: one was cut off, and what follows is no piece of it. A path of a notebook's environment has up to 150."""
_CLOSING = re.compile(r"[^`]*\w`(?:[\s.,;:)]|$)")
"""The first backtick closes: a window wrapped the line within a message that quotes an error, as vLLM's about `ulimit -n` does."""
_LOGGING_TAIL = ("Call stack:", "Message: ", "Arguments: ")
_INTERRUPTIONS = ("KeyboardInterrupt", "asyncio.exceptions.CancelledError", "SystemExit: 15")
"""15 is SIGTERM, which Ray raises as an exit (ray/_private/worker.py, sigterm_handler)."""
# What a supervisor or a script says of the run before.
_EARLIER = re.compile(
    r"\b(?:previous|last|earlier|prior)(?: [\w-]{1,20}){0,2}? (?:run|attempt|try|job|process|container|instance|pod|task|execution|launch|session|"
    r"exit|termination|state)\b|"
    r"\b(?:re-?start(?:ed|ing)|resum(?:ed|ing)|retry(?:ing)?|retried|recover(?:ed|ing)|requeued|relaunch(?:ed|ing)|respawn(?:ed|ing))\b"
    r"[^.;]{0,40}? (?:after|from|because of|due to|following)\b",
    re.IGNORECASE,
)
# A message that only points to an error elsewhere.
_POINTER = re.compile(r"root cause|see (?:the )?(?:stack ?trace|error|above)", re.IGNORECASE)


class Kind(Enum):
    """What ended a load: an exception that Python printed, a failure message, the head of a traceback, or the death of a process."""

    EXCEPTION = auto()
    WORDS = auto()
    HEAD = auto()
    DEATH = auto()


@dataclass(frozen=True, slots=True)
class LogError:
    """A line that ends a load.

    Attributes:
        text: the message, at most MAX_TEXT characters.
        stage: how far the load had come by then; None if no line of a load came before it.
        frames: the lines of its traceback, the innermost last.
        follows: whether it was raised from the error before it, or while that was handled.
        signal: the name of the signal that ended a process; None if there was none, or it is not known.
        tells_of_earlier: whether its words are about an earlier run. Behind a load that is the load itself.
    """

    line: int
    text: str
    kind: Kind = Kind.WORDS
    stage: Stage | None = None
    frames: tuple[str, ...] = ()
    follows: bool = False
    signal: str | None = None
    tells_of_earlier: bool = False

    @property
    def is_pointer(self) -> bool:
        """Whether it only says that the cause is found elsewhere."""
        return _POINTER.search(self.text) is not None

    @property
    def is_interruption(self) -> bool:
        """Whether the process was ended from outside: by Ctrl-C, or by a signal whose handler raises this."""
        return self.kind is Kind.EXCEPTION and self.text.startswith(_INTERRUPTIONS)


# Messages that end a load of any stack: of CUDA and its libraries, of what runs before a load (Docker, the linker, the system), and
# of our own engine when it refuses.
ENDINGS: tuple[EndingWords, ...] = tuple(
    (anchor, re.compile(pattern))
    for anchor, pattern in (
        ("out of memory", r"(?:torch\.(?:cuda\.)?\w+Error: )?(?:CUDA|HIP) (?:driver )?(?:error: )?out of memory.*"),
        ("out of memory", r"Cuda failure \d+ 'out of memory'.*"),
        (
            "Cannot allocate memory",
            r"(?:unable to mmap \d+ bytes.{0,300}: |\[Errno 12\] |\bfork: |^)Cannot allocate memory.*",
        ),
        ("INTERNAL ASSERT FAILED", r"INTERNAL ASSERT FAILED at .*"),
        ("Watchdog caught", r"Watchdog caught collective operation timeout.*"),
        ("cudaErrorMemoryAllocation", r"(?<!`)cudaErrorMemoryAllocation.*"),
        ("CUBLAS_STATUS_ALLOC_FAILED", r"CUBLAS_STATUS_ALLOC_FAILED.*"),
        ("unsatisfied condition", r"requirement error: unsatisfied condition:.*"),
        ("could not select device driver", r"could not select device driver.*"),
        ("cannot find -lcuda", r"cannot find -lcuda.*"),
        ("fatal error: Python.h", r"fatal error: Python\.h.*"),
        ("CUDA Setup failed", r"CUDA Setup failed.*"),
        ("Bus error", r"Bus error(?: \(.*|[:.].*|\s*$)"),
        ("fallen off the bus", r"(?:GPU|GPU-\S{1,64}) has fallen off the bus.*"),
        ("GPU is lost", r"GPU is lost.*"),
        # torch's ProcessGroupNCCL.cpp, before it aborts the process
        ("by watchdog", r"Exception \(either an error or timeout\) detected by watchdog at work.*"),
        ("watchdog thread terminated", r"Process group watchdog thread terminated with exception: .*"),
        ("dump debug info", r"Terminating the process after attempting to dump debug info.*"),
        # OpenMP's and MKL's runtimes, which end the process
        ("libgomp: ", r"^libgomp: (?:Thread creation failed|Out of memory allocating).*"),
        ("OMP: Error #", r"^OMP: Error #\d+: .*"),
        ("MKL FATAL ERROR", r"^Intel (?:oneAPI )?MKL FATAL ERROR: .*"),
        ("ptxas fatal", r"^ptxas fatal +: .*"),
        ("conda.cli.main_run", r"^ERROR conda\.cli\.main_run:.*"),
        # asyncio, which uvicorn listens by, and uvicorn's lifespan/on.py
        ("error while attempting to bind", r"\[Errno \d+\] error while attempting to bind on address.*"),
        ("Application startup failed", r"Application startup failed\. Exiting\."),
        # a script's `docker rm` of what is not there precedes a load
        (
            "Error response from daemon",
            r"^(?:docker: )?Error response from daemon: (?!No such (?:container|network|volume)\b).*",
        ),
        ("uncorrectable ECC", r"uncorrectable ECC error encountered.*"),
        # the kernel's driver; its other Xid numbers are notes (docs.nvidia.com/deploy/xid-errors)
        ("NVRM: Xid", r"NVRM: Xid \([^)]{1,64}\): (?:13|31|43|45|48|6[1249]|74|79|9[45]|119|120), .*"),
        # libraries that print and exit: an assertion of a kernel, then the strings of the pinned wheels' vllm_flash_attn/_vllm_fa2_C.abi3.so,
        # libbitsandbytes_cuda124.so and vllm/_C.abi3.so
        (
            "Assertion `",
            r"(?<!\S)\S{1,255}:\d+: \S.{0,999}: block: \[[\d,]+\], thread: \[[\d,]+\] Assertion `.{1,400}` failed.*",
        ),
        ("CUDA error (", r"^\W{0,4}CUDA error \(\S{1,255}:\d+\): .*"),
        ("CUDA error: ", r"^\W{0,4}CUDA error: (?!no error|success|0\b)[a-z].*"),
        ("NCCL error: ", r"^\W{0,4}NCCL error: (?!no|success|0\b)\w.*"),
        (" at line ", r"^\W{0,4}Error .{1,200} at line \d+ in file \S.*"),
        ("Failed: ", r"^\W{0,4}Failed: (?:Cuda|CUDA|NCCL) error .*"),
        ("failed with return code list", r"failed with return code list: ?.*"),  # SkyPilot
        ("Process ", r"^Process [\w.-]{1,64}-\d+(?::\d+)?:\s*$"),  # multiprocessing/process.py, before its traceback
        ("Error: ", r"^Error: (?!(?:[Nn]one|null|nil|[-+]?\d[\d.,e-]{0,19} ?%?)\s*$).*"),
    )
)

ANCHORS = (
    TRACEBACK,
    "Raises",
    "During handling",
    "direct cause of",
    "Exception",
    "Error",
    "Interrupt",
    "Exit",
    "Died",
    "NotFound",
    "Unavailable",
    *_KNOWN,
    "--- Logging error",
    *DEATH_ANCHORS,
    *(anchor for anchor, _ in ENDINGS),
)


class _State(Enum):
    NOTHING = auto()
    FRAMES = auto()
    """In a traceback, before the line that names its exception."""
    RAISED = auto()
    """Right after that line, where a sentence may chain another exception to it."""


class EndingReader:
    """Reads lines one by one, without their prefixes; `feed` returns the error that a line completes."""

    def __init__(self, words: Sequence[EndingWords] = ()) -> None:
        """Args:
        words: the engines' own failure messages, which take precedence over ENDINGS.
        """
        self._words = (*words, *ENDINGS)
        self._state = _State.NOTHING
        self._frames: list[str] = []
        self._ignoring = False
        self._logging = False
        self._of_request = False
        self._shutting_down = False
        self._expects = False
        """Within what Python ignores: whether the exception, or one chained to it, is still to come."""
        self._follows = False
        self._raises_lines = 0
        """Lines left of a docstring's section on exceptions."""

    @property
    def needs_next_line(self) -> bool:
        """Whether the next line must be fed, whatever it holds."""
        return self._state is not _State.NOTHING or self._ignoring or self._raises_lines > 0

    def feed(self, line: int, text: str, stage: Stage | None) -> LogError | None:
        """Read one line; None if it ends no load.

        Args:
            text: the line without its prefixes.
            stage: how far the load has come.
        """
        of_request = _OF_REQUEST.match(text) is not None
        if of_request or _IGNORED.search(text):
            self._ignoring, self._logging, self._expects, self._state = True, "Logging" in text, True, _State.RAISED
            self._of_request = of_request
            return None
        found = self._read(line, text)
        documented = self._is_documented(text)
        if found is None or (documented and found.kind is Kind.EXCEPTION and not found.frames):
            return None
        if self._ignoring and not (self._of_request and _OF_ENGINE.search(found.text)):
            return None
        if stage is not None and stage >= Stage.READY and self._is_of_shutdown(found):
            return None
        earlier = found.kind in (Kind.DEATH, Kind.WORDS) and _EARLIER.search(text) is not None
        return replace(found, text=found.text[:MAX_TEXT], stage=stage, tells_of_earlier=earlier)

    def _is_documented(self, text: str) -> bool:
        """Whether the line is in a docstring's section on exceptions."""
        if _RAISES.fullmatch(text):
            self._raises_lines = MAX_RAISES_LINES
            return True
        self._raises_lines = 0 if TRACEBACK in text or _DOCSTRING_END.search(text) else max(self._raises_lines - 1, 0)
        return self._raises_lines > 0

    def _is_of_shutdown(self, found: LogError) -> bool:
        """Whether the line belongs to a server's orderly shutdown, including the errors for its missing engine that follow."""
        self._shutting_down |= found.text.startswith(ORDERLY)
        return self._shutting_down and found.text.startswith(ORDERLY_ENDS)

    def _read(self, line: int, text: str) -> LogError | None:
        bare = _GROUP_EDGE.sub("", text)
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
        is_row = text[:1] in ("|", "+")  # of a table; Python indents its margin
        return self._alone(line, text if is_row else bare)

    def _head(self, line: int, text: str) -> LogError | None:
        self._state, self._frames = _State.FRAMES, []
        _, _, after = text.partition(TRACEBACK)
        self._ignoring, self._expects = self._ignoring and self._expects, False
        if self._ignoring:
            return None
        if rest := after.lstrip("): ").rstrip(_EDGES):  # a web page or a repr put the whole traceback on one line
            self._state = _State.NOTHING
            return LogError(line, rest, Kind.EXCEPTION)
        return LogError(line, (TRACEBACK + after).strip(), Kind.HEAD, follows=self._follows)

    def _in_frames(self, line: int, text: str) -> LogError | None:
        if self._frames and _is_cut_frame(self._frames[-1]) and self._says_nothing(line, text):
            self._frames[-1] += text.strip()
            return None
        if not text.strip() or text[:1] in " \t" or _OF_IPYTHON.match(text):
            self._frames = [*self._frames[-MAX_FRAMES:], _as_frame(text.strip())]
            return None
        self._state = _State.RAISED
        if not _EXCEPTION.match(text) and (
            not _RAISED.match(text) or find_death(before_quote(text))
        ):  # `Killed` is no exception's name
            self._state, self._ignoring = _State.NOTHING, False
            return self._alone(line, text)
        return self._raised(line, text)

    def _raised(self, line: int, text: str) -> LogError:
        error = LogError(line, text.strip(), Kind.EXCEPTION, frames=tuple(self._frames), follows=self._follows)
        self._frames, self._follows = [], False
        return error

    def _says_nothing(self, line: int, text: str) -> bool:
        """Whether a line has no error of its own. What ends a process may cut its last frame off, and stand where the rest would."""
        return not _EXCEPTION.match(text.strip()) and self._alone(line, text) is None

    def _is_covered(self, text: str) -> bool:
        """Whether a line still belongs to what Python ignores: an exception without a traceback, or the rest of a logging error."""
        if self._expects and _EXCEPTION.match(text):
            self._expects = False
            return True
        if _GROUP_MEMBER.fullmatch(text.strip()):
            self._expects = True
            return True
        if self._logging:
            return text[:1] in " \t" or text.startswith(_LOGGING_TAIL)
        return self._expects and text[:1] in " \t"

    def _alone(self, line: int, text: str) -> LogError | None:
        """An exception without a traceback, a failure message, or a process death."""
        if _EXCEPTION.match(text.strip()) and not _CLOSING.match(text):
            return None if text.strip() in BENIGN_EXITS else self._raised(line, text)
        if death := find_death(before_quote(text)):
            return LogError(line, death[0], Kind.DEATH, signal=death[1])
        for anchor, pattern in self._words:
            if anchor in text and (match := pattern.search(text)) and not _only_mentions(text, match, anchor):
                return LogError(line, match.group())
        return None


def _is_cut_frame(frame: str) -> bool:
    """Whether a window wrapped the line of a frame before its line number, so that the next line goes on with it."""
    return (
        frame.startswith('File "')
        and len(frame) <= MAX_FRAME_CHARS
        and re.search(r'", line \d+(?:, in |$)', frame) is None
    )


def _as_frame(text: str) -> str:
    """A line of a traceback, with a frame in IPython's format rewritten in Python's."""
    if (frame := _FRAME_OF_IPYTHON.fullmatch(text)) is None:
        return text
    return f'File "{frame["file"]}", line {frame["number"] or 0}, in {frame["name"]}'


def _is_quoted(text: str) -> bool:
    """Whether the head of a traceback is inside a string of program text, or in a model's answer."""
    start = text.index(TRACEBACK)
    return is_mention(text, start, start + len(TRACEBACK))


def _only_mentions(text: str, match: re.Match[str], anchor: str) -> bool:
    """Whether the line only mentions the failure (logs/mentions.py); a message that must begin its line is always a report."""
    begins = match.re.pattern.startswith("^")
    return not begins and is_mention(text, match.start(), text.index(anchor, match.start()) + len(anchor))


def cause_of(errors: list[LogError]) -> LogError | None:
    """The error to blame: the first of the last chain, where pointers and heads do not count; None if there is no error.

    An exception tells more than the death or the interruption that follows it, and a line that points elsewhere tells nothing.
    """
    specific = [error for error in errors if error.kind is not Kind.HEAD and not error.is_pointer]
    raised = [error for error in specific if error.kind is not Kind.DEATH] or specific
    raised = [error for error in raised if not error.is_interruption] or raised
    if not raised:
        return errors[-1] if errors else None
    position = len(raised) - 1
    while position and raised[position].follows:
        position -= 1
    return raised[position]
