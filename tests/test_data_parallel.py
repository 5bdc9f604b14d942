"""Starts of vLLM's V1 with data parallelism: one engine core is read, by whatever name its release prints before each line."""

import textwrap
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

import pytest

from loadcheck.stacks import parse_log
from tests.conftest import thinned
from tests.judging import judge_text
from tests.v1_logs import Start, text

SERVER = "(APIServer pid=1) INFO 06-01 09:59:00 [api_server.py:1896] vLLM API server version 0.11.0\n"
OWN = "(APIServer pid=1) INFO 06-01 09:59:00 [utils.py:233] non-default args: {{'model': '/models/m', 'data_parallel_size': 8, 'data_parallel_{}': {}}}\n"
"""The arguments of a server with ranks of its own."""
# As 0.10.1, 0.10.2 to 0.17.0 and later releases name an engine core with data parallelism and one alone (v1/engine/utils.py, CoreEngineProcManager).
NAMES = (
    ("0.10.1", "EngineCore_{}", "EngineCore_0"),
    ("0.10.2", "EngineCore_DP{}", "EngineCore_DP0"),
    ("0.13.0", "EngineCore_DP{}", "EngineCore_DP0"),
    ("0.16.0", "EngineCore_DP{}", "EngineCore_DP0"),
    ("0.18.1", "EngineCore_DP{}", "EngineCore"),
    ("0.33.0", "EngineCore_DP{}", "EngineCore"),
)
RAY = (
    "(APIServer pid=5332) (DPEngineCoreActor pid={}) ",
    "(DPMoEEngineCoreActor pid={}, ip=10.0.0.1) ",
    "(EngineCoreActor pid={}) ",
)


def _core(release: str, name: str, tokens: str = "") -> list[str]:
    """The lines of one engine core, optionally with another size of its cache."""
    printed = text(Start(release=release), f"({name} pid=9) ")
    return printed.replace("GPU KV cache size: ", f"GPU KV cache size: {tokens}").splitlines(keepends=True)


def _interleaved(cores: Sequence[list[str]]) -> str:
    return "".join(line for lines in zip_longest(*cores, fillvalue="") for line in lines)


def _failures(log: str, folder: Path) -> set[str]:
    return {finding.figure for finding in judge_text(folder, log).failures()}


@pytest.mark.parametrize(("release", "alone"), [(release, alone) for release, _, alone in NAMES])
def test_a_core_alone_is_no_rank(release: str, alone: str, tmp_path: Path):
    """Without data parallelism the one engine core is read as a load on one card, by each release's name for it."""
    assert _failures(SERVER + "".join(_core(release, alone)), tmp_path) == set()
    assert not parse_log(tmp_path / "load.log").last.other_ranks


@pytest.mark.parametrize(
    ("numbers", "server", "release", "name"),
    thinned(
        [
            (numbers, server, release, name)
            for numbers in ((0, 1), (1, 0), (3, 1, 2, 0), (4, 5), (5, 4))
            for server in ("", SERVER)
            for release, name, _ in NAMES
        ]
    ),
)
def test_the_first_core_of_a_host_is_read(
    numbers: tuple[int, ...], server: str, release: str, name: str, tmp_path: Path
):
    """The core of the lowest number is read, whichever prints first; a host that is not the first has none of number 0."""
    cores = [_core(release, name.format(each), "" if each == min(numbers) else "1,") for each in numbers]
    server += OWN.format("start_rank", 4) if server and min(numbers) else ""
    assert _failures(server + _interleaved(cores), tmp_path) == set()
    assert len(parse_log(tmp_path / "load.log").last.other_ranks) == len(numbers) - 1


@pytest.mark.parametrize(("release", "name"), [(release, name) for release, name, _ in NAMES])
def test_a_rank_of_its_own_server_is_a_whole_load(release: str, name: str, tmp_path: Path):
    """A server that was started with --data-parallel-rank 1 prints that rank alone, and every equation is checked."""
    server = SERVER + OWN.format("rank", 1)
    assert _failures(server + "".join(_core(release, name.format(1))), tmp_path) == set()
    assert not parse_log(tmp_path / "load.log").last.other_ranks
    assert "kv_cache_tokens" in _failures(server + "".join(_core(release, name.format(1), "1,")), tmp_path)


def test_the_workers_of_another_host_are_read_by_one_rank(tmp_path: Path):
    """With tensor parallelism within it, the second host's core and the first of its workers are read."""
    workers = ("Worker_DP1_TP1_EP3", "Worker_DP1_TP0_EP2")
    lines = text(Start(release="0.11.0", cards=2)).splitlines(keepends=True)
    of_worker = ("gpu_model_runner", "gpu_worker")
    log = "".join(
        f"({name} pid=9) {line}"
        for line in lines
        for name in (workers if any(word in line for word in of_worker) else ("EngineCore_DP1",))
    )
    assert _failures(SERVER + OWN.format("rank", 1) + log, tmp_path) == set()
    assert parse_log(tmp_path / "load.log").last.other_ranks == {"DP1-TP1"}
    without_first = "".join(line for line in log.splitlines(keepends=True) if workers[1] not in line)
    assert "weights_gib" in _failures(SERVER + OWN.format("rank", 1) + without_first, tmp_path)


@pytest.mark.parametrize("prefix", RAY)
@pytest.mark.parametrize("first", [7, 8])
def test_rays_cores_are_one_load(prefix: str, first: int, tmp_path: Path):
    """Ray names the processes of its cores, not their ranks, and leaves out repeated lines: each line counts once."""
    cores = [
        text(Start(release="0.11.0"), prefix.format(each)).splitlines(keepends=True) for each in (first, 15 - first)
    ]
    assert _failures(SERVER + _interleaved(cores), tmp_path) == set()
    repeated = [line.replace("\n", " [repeated 2x across cluster]\n") for line in cores[1][3:]]
    assert _failures(SERVER + "".join([*cores[0][:3], *cores[1][:3], *repeated]), tmp_path) == set()


CORES = [_core("0.13.0", f"EngineCore_DP{number}") for number in (0, 1)]
OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."


@pytest.mark.parametrize(
    ("log", "figure"),
    [
        ("".join([*CORES[0][:1], *CORES[1]]), "outcome"),
        ("".join([*CORES[0][:4], *CORES[1]]), "outcome"),
        (_interleaved(CORES) + f"(EngineCore_DP1 pid=9) ERROR 06-01 10:00:09 [core.py:700] {OOM}\n", "error"),
        ("".join([*CORES[1], *CORES[1]]), "attempts"),
        ("".join(CORES[1][:-1]), "outcome"),
        (_interleaved(CORES).replace("(EngineCore_DP1 pid=9) ", ""), "engine"),
    ],
)
def test_another_cores_start_does_not_stand_for_the_first(log: str, figure: str, tmp_path: Path):
    """A first core that did not finish, an error of any core, a start printed twice, and lines of nobody fail."""
    assert figure in _failures(SERVER + log, tmp_path)


WHOLE = "".join(CORES[1])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (SERVER, ""),
        ("INFO 06-01 09:59:00 [api_server.py:1896] vLLM API server version 0.10.1\n", ""),
        ("", "(ApiServer_1 pid=3) INFO:     Started server process [3]\n"),
        ("", "INFO:     Started server process [3]\n"),
        ("(EngineCore_DP0 pid=8) INFO 06-01 10:00:00 [core.py:526] Waiting for init message from front-end.\n", ""),
        ("(Worker_DP0_TP0_EP0 pid=8) INFO 06-01 10:00:00 [parallel_state.py:1165] rank 0 in world size 2\n", ""),
        (SERVER + OWN.format("rank", 0), ""),
        (SERVER + OWN.format("size_local", 1), ""),
        (SERVER + OWN.format("start_rank", 4).replace("DP1", "DP5"), ""),
        (
            "(EngineCore_DP1 pid=9) DEBUG 06-01 10:00:00 [core.py:60] ParallelConfig(data_parallel_rank=1)\n" + SERVER,
            "",
        ),
    ],
)
def test_a_first_core_that_printed_no_line_fails(before: str, after: str, tmp_path: Path):
    """A server's log without a line of its first engine core's start is not that of a further host: another core's whole start is no load."""
    assert _failures(before + WHOLE + after, tmp_path) == {"outcome"}


SERVES = (
    "(APIServer pid=1) INFO 06-01 10:00:59 [api_server.py:1912] Starting vLLM API server 0 on http://0.0.0.0:8000\n",
    "(ApiServer_0 pid=3) INFO:     Started server process [3]\n",
    "(APIServer pid=1) INFO:     Application startup complete.\n",
)


def _wrapped(log: str, columns: int, at_blanks: bool) -> str:
    """The log in a window of so many columns, which wraps at blanks or in the middle of words."""
    return "".join(
        f"{piece}\n"
        for line in log.splitlines()
        for piece in (
            textwrap.wrap(line, columns, break_on_hyphens=False)
            if at_blanks
            else [line[at : at + columns] for at in range(0, len(line), columns)]
        )
    )


@pytest.mark.parametrize("at_blanks", [False, True])
@pytest.mark.parametrize("columns", thinned(range(60, 121)))
def test_a_wrapped_line_is_of_the_process_that_its_beginning_names(columns: int, at_blanks: bool, tmp_path: Path):
    """In a window of any width the lines of two cores are told apart, and no piece of one's stands for the other's."""
    for release in ("0.10.2", "0.18.1", "0.33.0"):
        cores = [_core(release, f"EngineCore_DP{number}") for number in (0, 1)]
        whole = SERVER + _interleaved(cores)
        assert _failures(_wrapped(whole, columns, at_blanks), tmp_path) == set(), release
        without_end = SERVER + _interleaved([cores[0][:-1], cores[1]])
        assert "outcome" in _failures(_wrapped(without_end, columns, at_blanks), tmp_path), release


def test_a_line_after_a_short_one_is_not_wrapped_off_it(tmp_path: Path):
    """Where a line of nobody's follows one of another core that filled no window, it counts, as before."""
    progress = "Capturing CUDA graph shapes: 100%|##########| 67/67 [00:12<00:00,  5.42it/s]\n"
    log = SERVER + "".join([*CORES[0][:-1], CORES[1][0], progress, CORES[0][-1]])
    _failures(log, tmp_path)
    reading = parse_log(tmp_path / "load.log").last.reading("num_cuda_graphs")
    assert reading is not None and reading.value == 67


@pytest.mark.parametrize("shown", [1, 4, -1])
@pytest.mark.parametrize("end", ["", *SERVES])
def test_a_server_waits_for_all_cores(shown: int, end: str, tmp_path: Path):
    """A core that did not end its start fails the load of another, unless the server went on: later releases print some lines for one core only."""
    log = SERVER + "".join([*CORES[0], *CORES[1][:shown]]) + end
    assert _failures(log, tmp_path) == (set() if end else {"outcome"})
    (finding,) = judge_text(tmp_path, SERVER + "".join([*CORES[0], *CORES[1][:shown]])).failures()
    assert "engine core 1," in finding.why
    assert _failures("".join([*CORES[0], *CORES[1][:shown]]), tmp_path) == set()  # of a script, which waits for none


@pytest.mark.parametrize(
    "before",
    [
        "",
        "INFO 06-01 09:59:00 [serve.py:120] Launching 1 data parallel engine(s) in headless mode, with head node address 10.0.0.1:5000.\n",
        SERVER + OWN.format("rank", 1),
        SERVER + OWN.format("start_rank", 1),
        "+ vllm serve /models/m --data-parallel-size 8 --data-parallel-start-rank 1\n" + SERVER,
        "+ vllm serve /models/m --data-parallel-rank=1\n" + SERVER,
        SERVER + "(APIServer pid=1) INFO 06-01 09:59:00 [arg_utils.py:1400] Inferred data_parallel_rank 1 from node_rank 1 for external lb\n",
        *("".join(f"{line[at:at + columns]}\n" for line in (SERVER + OWN.format("rank", 1)).splitlines() for at in range(0, len(line), columns))
          for columns in (60, 80, 97, 120)),
    ],
)  # fmt: skip
def test_a_host_that_does_not_begin_at_0_is_a_whole_load(before: str, tmp_path: Path):
    """A further host without a server, and a server whose arguments name its own rank, hold no line of core 0; in wrapped logs, too."""
    assert _failures(before + WHOLE, tmp_path) == set()


@pytest.mark.parametrize(
    "prefix",
    ["(EngineCore_DP{} pid=9) ", "(Worker_TP0_PP{} pid=9) ", "(RayWorkerWrapper pid={}) ", "[rank{}]: ", "(VllmWorker rank={} pid=9) "],
)  # fmt: skip
def test_a_number_of_thousands_of_digits_is_no_rank(prefix: str, tmp_path: Path):
    """Python reads no number of more than 4,300 digits; a hostile line is no traceback."""
    _failures("".join(CORES[0]) + prefix.format("9" * 5_000) + CORES[0][1], tmp_path)


ACTORS = ((7, ""), (8, ""), (7, ", ip=10.0.0.2"))
RAY_WHOLE = {
    actor: text(Start(release="0.11.0"), "(APIServer pid=1) (DPEngineCoreActor pid={}{}) ".format(*actor)).splitlines(
        keepends=True
    )
    for actor in ACTORS
}


@pytest.mark.parametrize("other", ACTORS[1:])
@pytest.mark.parametrize("shown", [1, 4, -1])
@pytest.mark.parametrize("end", ["", *SERVES])
def test_an_actor_of_ray_that_did_not_end_its_start_fails(other: tuple[int, str], shown: int, end: str, tmp_path: Path):
    """Another actor's whole start does not stand for it, unless the server went on; an actor is told by its process and host."""
    lines = [RAY_WHOLE[ACTORS[0]], RAY_WHOLE[other][:shown]]
    for log in ("".join([*lines[0], *lines[1]]), "".join([*lines[1], *lines[0]]), _interleaved(lines)):
        assert _failures(SERVER + log + end, tmp_path) == (set() if end else {"outcome"})
    assert (
        _failures("".join([*lines[0], *lines[1]]).replace("(APIServer pid=1) ", ""), tmp_path) == set()
    )  # of no server


def test_the_actor_that_did_not_end_its_start_is_named(tmp_path: Path):
    """The failure tells the process, and the host where Ray prints one."""
    (finding,) = judge_text(
        tmp_path, SERVER + "".join([*RAY_WHOLE[7, ""], *RAY_WHOLE[7, ", ip=10.0.0.2"][:4]])
    ).failures()
    assert "engine core of process 7 on 10.0.0.2," in finding.why


@pytest.mark.parametrize("times", [1, 2])
def test_an_end_that_ray_repeats_counts_for_each_actor(times: int, tmp_path: Path):
    """Ray prints a line of several actors once, with how often it left it out (_private/ray_logging: LogDeduplicator)."""
    ended = "".join(RAY_WHOLE[7, ""])
    begun = "".join("".join(RAY_WHOLE[actor][:4]) for actor in ACTORS[1:])
    last = RAY_WHOLE[8, ""][-1].rstrip("\n") + f" [repeated {times}x across cluster]\n"
    assert _failures(SERVER + begun + ended + last, tmp_path) == (set() if times == 2 else {"outcome"})
