"""A server, for people: what it warns of, and once it answers, where, with which models and which key."""

from __future__ import annotations

from rich.console import Console

from loadcheck.runs.child import ChildEnd
from loadcheck.serving.key import ApiKey
from loadcheck.show.verdict import show_verdict
from loadcheck.stacks.serving import Served, known_holes
from loadcheck.terminal import print_words
from loadcheck.verdict import Verdict


def show_warnings(out: Console, host: str, is_loopback: bool) -> None:
    """The known holes of its version, each in a line, and louder where others can reach it."""
    holes = known_holes()
    out.print(
        f"[bold red]WARNING[/]  This server is of February 2025 and has {sum(len(names) for names, _ in holes)} known holes; put a gateway before it."
    )
    for names, action in holes:
        print_words(out, f"  {', '.join(names)}: {action}")
    if not is_loopback:
        out.print(
            "[bold red]WARNING[/]  It listens beyond this machine, without TLS: the key and every prompt can be read on the way."
        )
        print_words(out, f"  --host {host}: leave it out, and have the gateway reach it on loopback")


def show_ready(out: Console, served: Served, key: ApiKey, verdict: Verdict) -> None:
    """The verdict on its start, its address, its models; a key that was made is shown here and nowhere else."""
    show_verdict(out, None, verdict)
    url = f"http://{served.host}:{served.port}"
    print_words(
        out,
        f"serves {', '.join([served.plan.model_name, *served.adapters])} at {url}/v1; the verdict is at {url}/loadcheck",
    )
    if key.is_new:
        print_words(out, f"API key, shown once: {key.text}")


def ending(end: ChildEnd, answered: bool) -> str | None:
    """What is to be said of a server's end; None of one that was asked to, and let its requests come to theirs."""
    if not end.interrupted:
        return f"the server ended before it was asked to: {end.reason or 'with exit code 0'}"
    if not answered:
        return "ended before the server answered, so its start was not judged"
    return None if end.exit_code == 0 else f"the server did not end by itself (exit code {end.exit_code})"
