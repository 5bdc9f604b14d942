"""Strips the prefixes of a line: the timestamps and names that containers, schedulers and loggers put before it.

Figures are searched for anywhere in a line. Failures are not: an exception or a signal counts only at the beginning of what the program itself
printed.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

_TIME = r"\d\d:\d\d:\d\d(?:[.,]\d{1,9})?"
_PREFIXES = re.compile(
    "|".join(
        (
            # docker logs -t, kubectl --timestamps, GitHub Actions; with journalctl -o short-iso's host and process, the stream and tag of a CRI log, or
            # GitLab's stream
            rf"\d{{4}}-\d\d-\d\dT{_TIME}(?:Z|[+-]\d\d:?\d\d)? ?(?:[\w.-]{{1,255}} [\w./@-]{{1,255}}\[\d+\]: |std(?:out|err) [FP] |\d\d[OE][ +])?",
            # Python's logging, uvicorn, Ray: 2025-02-13 15:54:28,123
            rf"\d{{4}}-\d\d-\d\d {_TIME}(?: ?(?:Z|UTC|[+-]\d\d:?\d\d))?\s*(?:[-|]\s*)?",
            rf"[A-Z][a-z]{{2}} [ \d]\d {_TIME} \S{{1,255}} [\w./@-]{{1,255}}(?:\[\d+\])?: ",  # journald, syslog
            rf"[A-Z][a-z]{{2}} [ \d]\d {{1,2}}{_TIME} ",  # ts of moreutils
            rf"\[\d{{4}}-\d\d-\d\d[T ]{_TIME}(?:Z|[+-]\d\d:?\d\d)?\] ",  # Jenkins, Airflow
            r"\{[\w.]{1,64}\.py:\d+\} (?:DEBUG|INFO|WARNING|ERROR) - (?:\[base\] )?",  # Airflow
            r"<\d{1,3}>1(?: \S{1,255}){5} (?:-|\[[^\]\n]{1,255}\]) ",  # syslog by RFC 5424
            rf"[^\t\n]{{1,128}}\t[^\t\n]{{1,128}}\t(?=\d{{4}}-\d\d-\d\dT{_TIME})",  # gh run view --log
            r"(?:app|heroku)\[[\w.-]{1,64}\](?:: | \w{3} \[\w{1,8}\] ?)",  # Heroku, fly.io
            r"\[\d{1,6},\d{1,9}\]<std(?:out|err)>: ?",  # mpirun --tag-output
            r" {0,6}\d{1,7}\t",  # cat -n
            r"#\d{1,4} \d{1,6}\.\d{1,3} ",  # docker build
            r"\d{13},(?=\S)",  # CloudWatch's export
            r"[\w./-]{1,128}\.(?:log|txt|out|err):(?:\d{1,7}:)?(?=\S)",  # grep in several files
            r"\[ {0,6}\d{1,9}\.\d{6}\] ",  # dmesg
            rf"\[{_TIME}\] ?|{_TIME}Z?\s+(?=[A-Z\[])",
            r"\[pod/[^\]\s]{1,255}\] ",  # kubectl logs --prefix
            r"[\w.-]{1,128} +\| (?! )|[\w.-]{1,128}\s{0,64}\| ",  # docker compose
            r" {0,4}\d{1,5}: ",  # srun --label
            r"\d{1,7}:(?!\d\d)(?=\S)",  # grep -n
            r"\((?:[\w.:/=-]{1,128},? ){0,3}pid=\d+[^)\n]{0,128}\) ?",  # Ray, SkyPilot, (VllmWorker TP0 pid=9), (EngineCore pid=1)
            r"\[(?:rank|default)? ?\d+\]: ?",  # torch, torchrun
            r"vLLM STD(?:OUT|ERR): ",  # unsloth's synthetic data kit
            # vLLM's own logger, 0.7 (file.py:12]) and later ([file.py:12])
            rf"(?:DEBUG|INFO|WARNING|ERROR|CRITICAL) {{1,4}}(?:\d\d-\d\d {_TIME} )?\[?[\w./-]{{1,128}}:\d+\](?:\([^)\s]{{1,255}}\)\])? ",
            r"\[(?:debug|info|warning|error|critical)\] +",  # structlog
            r"(?:DEBUG|INFO|WARNING|ERROR|CRITICAL):[\w.-]{0,128}:\s?",  # logging.basicConfig
            r"(?:ERROR|CRITICAL|FATAL)\s*[:|-]\s+",
            r"##\[(?:error|warning|debug)\]",  # GitHub Actions, Azure pipelines
            r"\[[\w.-]{1,64}:\d{1,10}\] ",  # Open MPI
            r"\(raylet\) ",
            rf"\[\d{{4}}-\d\d-\d\d {_TIME} [A-Z] \d+ \d+\] ",  # Ray's own processes
            r"=>> ",  # PBS
            r"> ",  # a quote in an issue
        )
    ),
    re.ASCII,
)
LEFT_OUT = re.compile(r"\[repeated (?P<times>\d{1,5})x across (?:all nodes|cluster)\]")
"""How many lines of other processes, equal but for numbers, Ray's driver printed as one (ray/_private/ray_logging: LogDeduplicator)."""
_REPEATED = re.compile(rf" ?{LEFT_OUT.pattern}.*$")
# vLLM's own names (utils/system_utils.py: decorate_logs): workers (VllmWorker TP1 pid=9), (Worker_DP0_TP1_EP1 pid=9), on one card (Worker pid=9);
# engine cores (EngineCore_1 pid=9) in 0.10.1, (EngineCore_DP1 pid=9) from 0.10.2; of one alone (EngineCore_0 pid=9), (EngineCore_DP0 pid=9), and
# from 0.18 (EngineCore pid=9) (v1/engine/utils.py: CoreEngineProcManager). Ray prints its actors' class and process.
_RANK = re.compile(
    r"\(VllmWorker rank=(?P<number>\d{1,9})[^)]*\)|"
    r"\((?:EngineCore|(?:Vllm)?Worker)(?P<named>(?:[_ ](?:[A-Z]{2,3})?\d{1,9})*) pid=\d+[^)]*\)|"
    r"\((?P<other>VllmWorkerProcess|RayWorker(?:Wrapper|Proc)?|(?:DP(?:MoE)?)?EngineCoreActor) [^)]{0,64}?pid=(?P<pid>\d{1,9})(?:, ip=(?P<host>[\w.:]{1,64}))?[^)]*\)|"
    r"^\[rank(?P<rank>\d{1,9})\]"
)
ACTOR = "EngineCoreActor"
"""How the names of Ray's engine cores end (v1/engine/utils.py: CoreEngineActorManager)."""
NAMED = "pid="
"""What such a name holds, apart from torch's own, [rank1], before its errors."""
MAX_PREFIXES = 8
"""Any further prefixes of a line are kept."""


@dataclass(frozen=True, slots=True)
class Rank:
    """Which process of a load on several cards printed a line.

    Attributes:
        numbers: its number in each kind of parallelism, such as DP and TP; of a process that states none its id, by its name.
        host: of a process of Ray's on another host than the one that prints.
    """

    numbers: tuple[tuple[str, int], ...]
    host: str = ""

    @property
    def is_actor(self) -> bool:
        """Whether it is an engine core of Ray's, which prints the whole start."""
        return self.numbers[0][0].endswith(ACTOR)

    @property
    def is_of_ray(self) -> bool:
        """Whether Ray names only its process, so that no line tells which is the first."""
        return self.is_actor or self.numbers[0][0].startswith("RayWorker")

    def __str__(self) -> str:
        own = "-".join(f"{kind}{number}" if kind in _KINDS else f"{kind} {number}" for kind, number in self.numbers)
        return f"{own} on {self.host}" if self.host else own


CORE = "DP"
"""The kind of an engine core's number: its rank in data parallelism."""
_KINDS = (CORE, "PP", "TP", "EP")


def strip_prefixes(text: str) -> str:
    """The line as the program printed it. Indentation is kept, as it tells the frames of a traceback."""
    for _ in range(MAX_PREFIXES):
        match = _PREFIXES.match(text)
        if match is None or match.end() == 0:
            break
        text = text[match.end() :]
    return _REPEATED.sub("", text)


def rank_of(text: str) -> Rank | None:
    """Which process of a load on several cards printed a line; None if the line does not say.

    The innermost name counts, as Ray and the server put their own before what the process prints.
    """
    named = text.rfind("(", 0, max(text.rfind(NAMED), 0))
    match = _RANK.match(text, max(named, 0))
    if match is None:
        return None
    if match["pid"]:
        return Rank(((match["other"], int(match["pid"])),), match["host"] or "")
    if match["named"] is None:
        return Rank((("rank", int(match["rank"] or match["number"])),))
    kinds = [(kind or CORE, int(number)) for kind, number in re.findall(r"([A-Z]{2,3})?(\d+)", match["named"])]
    own = [each for each in kinds if each[0] != "EP"]  # an expert's rank follows from the others
    return Rank(tuple(own or kinds)) if kinds else None


def prefixes_of(text: str) -> str:
    """What `strip_prefixes` takes off the beginning of a line."""
    return text[: len(text) - len(strip_prefixes(text))]


_HEAD = re.compile(r"(?:DEBUG|INFO|WARNING|ERROR) \d\d-\d\d \d\d:\d\d:\d\d ", re.ASCII)
"""How vLLM's logger begins a line, and no prose does. Whatever precedes it is a prefix."""
LEARNED_FROM, MOST_CHARS = 3, 200


_LEVEL = re.compile(r"\b(?:debug|debg|info|notice|warn|warning|error|critical|fatal|default)\b(?:\\ )*", re.IGNORECASE)
_STREAM = re.compile(r"\bstd(?:out|err)\b|(?<=\\d\+)[OE](?=\\ )")
"""A line's stream by its name, or by GitLab's letter behind a number."""


def _shape(prefix: str) -> str:
    """A pattern of a prefix and of those that differ only in numbers (aligned to the right or not), the level, and the stream."""
    shape = re.sub(r"(?:\\ )*\d+", lambda number: r" *\d+" if number[0].startswith("\\") else r"\d+", re.escape(prefix))
    shape = _LEVEL.sub("[A-Za-z]{4,8} *", shape)
    return _STREAM.sub(lambda stream: "std(?:out|err)" if len(stream[0]) > 1 else "[OE]", shape)


class Stamp:
    """The prefix that all lines of a log share, learned from those lines whose own beginning is known.

    Every collector has its own form. Numbers in it, such as a time, change from line to line; the rest does not.
    """

    def __init__(self) -> None:
        self._seen: Counter[str] = Counter()
        self._pattern: re.Pattern[str] | None = None

    def strip(self, text: str) -> str:
        """The line without the learned prefix, if it has it."""
        self._learn(text)
        match = self._pattern.match(text) if self._pattern is not None else None
        return text if match is None else text[match.end() :]

    def _learn(self, text: str) -> None:
        head = _HEAD.search(text, 0, MOST_CHARS)
        if head is None:
            return
        shape = _shape(text[: head.start()])
        self._seen[shape] += 1
        if shape and self._seen[shape] == LEARNED_FROM and self._seen[shape] > self._seen[""]:
            self._pattern = re.compile(shape)
