"""Tells which engine cores of data parallelism a log must show: a core that is whole does not stand for one that died, perhaps without a line.

A server starts the cores of its host, from 0 on, and goes on once all are ready. A host with ranks of its own is told by its server's arguments,
`non-default args: {..., 'data_parallel_start_rank': 4}` (vllm/entrypoints/utils.py: log_non_default_args, since 0.9), by its command, or by the
rank that is derived from --node-rank (engine/arg_utils.py: create_engine_config). A host without a server (--headless) has only its cores' lines.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from loadcheck.logs.prefixes import ACTOR, Rank
from loadcheck.logs.text import read_blocks

# Blanks are left out of the text, as a window may wrap any of these lines.
_OWN_RANK = re.compile(
    r"['\"]data_parallel_(?:start_)?rank['\"]:(\d{1,9})|--data[-_]parallel[-_](?:start[-_])?rank=?(\d{1,9})|Inferreddata_parallel_rank(\d{1,9})"
)
_CORE = re.compile(r"\((?:EngineCore_(?:DP)?|(?:Vllm)?Worker_?DP)(\d{1,9})[^()]{0,64}?pid=\d")
_ACTOR = re.compile(rf"{ACTOR}pid=(\d{{1,9}})(?:,ip=([\w.:]{{1,64}}))?\)")
_SERVER = re.compile(r"\((?:APIServer|ApiServer_\d{1,4})pid=\d|vLLMAPIserverversion|Startedserverprocess")
_SERVES = re.compile(r"Startedserverprocess|Applicationstartupcomplete|StartingvLLM(?:API)?server\d{0,4}on")
"""What a server prints once all of its cores are ready (vllm/entrypoints/openai/api_server.py: run_server_worker)."""
_BLANKS = re.compile(r"\s+")


@dataclass(slots=True)
class _Named:
    """What a log's lines name, in any order.

    Attributes:
        own_ranks: the ranks that its host begins at, without 0, the default, which other lines may print.
        actors: process and host of each of Ray's engine cores.
        serves: whether its server went on once all of its cores were ready.
    """

    own_ranks: set[int] = field(default_factory=set)
    cores: set[int] = field(default_factory=set)
    actors: set[tuple[int, str]] = field(default_factory=set)
    has_server: bool = False
    serves: bool = False

    @classmethod
    def of(cls, path: Path) -> _Named:
        named = cls()
        for _, block in read_blocks(path):
            text = _BLANKS.sub("", block)
            named.own_ranks |= {int(match[match.lastindex or 0]) for match in _OWN_RANK.finditer(text)}
            named.cores |= {int(match[1]) for match in _CORE.finditer(text)}
            named.actors |= {(int(match[1]), match[2] or "") for match in _ACTOR.finditer(text)}
            named.has_server = named.has_server or _SERVER.search(text) is not None
            named.serves = named.serves or _SERVES.search(text) is not None
        named.own_ranks.discard(0)
        return named


def unready_cores(path: Path, judged: int, ready: Collection[int], ready_actors: Sequence[Rank]) -> tuple[str, ...]:
    """The engine cores of this log's host whose start it does not show to its end; without a server nothing tells of those without a line.

    Args:
        judged: the lowest number of the cores that printed lines of a start.
        ready: the numbers of those that printed its end.
        ready_actors: those of Ray's that printed it, each as often as lines of other processes were left out for it.
    """
    named = _Named.of(path)
    if judged and judged not in named.own_ranks and (0 in named.cores or named.own_ranks or named.has_server):
        return (str(min(named.own_ranks, default=0)),)
    if not named.has_server or named.serves:
        return ()
    silent: set[tuple[int, str]] = set()
    if len(named.actors) > len(ready_actors):
        silent = named.actors - {(actor.numbers[0][1], actor.host) for actor in ready_actors}
    return (
        *map(str, sorted(named.cores - {judged} - set(ready))),
        *(f"of process {pid}" + (f" on {host}" if host else "") for pid, host in sorted(silent)),
    )
