"""The hash of the adapters, made while they are copied, with the real torch of the CPU environment."""

import os
import subprocess

import pytest

from tests.conftest import ROOT

PYTHON = ROOT / ".venv" / "cpu" / "bin" / "python"
CODE = """
import hashlib, torch
from loadcheck.stacks.engine_common import digest
tensors = [torch.randn(100, 10), torch.randn(5), torch.ones(3, dtype=torch.bfloat16), torch.randn(7, 9).t()]
plain = hashlib.sha256(b"".join(each.contiguous().view(-1).view(torch.uint8).numpy().tobytes() for each in tensors))
assert digest(iter(tensors)) == plain.hexdigest() != digest(tensors[:3])
assert digest([]) == hashlib.sha256().hexdigest()
"""


@pytest.mark.cpu
@pytest.mark.skipif(not PYTHON.exists(), reason=".venv/cpu is not installed; `make test` installs it")
def test_the_digest_is_of_the_bytes_in_their_order():
    """The digest is of the bytes of every tensor in order, for any dtype, layout and count."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    subprocess.run([PYTHON, "-c", CODE], env=environment, check=True)
