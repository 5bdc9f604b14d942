"""Whether a log's numbers are those of the card that it names, and whether this stack runs on that card."""

from __future__ import annotations

from collections.abc import Iterator

from loadcheck.figures import Reading
from loadcheck.findings.evidence import Evidence
from loadcheck.findings.finding import Check, Finding, Status
from loadcheck.findings.interval import Interval
from loadcheck.logs.events import Device
from loadcheck.predict.card import why_refused
from loadcheck.specs.gpu import NamedCard, capability_of, gib_in_name, is_of_another_maker, named_card
from loadcheck.specs.versions import load_versions
from loadcheck.units import from_gib, to_gib

OTHER_CARD = (
    "the log is from another card than it names, or was edited; give the raw output of one load, or, if the card really is like this, add its "
    "facts to env/gpus.toml"
)

SAME_TOTAL = 0.01
"""Share by which two interfaces of one driver may differ on one card's memory."""


def check_card(evidence: Evidence) -> Iterator[Finding]:
    """Name, compute capability and total memory against env/gpus.toml and the cards that the pinned torch is built for."""
    name = evidence.attempt.reading("gpu_name")
    if name is not None and (known := named_card(str(name.value))) is not None:
        yield from _capability(evidence, name, known)
        yield from _total(evidence, name, known)
    elif name is not None:
        yield from _family(evidence, name)
    yield from _refused(evidence)
    yield from _device(evidence)
    yield from _machine(evidence)


def _capability(evidence: Evidence, name: Reading, known: NamedCard) -> Iterator[Finding]:
    reading = evidence.attempt.reading("compute_capability")
    wanted = known.gpu.compute_capability
    if reading is not None:
        yield evidence.finding(reading, Check.STACK, ok=reading.value == wanted, predicted=wanted,
                               why=f"{name.value} has compute capability {wanted} (env/gpus.toml)", remedy=OTHER_CARD)  # fmt: skip


def _total(evidence: Evidence, name: Reading, known: NamedCard) -> Iterator[Finding]:
    reading = evidence.attempt.reading("gpu_total_bytes")
    if reading is None or not known.gib:
        return
    fits = [gib for gib in _totals(known) if _meets(reading, gib)]
    low, high = fits[0] if fits else known.gib[0]
    why = f"{name.value} has {low:.1f} to {high:.1f} GiB (env/gpus.toml)"
    yield evidence.finding(reading, Check.STACK, ok=bool(fits), low=round(low, 3), high=round(high, 3), why=why,
                           remedy="" if fits else OTHER_CARD)  # fmt: skip
    if known.is_slice or (fits and fits[0] != known.gib[0]):
        yield Finding(figure="gpu_name", check=Check.STACK, status=Status.SKIPPED, where=evidence.where(name.line),
                      why=f"{name.value} with {to_gib(int(reading.value)):.2f} GiB is {_described(known, low)}: it is judged by its own numbers")  # fmt: skip


def _family(evidence: Evidence, name: Reading) -> Iterator[Finding]:
    """For a card that nobody measured: what its name tells of its family and its memory."""
    capability, wanted = evidence.attempt.reading("compute_capability"), capability_of(str(name.value))
    if capability is not None and wanted is not None:
        yield evidence.finding(capability, Check.STACK, ok=capability.value == wanted, predicted=wanted,
                               why=f"{name.value} has compute capability {wanted} by its family (env/gpus.toml)", remedy=OTHER_CARD)  # fmt: skip
    total, gib = evidence.attempt.reading("gpu_total_bytes"), gib_in_name(str(name.value))
    if total is not None and gib is not None:
        yield evidence.finding(total, Check.STACK, ok=_meets(total, gib), low=round(gib[0], 3), high=round(gib[1], 3),
                               why=f"{name.value} has {gib[0]:.1f} to {gib[1]:.1f} GiB by its name", remedy=OTHER_CARD)  # fmt: skip


def _totals(known: NamedCard) -> list[tuple[float, float]]:
    return [*known.gib, *([known.gib_without_ecc] if known.gib_without_ecc is not None else [])]


def _meets(total: Reading, gib: tuple[float, float]) -> bool:
    return Interval.of(total).meets(Interval(from_gib(gib[0]), from_gib(gib[1])))


def _described(known: NamedCard, low_gib: float) -> str:
    if known.is_slice:
        return f"a slice of a {known.key}"
    if known.gib_without_ecc is not None and low_gib == known.gib_without_ecc[0]:
        return f"a {known.key} as with its error correction (ECC) switched off"
    return f"a {known.key} with other memory than most"


def is_described_otherwise(evidence: Evidence) -> bool:
    """Whether the card has one of its kind's less common memory sizes, so that the ranges of the usual size do not apply."""
    name, total = evidence.attempt.reading("gpu_name"), evidence.attempt.reading("gpu_total_bytes")
    known = named_card(str(name.value)) if name is not None else None
    if known is None or total is None or not known.gib or _meets(total, known.gib[0]):
        return False
    return any(_meets(total, gib) for gib in _totals(known))


def _refused(evidence: Evidence) -> Iterator[Finding]:
    """The pinned torch cannot load on a card that it has no code for. Other builds of torch are not checked here."""
    name, torch = evidence.attempt.reading("gpu_name"), evidence.attempt.reading("torch")
    capability = evidence.attempt.reading("compute_capability")
    if name is None or torch is None or str(torch.value).partition("+")[0] != load_versions().version("torch"):
        return
    known = named_card(str(name.value))
    why = known.gpu.refused if known is not None else None
    if is_of_another_maker(str(name.value)):
        why = "wheels for CUDA run on NVIDIA's cards alone"
    if why is None and capability is not None:
        why = why_refused(float(capability.value))
    if why is not None:
        yield evidence.finding(
            name, Check.STACK, ok=False, why=f"this stack cannot have loaded on it: {why}", remedy=OTHER_CARD
        )


def _device(evidence: Evidence) -> Iterator[Finding]:
    """What our engine read from the device must match the card in unsloth's banner, with no more memory free than there is."""
    event, reading = evidence.attempt.last(Device), evidence.attempt.reading("gpu_total_bytes")
    if event is None:
        return
    total, free = event.device_total_bytes, event.device_free_bytes
    if total is None or free is None:
        return  # the numbers are missing or invalid; verdict/events.py reports that
    same = reading is None or abs(float(reading.value) - total) <= SAME_TOTAL * total + reading.tolerance
    ok = same and 0 < free <= total
    in_banner = "nothing" if reading is None else f"{reading.show()} GiB"
    yield Finding(figure="device", check=Check.STACK, status=Status.OK if ok else Status.FAIL, measured=round(to_gib(total), 3), unit="GiB",
                  why=f"the engine read {to_gib(total):.3f} GiB of which {to_gib(free):.3f} are free, and the banner says {in_banner}",
                  remedy="" if ok else "the log is from two cards, or was edited; give the raw output of one load")  # fmt: skip


def _machine(evidence: Evidence) -> Iterator[Finding]:
    """The card that the parent process saw before the load (run.json) must be the one of the log."""
    gpu, name = evidence.machine.get("gpu"), evidence.attempt.reading("gpu_name")
    if not isinstance(gpu, dict) or name is None:
        return
    remedy = "the log is from another machine than its run.json; load it again"
    yield evidence.finding(name, Check.STACK, ok=gpu.get("name") == name.value, predicted=str(gpu.get("name")),
                           why="the card that run.json names", remedy=remedy)  # fmt: skip
    capability, total = evidence.attempt.reading("compute_capability"), evidence.attempt.reading("gpu_total_bytes")
    if capability is not None:
        recorded = str(gpu.get("compute_capability"))
        yield evidence.finding(capability, Check.STACK, ok=recorded == capability.value, predicted=recorded,
                               why="the compute capability that run.json names", remedy=remedy)  # fmt: skip
    if total is not None:
        same = abs(float(total.value) - gpu["total_bytes"]) <= SAME_TOTAL * gpu["total_bytes"] + total.tolerance
        yield evidence.finding(total, Check.STACK, ok=same and gpu["free_bytes"] <= gpu["total_bytes"], predicted=round(to_gib(gpu["total_bytes"]), 3),
                               why="the memory that run.json names", remedy=remedy)  # fmt: skip
