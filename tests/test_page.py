"""A run as a page: what stands on it, and what is drawn."""

import json
import re
import shutil
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest

from loadcheck import cli
from loadcheck.runs.sampler import read_samples
from loadcheck.units import GIB
from tests.conftest import RUNS

H100 = RUNS / "h100" / "reference-train3"
SVG = "{http://www.w3.org/2000/svg}"


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


def _drawing(page: str) -> ElementTree.Element:
    found = re.search(r"<svg.*</svg>", page)
    assert found is not None
    return ElementTree.fromstring(found[0])


def test_a_page_says_what_was_loaded_and_how_it_ended(run: Path):
    """The verdict as a word, card, model, date, commit, settings and every figure; nothing is loaded from elsewhere."""
    record = json.loads((run / "run.json").read_text()) | {"commit": "0123abc"}
    (run / "run.json").write_text(json.dumps(record))
    page = _page(run)
    assert '<h1><span class="pass">PASS</span> ref_a</h1>' in page
    for name, value in (("card", "NVIDIA H100 80GB HBM3"), ("started", record["started_at"]), ("commit", "0123abc"),
                        ("max_seq_length", "512"), ("adapters.r", "32"), ("took", "134.3 s")):  # fmt: skip
        assert f"<dt>{name}</dt><dd>{value}</dd>" in page
    assert '<td>weights_gib</td><td>5.3541</td><td>5.3541</td><td>5.3541</td><td class="ok">ok</td>' in page
    assert not re.search(r"<(script|link|img|iframe)|\b(src|href|url)\b", page)


def test_a_page_says_what_is_wrong_with_the_line_of_the_log(run: Path):
    """A failure: the word, the finding with its remedy, the line as the log has it, and the figure's status."""
    log = (run / "load.log").read_text()
    line = next(each for each in log.splitlines() if "# CUDA blocks: " in each)
    wrong = line.replace("# CUDA blocks: 2", "# CUDA blocks: 3")
    (run / "load.log").write_text(log.replace(line, wrong))
    page = _page(run)
    assert '<span class="fail">FAIL</span> ref_a' in page
    assert f"<pre>{wrong.strip()}</pre>" in page
    assert re.search(r"<td>num_gpu_blocks</td>.*<td class=\"fail\">FAIL</td>", page)


def test_memory_is_drawn_over_time(run: Path):
    """Both processes one after the other, axes with their units, and the stages by our events' own times."""
    _samples(run, (0.0, 1.0), (10.0, 1.0), (0.0, 1.0), (60.0, 40.0), (125.0, 50.0))
    page = _page(run)
    drawing = _drawing(page)
    points = [tuple(map(float, each.split(","))) for each in drawing[0].attrib["points"].split()]
    assert "<h2>Memory of the device, GiB</h2>" in page
    assert [x for x, _ in points] == sorted(x for x, _ in points) and len(points) == 5
    assert list(points[0]) == pytest.approx([60.0, 280 - 260 / 52.5], abs=0.1) and points[-1][0] == 720
    said = ["".join(each.itertext()) for each in drawing]
    assert {"0.00", "52.50", "0.0 s", "135.0 s", "weights made", "model loaded", "answered"} <= set(said)
    loaded = next(each for each in drawing if each.text == "model loaded").attrib["transform"]
    labels = [float(each.attrib["transform"][10:].split()[0]) for each in drawing if "transform" in each.attrib]
    assert all(after - before >= 12.9 for before, after in pairwise(labels))
    assert loaded.startswith(f"translate({60 + (10 + 108.687) * 660 / 135:.1f} ")


def test_without_a_device_the_process_is_drawn(run: Path):
    """On the CPU it is the memory of the loading process, and the heading says so."""
    _samples(run, (0.0, None), (1.0, None))
    page = _page(run)
    assert "<h2>Memory of the loading process, GiB</h2>" in page
    assert _drawing(page)[0].attrib["points"]


def test_a_long_load_keeps_its_peak(run: Path):
    """However many samples there are, the drawing has few points, and the highest among them."""
    _samples(run, *((each / 10, 60.0 if each == 4321 else 1.0) for each in range(10_000)))
    points = _drawing(_page(run))[0].attrib["points"].split()
    assert len(points) <= 700
    assert min(float(each.split(",")[1]) for each in points) == pytest.approx(280 - 260 / 1.05, abs=0.1)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"t_s": 1}', '{"t_s": -1, "device_used_bytes": 1, "child_rss_bytes": 1}', "[" * 100_000,
     '{"t_s": 1e300, "device_used_bytes": 1, "child_rss_bytes": 1}', '{"t_s": 1, "device_used_bytes": -5, "child_rss_bytes": 1}',
     '{"t_s": 1, "device_used_bytes": 1e99, "child_rss_bytes": true}'],
)  # fmt: skip
def test_what_is_no_sample_is_left_out(text: str, tmp_path: Path):
    """Damaged lines of memory.jsonl are no samples, and those around them are."""
    good = '{"t_s": 1, "device_used_bytes": null, "child_rss_bytes": 5, "ram_available_bytes": 7}'
    (tmp_path / "memory.jsonl").write_text(f"{good}\n{text}\n{good}\n")
    assert [len(process) for process in read_samples(tmp_path / "memory.jsonl")] == [2]


def test_a_page_needs_no_samples_and_no_log(run: Path):
    """Without memory.jsonl nothing is drawn; without a log the page still says how the run ended."""
    assert "<svg" not in _page(run)
    (run / "load.log").unlink()
    page = _page(run)
    assert '<span class="fail">FAIL</span>' in page and "<dt>ended</dt><dd>completed</dd>" in page


def test_a_link_for_samples_is_not_followed(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """memory.jsonl that is a link is no file of the run: exit 2, and the file's name."""
    (run / "memory.jsonl").symlink_to("/etc/passwd")
    assert cli.run(["report", str(run), "--html", str(tmp_path / "page.html")]) == 2
    assert "memory.jsonl" in capsys.readouterr().err
