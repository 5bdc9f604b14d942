"""A run as an HTML page: its text and its drawings."""

import json
import re
import shutil
from dataclasses import replace
from html import escape, unescape
from pathlib import Path

import pytest

from loadcheck import cli
from loadcheck.loading import judge_folder
from loadcheck.runs.sampler import read_samples
from loadcheck.show.page import run_page, trained_part
from loadcheck.show.page.memory import memory_of
from loadcheck.show.page.run import readings_of
from loadcheck.specs.files import changed
from loadcheck.stacks import predict
from loadcheck.training import judge_training_folder
from loadcheck.units import GIB, MIB
from tests.conftest import RUNS

H100 = RUNS / "h100" / "reference-train3"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder that passes, without samples."""
    return Path(shutil.copytree(H100, tmp_path / "run"))


def _page(run: Path) -> str:
    page = run.parent / "page.html"
    assert cli.run(["report", str(run), "--html", str(page)]) in (0, 1)
    return page.read_text()


def _samples(run: Path, *samples: tuple[float, float | None]) -> None:
    lines = (
        {"t_s": t_s, "device_used_bytes": None if gib is None else round(gib * GIB), "child_rss_bytes": GIB}
        for t_s, gib in samples
    )
    (run / "memory.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _texts(page: str, tag: str) -> list[str]:
    """The text of each element with this tag, without tags."""
    found = re.findall(rf"<{tag}\b[^>]*>(.*?)</{tag}>", page, re.DOTALL)
    return [unescape(re.sub(r"<[^>]+>", "", each)).strip() for each in found]


def _row(page: str, name: str) -> list[str]:
    """The cells of a figure's row."""
    (row,) = [
        each for each in re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL) if f'<td class="name">{name}</td>' in each
    ]
    return _texts(row.partition("<details>")[0] + "</td>", "td")


def _points(page: str) -> list[tuple[float, float]]:
    """The line of memory over time: seconds and GiB in thousandths of the axes, from the origin at the top."""
    (points,) = re.findall(r'<polyline class="l0" points="([^"]*)"', page)
    return [tuple(map(float, each.split(","))) for each in points.split()]  # type: ignore[misc]


def _top_gib(page: str) -> float:
    return float(re.findall(r'<span class="y" style="top:0%">([\d.]+)<', page)[0])


def test_a_page_shows_the_load_and_its_verdict(run: Path):
    """The page has the verdict as a word, card, model, date, commit, settings and every figure, and loads nothing from elsewhere."""
    record = json.loads((run / "run.json").read_text()) | {"commit": "0123abc"}
    (run / "run.json").write_text(json.dumps(record))
    page = _page(run)
    assert _texts(page, "h1") == ["PASSref_a"]
    for name, value in (("card", "NVIDIA H100 80GB HBM3"), ("started", record["started_at"]), ("commit", "0123abc"),
                        ("took", "134.3 s")):  # fmt: skip
        assert f"<dt>{name}</dt><dd>{escape(value)}</dd>" in page
    for name, value in (
        ("max_seq_length", "512"),
        ("adapters.r", "32"),
        ("training.steps", "3 changed from the profile"),
    ):
        assert _row(page, name) == [name, value]
    assert _row(page, "weights_gib")[:5] == ["weights_gib", "5.3541", "5.3541", "5.3541", "ok"]
    assert not re.search(r"<(script|link|img|iframe|object|embed|form)|\b(src|href|url|on\w+)=", page)
    assert (
        page.index("PASS") < page.index("Memory of the card") < page.index("<h2>Figures") < page.index("<h2>Settings")
    )
    assert "loadcheck load llama31-8b-instruct-4bit --weights synthetic --train-steps 3" in _texts(page, "pre")
    assert len(page.encode()) < 300_000


def test_a_page_shows_answers_and_losses(run: Path):
    """The page has prompts and answers, and the losses as a falling line."""
    page = _page(run)
    assert {"Answer", "Answer after training", "Training"} <= set(_texts(page, "h2"))
    losses = [y for _, y in _points(page)]
    assert len(losses) == 3 and losses == sorted(losses)  # downwards


def test_a_page_shows_a_failure_with_its_log_line(run: Path):
    """A failure has its word, the finding with its remedy, the log's line and the figure's status; failures come before passes."""
    log = (run / "load.log").read_text()
    line = next(each for each in log.splitlines() if "# CUDA blocks: " in each)
    wrong = line.replace("# CUDA blocks: 2", "# CUDA blocks: 3")
    (run / "load.log").write_text(log.replace(line, wrong))
    page = _page(run)
    assert _texts(page, "h1") == ["FAILref_a"]
    assert wrong.strip() in _texts(page, "pre")
    assert _row(page, "num_gpu_blocks")[4] == "FAIL"
    assert page.index(">num_gpu_blocks<") < page.index("figures that are in range") < page.index(">weights_gib<")


def test_a_killed_run_begins_with_its_cause():
    """The page of a killed run starts with the cause; the figures that it did not reach are folded and counted."""
    loaded = judge_folder(RUNS / "h200" / "killed")
    page = run_page(loaded.record, loaded.evidence, loaded.verdict, [])
    assert page.index("SIGKILL") < page.index("Memory of the card")
    (wrong,) = re.findall(r"<h2>What is wrong</h2>\s*<ul>(.*?)</ul>", page, re.DOTALL)
    assert "SIGKILL" in _texts(wrong, "li")[0] and "not in the log" not in wrong
    assert re.search(r"<summary>\d+ figures that were not reached</summary>", page)


def test_memory_is_shown_term_by_term(run: Path):
    """Predicted and measured are side by side; the budget's four terms sum to it, all terms to the peak, and the bars' shares to both."""
    loaded = judge_folder(run)
    assert loaded.evidence is not None and loaded.evidence.case is not None
    prediction = predict(loaded.evidence.case)
    memory = memory_of(prediction, readings_of(loaded.evidence))
    assert memory is not None and memory.budget is not None
    inside = [row.predicted for row in memory.rows if row.inside]
    assert abs(sum(inside) - memory.budget) < MIB and len(inside) == 4
    held = [row for row in memory.rows if not row.reserved]
    assert sum(row.predicted or 0 for row in held) == memory.peak_predicted
    assert sum((row.predicted or 0) if row.measured is None else row.measured for row in held) == memory.peak_measured
    for _, segments in memory.bars:
        assert all(size > 0 for *_, size in segments)
    page = _page(run)
    shares = [float(each) for each in re.findall(r'<span class="t\d+" style="width:([\d.]+)%"', page)]
    assert len(shares) == sum(len(segments) for _, segments in memory.bars)
    assert sum(shares) < 2 * 100
    assert f'<i style="left:{100 * memory.budget / memory.total:.3f}%">' in page


def test_a_negative_rest_is_shown_but_not_drawn(run: Path):
    """If the measured peak is below its terms, the table shows a negative rest, and the bar omits it."""
    log = (run / "load.log").read_text()
    (run / "load.log").write_text(re.sub(r'"peak_device_bytes": \d+', '"peak_device_bytes": 40000000000', log))
    page = _page(run)
    assert re.search(r"rest</td><td[^>]*></td><td[^>]*>-\d", page)


def test_memory_is_drawn_over_time(run: Path):
    """Both processes are drawn one after the other, with units on the axes, the stages at their events' times, and the predicted peak."""
    _samples(run, (0.0, 1.0), (10.0, 1.0), (0.0, 1.0), (60.0, 40.0), (125.0, 50.0))
    page = _page(run).partition("<h2>Training")[0]
    points = _points(page)
    peak_gib = float(_row(page, "peak_device_gib")[1])
    assert "Memory of the device over time" in _texts(page, "h2")
    assert [x for x, _ in points] == sorted(x for x, _ in points) and len(points) == 5
    assert _top_gib(page) == pytest.approx(max(peak_gib, 50) * 1.05, abs=0.02)
    assert list(points[0]) == pytest.approx([0, 1000 - 1000 / _top_gib(page)], abs=0.1) and points[-1][0] == 1000
    assert f"predicted peak {peak_gib:.2f} GiB" in page
    assert {"0.0", "135.0 s"} <= set(re.findall(r'class="x[^"]*"[^>]*>([^<]*)<', page))
    assert {"weights made", "model loaded, 118.7 s", "answered"} <= {
        each for text in _texts(page, "li") for each in (text, text.partition(",")[0])
    }
    assert f'<span class="mark" style="left:{100 * (10 + 108.687) / 135:.3f}%"><b>3</b>' in page


def test_each_position_shows_its_highest_memory(run: Path):
    """A hundred positions each show their time and highest memory."""
    _samples(run, *((each / 10, 60.0 if each == 4321 else 1.0) for each in range(10_000)))
    read = re.findall(r'data-v="([^"]*)"', _page(run).partition("<h2>Training")[0])
    assert len(read) == 100 and [text for text in read if "60.00 GiB" in text] == ["435.0 s: 60.00 GiB"]


def test_without_a_device_the_process_is_drawn(run: Path):
    """On the CPU the loading process is drawn, and the heading says so."""
    _samples(run, (0.0, None), (1.0, None))
    page = _page(run)
    assert "Memory of the loading process over time" in _texts(page, "h2")


def test_a_long_load_keeps_its_peak(run: Path):
    """With any number of samples the drawing has few points, and keeps the highest."""
    _samples(run, *((each / 10, 60.0 if each == 4321 else 1.0) for each in range(10_000)))
    page = _page(run).partition("<h2>Training")[0]
    points = _points(page)
    assert len(points) <= 500
    assert min(y for _, y in points) == pytest.approx(1000 - 1000 * 60 / _top_gib(page), abs=0.2)


@pytest.mark.parametrize(
    ("arguments", "title", "says"),
    [
        ("predict --gpu T4", "FITS", "vllm/worker/model_runner.py:1109-1116"),
        ("predict --gpu T4 --max-seq-length 100", "DOES NOT FIT", "raise max_seq_length to 160"),
        ("predict --gpus T4,H100", "2 of 2 cards", "H100"),
        ("compare h200/reference h200/reference-train3", "DIFFERENT", "training.steps 0 → 3"),
        ("compare h200/reference h200/reference", "SAME", "none of 25 figures moved"),
    ],
)
def test_pages_of_other_commands(arguments: str, title: str, says: str, tmp_path: Path):
    """The pages of a prediction, a table of cards and a comparison start with the verdict, and hold the command that makes them."""
    page = tmp_path / "page.html"
    words = [str(RUNS / word) if word.startswith("h200/") else word for word in arguments.split()]
    assert cli.run([*words, "--html", str(page)]) in (0, 1)
    text = page.read_text()
    assert _texts(text, "h1")[0].startswith(title)
    assert says in unescape(text)
    assert any(each.startswith(f"loadcheck {words[0]} ") and str(page) in each for each in _texts(text, "pre"))
    assert not re.search(r"<(script|link|img|iframe)|\b(src|href|on\w+)=", text)


def test_a_comparison_draws_both_runs(run: Path, tmp_path: Path):
    """Two sampled runs share a picture with a line for each; a page of three loads has none."""
    other = Path(shutil.copytree(run, tmp_path / "other"))
    for folder, gib in ((run, 10.0), (other, 20.0)):
        _samples(folder, (0.0, 1.0), (10.0, gib))
    page = tmp_path / "page.html"
    assert cli.run(["compare", str(run), str(other), "--html", str(page)]) == 0
    assert re.findall(r'<polyline class="(l\d)"', page.read_text()) == ["l0", "l1"]
    assert "A 10.00 GiB, B 20.00 GiB" in page.read_text()
    assert cli.run(["compare", str(run), str(other), str(run), "--html", str(page)]) == 2


def test_the_page_of_a_predicted_training(tmp_path: Path):
    """A predicted training's terms sum to the card's peak, the bar ends at the requested memory, and the card's own end is marked."""
    page = tmp_path / "page.html"
    flags = [
        "--method",
        "sft",
        "--train-seq-length",
        "4096",
        "--per-device-train-batch-size",
        "8",
        "--ram-available-bytes",
        "64GiB",
    ]
    assert cli.run(["predict", "--gpu", "T4", *flags, "--html", str(page)]) == 1
    text = page.read_text()
    assert _texts(text, "h1")[0].startswith("DOES NOT FITSFT, llama31")
    shares = [float(each) for each in re.findall(r'<span class="t\d+" style="width:([\d.]+)%"', text)]
    assert sum(shares) == pytest.approx(100, abs=0.1) and '<i class="end"' in text
    assert "num_generations" not in text and _row(text, "train_seq_length")[1] == "4096"


def test_a_training_on_the_cpu_has_no_page(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """A training on the CPU has no page, as it is one figure."""
    assert cli.run(["predict", "smollm2-135m-cpu", "--method", "sft", "--html", str(tmp_path / "page.html")]) == 2
    assert "there is no page for a training on the CPU" in capsys.readouterr().err


def test_the_page_of_a_training_has_peaks_losses_and_command():
    """A kept training's page has the measured peak beside the predicted, a point per step, and the command to repeat it."""
    trained = judge_training_folder(Path(__file__).parent / "training" / "run")
    page = run_page(trained.record, trained.evidence, trained.verdict, [], trained_part(trained))
    assert _row(page, "train_peak_host_gib")[4] == "ok"
    assert len(_points(page)) == 8
    (command,) = [each for each in _texts(page, "pre") if each.startswith("loadcheck train ")]
    assert "--data " in command and "--max-steps 8" in command and "--num-generations" not in command
    assert not re.search(r"<dt>(num_generations|max_prompt_length)</dt>", page)


def test_the_command_of_a_packed_training_has_its_row_length():
    """The command states the row length of a packed training; otherwise the longest row is the data's."""
    trained = judge_training_folder(Path(__file__).parent / "training" / "run")
    assert trained.found is not None
    plain, job = trained.found.job, changed(trained.found.job, {"settings.packing": True, "limit_tokens": 96})
    words = trained_part(replace(trained, found=replace(trained.found, job=job))).command.split()
    assert "--packing" in words and words[words.index("--train-seq-length") + 1] == "96" and "True" not in words
    assert not plain.settings.packing and "--train-seq-length" not in trained_part(trained).command


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"t_s": 1}', '{"t_s": -1, "device_used_bytes": 1, "child_rss_bytes": 1}', "[" * 100_000,
     '{"t_s": 1e300, "device_used_bytes": 1, "child_rss_bytes": 1}', '{"t_s": 1, "device_used_bytes": -5, "child_rss_bytes": 1}',
     '{"t_s": 1, "device_used_bytes": 1e99, "child_rss_bytes": true}'],
)  # fmt: skip
def test_damaged_samples_are_skipped(text: str, tmp_path: Path):
    """Damaged lines of memory.jsonl are skipped, and the lines around them are read."""
    good = '{"t_s": 1, "device_used_bytes": null, "child_rss_bytes": 5, "ram_available_bytes": 7}'
    (tmp_path / "memory.jsonl").write_text(f"{good}\n{text}\n{good}\n")
    assert [len(process) for process in read_samples(tmp_path / "memory.jsonl")] == [2]


def test_a_page_needs_no_samples_and_no_log(run: Path):
    """Without memory.jsonl no memory is drawn; without a log the page still says how the run ended."""
    assert "over time" not in _page(run)
    (run / "load.log").unlink()
    page = _page(run)
    assert _texts(page, "h1") == ["FAILref_a"] and "<dt>ended</dt><dd>completed</dd>" in page


def test_linked_samples_are_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A memory.jsonl that is a link is refused: exit 2, with the file's name."""
    (run / "memory.jsonl").symlink_to("/etc/passwd")
    assert cli.run(["report", str(run), "--html", str(tmp_path / "page.html")]) == 2
    assert "memory.jsonl" in capsys.readouterr().err
