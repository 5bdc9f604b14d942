"""proof.json: that an export is what was trained; written last, and checked again by whoever takes the folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta

from loadcheck.disk import sha256_of
from loadcheck.errors import BadInput, Problem
from loadcheck.findings.finding import Finding, Status, Verdict, run_finding
from loadcheck.specs.files import Spec, validate

PROOF = "proof.json"
MAX_PROOF_BYTES = 4 * 1024 * 1024
Form = Literal["adapters", "merged"]
TOLERANCES: dict[str, dict[str, float]] = {
    "float32": {"adapters": 0.01, "merged": 0.02},
    "float16": {"adapters": 0.25, "merged": 0.5},
    "bfloat16": {"adapters": 1.0, "merged": 1.0},
}
"""In logits, the largest difference to the trained model, by what the weights are held in. A logit between 16 and 32 has a step of
0.0156 in float16 and of 0.125 in bfloat16. Measured in float16 (SmolLM2 135M in 4-bit on a CPU, rank 8, eight steps, 2026-11-29): 0.016 by its
adapters, 0.108 merged, and 20.3 to the base. In bfloat16 (Llama 3.1 8B in 4-bit, synthetic weights, rank 16, 20 steps, H200, driver 580.159.04,
2026-11-29, commit e428a97): 0.234, 0.258 and 13.96."""
DATA = (".json", ".safetensors", ".model", ".txt", ".md", ".jinja")
"""What is in an export, and in a run's folder of adapters: safetensors, and texts of tokenizers, which run nothing."""
BASE_FACTOR = 2.0
"""How many times farther from the trained model its base must be than the export."""

Distance = Annotated[float, Meta(ge=0, le=1e30)]


class Comparison(Spec, frozen=True, kw_only=True):
    """An export opened anew by plain transformers and peft in a process of its own (stacks/reloaded.py), against the trained model.

    Attributes:
        distance: the largest difference of two logits, of the export and of the trained model.
        base_distance: the same of the base and the trained model.
        num_positions: tokens after which all logits were compared.
        same_tokens, num_chats: whether tokenizer and template make the same tokens of so many chats.
    """

    distance: Distance
    base_distance: Distance
    num_positions: int
    same_tokens: bool
    num_chats: int
    device: str
    versions: dict[str, str]


class Proof(Spec, frozen=True, kw_only=True):
    """proof.json.

    Attributes:
        run, run_verdict, commit: the training, the verdict on it, and the commit that it was done with.
        plan: of its base (plan.py), by which that can be had again.
        base_files: SHA-256 of the base's files of weights.
        dtype: of the weights that are not quantized.
        files: SHA-256 of every other file of the export.
    """

    schema: Literal[1] = 1
    loadcheck: str
    commit: str | None
    run: str
    run_verdict: str | None
    form: Form
    model: str
    plan: dict[str, Any]
    base_files: dict[str, str]
    dtype: Literal["float32", "float16", "bfloat16"]
    rank: int
    tolerance: Distance
    notes: tuple[str, ...]
    comparison: Comparison
    files: dict[str, str]


def read_proof(folder: Path) -> Proof:
    """BadInput where a folder is no export, or half of one."""
    path = folder / PROOF
    if not path.is_file() or path.is_symlink():
        what = "is no export, or half of one: proof.json is missing"
        raise BadInput(Problem(str(folder), what, "make it with `loadcheck export RUN DIR`"))
    try:
        with path.open("rb") as file:
            data = json.loads(file.read(MAX_PROOF_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(Problem(str(path), f"is no proof ({error})", "export the run again")) from None
    return validate(Proof, data, str(path))


def proven(folder: Path) -> Proof:
    """The proof of an export that still is what it says, and that holds nothing but data; BadInput for any other."""
    proof = read_proof(folder)
    files = file_finding(folder, proof)
    if files.status is Status.FAIL:
        raise BadInput(Problem(str(folder), files.why, files.remedy))
    refuse_unsafe(folder, proof.form)
    return proof


def refuse_unsafe(folder: Path, form: Form) -> None:
    """BadInput where weights would be opened that are no safetensors: a pickle runs code, and its proof is written by who wrote it."""
    wanted = "adapter_model.safetensors" if form == "adapters" else "model*.safetensors"
    odd = sorted(path.name for path in folder.rglob("*") if path.is_file() and path.suffix not in DATA)
    if odd or not any(folder.glob(wanted)):
        what = f"holds {', '.join(odd[:3])}, which is no data" if odd else f"holds no {wanted}"
        raise BadInput(Problem(str(folder), what, "take an export with its weights in safetensors, and nothing else"))


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of an export but its proof; a link is no file of it, and counts as one that is not as it was."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = "a link"
        elif path.is_file() and name != PROOF:
            found[name] = sha256_of(path)
    return found


def file_finding(folder: Path, proof: Proof) -> Finding:
    """Whether the folder still holds what was proven, and nothing else."""
    found = hashes(folder)
    wrong = [
        *(f"{name} is missing" for name in proof.files if name not in found),
        *(f"{name} was added" for name in found if name not in proof.files),
        *(f"{name} was changed" for name in found if name in proof.files and found[name] != proof.files[name]),
    ]
    why = "; ".join(wrong) if wrong else f"all {len(found)} files are those that were proven, by SHA-256"
    return run_finding("files", not wrong, why, "it is not what was exported: export the run again")


def comparison_findings(comparison: Comparison, tolerance: float) -> Iterator[Finding]:
    """Whether what was opened anew is what was trained."""
    near, base = comparison.distance, comparison.base_distance
    yield run_finding(
        "logits", near <= tolerance,
        f"opened anew it differs from the trained model by at most {near:.4g} in any logit (tolerance {tolerance:g})",
        "the adapters, their base or a package is not the one that was trained with",
    )  # fmt: skip
    yield run_finding(
        "base", base > 0 and base >= BASE_FACTOR * near, f"the base differs from the trained model by {base:.4g}, {_times(base, near)}",
        "the training moved so little that nobody could tell its export from the base: train longer",
    )  # fmt: skip
    yield run_finding(
        "template", comparison.same_tokens, f"tokenizer and template make the tokens of the training of {comparison.num_chats} chats",
        "another tokenizer or template: answers would be gibberish; use those of the export",
    )  # fmt: skip


def _times(base: float, near: float) -> str:
    return "the export not at all" if near == 0 else f"{base / near:,.0f} times as much"


def judge_proof(folder: Path, proof: Proof, comparison: Comparison | None) -> Verdict:
    """The verdict on an export; `comparison` is that of now, and None where its files are wrong already."""
    files = file_finding(folder, proof)
    if comparison is None:
        return Verdict((files,))
    return Verdict((files, *comparison_findings(comparison, TOLERANCES[proof.dtype][proof.form])))
