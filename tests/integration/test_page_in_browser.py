"""The page of a hostile run executes nothing in a real browser: policy and escaping each suffice alone."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from loadcheck import cli
from tests.conftest import RUNS

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
RAN = "document.documentElement.dataset.ran=1"
HOSTILE = (
    f"</style></title></pre><script>{RAN}</script><img src=x onerror={RAN}><svg onload={RAN}>\" ' onmouseover={RAN} "
    f"style=animation-name:x onanimationstart={RAN} <iframe srcdoc='<script>parent.{RAN}</script>'></iframe> {{{{ 7*7 }}}}"
)
POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')


@pytest.fixture
def page(tmp_path: Path) -> str:
    """The page of a run with this text in every field."""
    run = Path(shutil.copytree(RUNS / "h100" / "reference-train3", tmp_path / "run"))
    record = json.loads((run / "run.json").read_text())
    record |= dict.fromkeys(("id", "reason", "commit", "loadcheck", "started_at"), HOSTILE) | {"notes": [HOSTILE]}
    record["machine"]["gpu"]["name"] = record["profile"]["generation"]["prompt"] = HOSTILE
    (run / "run.json").write_text(json.dumps(record))
    log = (run / "load.log").read_text()
    answer = json.dumps({"event": "answer", "prompt": HOSTILE, "text": HOSTILE, "num_new_tokens": 2})
    (run / "load.log").write_text(f"{log}loadcheck: {answer}\nRuntimeError: {HOSTILE}\n")
    assert cli.run(["report", str(run), "--html", str(tmp_path / "page.html")]) == 1
    return (tmp_path / "page.html").read_text()


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("case", ["page", "page without its policy", "script that must be stopped", "script that runs"])
def test_a_hostile_run_executes_nothing(case: str, page: str, tmp_path: Path):
    """No hostile content is executed. The last two cases prove the test: an unescaped script runs without the policy, and not with it."""
    assert "onerror" in page and POLICY.search(page)
    text = page if case in ("page", "script that must be stopped") else POLICY.sub("", page)
    if case.startswith("script"):
        text = text.replace("</main>", f"<script>{RAN}</script></main>")
    file = tmp_path / "shown.html"
    file.write_text(text)
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile", "--dump-dom",
               file.as_uri()]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert "</html>" in done.stdout and "49" not in re.findall(r"<h1>.*?</h1>", done.stdout, re.DOTALL)[0]
    assert ("data-ran" in done.stdout.partition("<head")[0]) is (case == "script that runs")
