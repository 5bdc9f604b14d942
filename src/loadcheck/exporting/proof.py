"""proof.json: the proof that an export is what was trained; written last, and checked again by whoever uses the folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta

from loadcheck.disk import sha256_of
from loadcheck.errors import BadInput, Problem
from loadcheck.findings.finding import Finding, Status, Verdict, run_failure, run_finding
from loadcheck.specs.files import Spec, validate

PROOF = "proof.json"
ADAPTER_CONFIG = "adapter_config.json"
VERDICT_NOTE = "the verdict on the training is"
"""The note of an export of a training that did not pass begins so (exporting/source.py)."""
MAX_PROOF_BYTES = 4 * 1024 * 1024
Form = Literal["adapters", "merged"]
TOLERANCES: dict[str, dict[str, float]] = {
    "float32": {"adapters": 0.01, "merged": 0.02},
    "float16": {"adapters": 0.25, "merged": 0.5},
    "bfloat16": {"adapters": 1.0, "merged": 1.0},
}
"""The largest allowed difference to the trained model's logits, by the type of the weights. A logit between 16 and 32 has a step of
0.0156 in float16 and of 0.125 in bfloat16. Measured in float16 (SmolLM2 135M in 4-bit on a CPU, rank 8, eight steps, 2026-11-29): 0.016 with its
adapters, 0.108 merged, and 20.3 for the base. In bfloat16 (Llama 3.1 8B in 4-bit, synthetic weights, rank 16, 20 steps, H200, driver 580.159.04,
2026-11-29, commit e428a97): 0.234, 0.258 and 13.96."""
DATA = (".json", ".safetensors", ".model", ".txt", ".md", ".jinja")
"""Suffixes of the files in an export, and in a run's folder of adapters: safetensors and the tokenizer's text files, which run no code."""
BASE_FACTOR = 2.0
"""How many times farther from the trained model its base must be than the export."""

Distance = Annotated[float, Meta(ge=0, le=1e30)]


class Comparison(Spec, frozen=True, kw_only=True):
    """An export, loaded again by plain transformers and peft in a process of its own (stacks/reloaded.py), compared with the trained model.

    Attributes:
        distance: the largest difference between a logit of the export and of the trained model.
        base_distance: the same for the base and the trained model.
        num_positions: the number of tokens after which all logits were compared.
        same_tokens, num_chats: whether tokenizer and template give the same tokens, and for how many chats.
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
        run, run_verdict, commit: the training, its verdict, and the commit that ran it.
        plan: the plan of its base (plan.py), from which the base can be made again.
        base_files: SHA-256 of the base's weight files.
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
    """The proof of an export; BadInput if the folder is not an export, or incomplete."""
    path = folder / PROOF
    if not path.is_file() or path.is_symlink():
        what = "is not an export, or incomplete: proof.json is missing"
        raise BadInput(Problem(str(folder), what, "make it with `loadcheck export RUN DIR`"))
    try:
        with path.open("rb") as file:
            data = json.loads(file.read(MAX_PROOF_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(Problem(str(path), f"is not a valid proof ({error})", "export the run again")) from None
    return validate(Proof, data, str(path))


def proven(folder: Path) -> Proof:
    """The proof of an export whose files still match it and are all pure data; BadInput otherwise."""
    proof = read_proof(folder)
    files = file_finding(folder, proof)
    if files.status is Status.FAIL:
        raise BadInput(Problem(str(folder), files.why, files.remedy))
    refuse_unsafe(folder, proof.form)
    return proof


def refuse_unsafe(folder: Path, form: Form) -> None:
    """BadInput if anything but safetensors would be loaded as weights: a pickle runs code, and its author also writes its proof."""
    wanted = "adapter_model.safetensors" if form == "adapters" else "model*.safetensors"
    odd = sorted(path.name for path in folder.rglob("*") if path.is_file() and path.suffix not in DATA)
    if odd or not any(folder.glob(wanted)):
        what = f"holds {', '.join(odd[:3])}, which is not data" if odd else f"holds no {wanted}"
        raise BadInput(Problem(str(folder), what, "use an export that has only safetensors as weights"))


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of an export except its proof; a link gets another value, so that it counts as changed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = "a link"
        elif path.is_file() and name != PROOF:
            found[name] = sha256_of(path)
    return found


def file_finding(folder: Path, proof: Proof) -> Finding:
    """Whether the folder holds exactly the files of the proof."""
    found = hashes(folder)
    wrong = [
        *(f"{name} is missing" for name in proof.files if name not in found),
        *(f"{name} was added" for name in found if name not in proof.files),
        *(f"{name} was changed" for name in found if name in proof.files and found[name] != proof.files[name]),
    ]
    why = "; ".join(wrong) if wrong else f"all {len(found)} files match the proof by SHA-256"
    return run_finding("files", not wrong, why, "it is not what was exported: export the run again")


def comparison_findings(comparison: Comparison, tolerance: float) -> Iterator[Finding]:
    """Whether the model that was loaded again is the one that was trained."""
    near, base = comparison.distance, comparison.base_distance
    yield run_finding(
        "logits", near <= tolerance,
        f"loaded again, it differs from the trained model by at most {near:.4g} in any logit (tolerance {tolerance:g})",
        "the adapters, their base or a package is not the one of the training",
    )  # fmt: skip
    yield run_finding(
        "base", base > 0 and base >= BASE_FACTOR * near, f"the base differs from the trained model by {base:.4g}, {_times(base, near)}",
        "the training changed so little that its export cannot be told from the base: train longer",
    )  # fmt: skip
    yield run_finding(
        "template", comparison.same_tokens, f"tokenizer and template give the same tokens as in the training for {comparison.num_chats} chats",
        "another tokenizer or template would give gibberish: use those of the export",
    )  # fmt: skip


def _times(base: float, near: float) -> str:
    return "the export not at all" if near == 0 else f"{base / near:,.0f} times as much"


def judge_proof(folder: Path, proof: Proof, comparison: Comparison | None) -> Verdict:
    """The verdict on an export; `comparison` is None if its files already differ."""
    files = file_finding(folder, proof)
    if comparison is None:
        return Verdict((files,))
    tolerance = TOLERANCES[proof.dtype][proof.form]
    if comparison is proof.comparison:  # the export is being made
        return Verdict((files, *comparison_findings(comparison, tolerance)))
    contradictions = [*_contradictions(proof, comparison), *_other_rank(folder, proof)]
    edited = [run_failure("proof", "; ".join(contradictions), "proof.json was edited: export the run again")]
    return Verdict((files, *comparison_findings(comparison, tolerance), *(edited if contradictions else [])))


def _contradictions(proof: Proof, comparison: Comparison) -> Iterator[str]:
    """What a proof says that its other statements, or the present comparison, rule out."""
    tolerance, kept = TOLERANCES[proof.dtype][proof.form], proof.comparison
    if proof.tolerance != tolerance:
        yield f"its tolerance is {proof.tolerance:g}, and that of {proof.dtype} is {tolerance:g}"
    if any(finding.status is Status.FAIL for finding in comparison_findings(kept, tolerance)):
        yield "its own comparison is not a pass"
    if proof.model != proof.plan.get("model_name"):
        yield f"its model is {proof.model}, and its plan is of {proof.plan.get('model_name')}"
    for name in ("num_positions", "num_chats"):
        if getattr(kept, name) != getattr(comparison, name):
            yield f"its {name} is {getattr(kept, name)}, and {getattr(comparison, name)} were compared now"
    if (proof.run_verdict == "pass") == any(note.startswith(VERDICT_NOTE) for note in proof.notes):
        yield f"its run_verdict is {proof.run_verdict or 'missing'}, and its notes say otherwise"


def _other_rank(folder: Path, proof: Proof) -> Iterator[str]:
    """A rank other than that of the adapters; a merged model has no config of theirs."""
    try:
        rank = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))["r"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return
    if rank != proof.rank:
        yield f"its rank is {proof.rank}, and {ADAPTER_CONFIG} says {rank}"
