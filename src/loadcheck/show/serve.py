"""A server, for people: its warnings, and once it answers its address, models and key."""

from __future__ import annotations

from rich.console import Console

from loadcheck.runs.child import ChildEnd
from loadcheck.serving.key import ApiKey
from loadcheck.show.verdict import show_verdict
from loadcheck.stacks.serving import Served, known_holes
from loadcheck.terminal import print_words
from loadcheck.verdict import Verdict


def show_warnings(out: Console, host: str, is_loopback: bool) -> None:
    """Print the known vulnerabilities of its version, and a louder warning if other machines can reach it."""
    holes = known_holes()
    out.print(
        f"[bold red]WARNING[/]  This server is of February 2025 and has {sum(len(names) for names, _ in holes)} known vulnerabilities; put a gateway in front of it."
    )
    for names, action in holes:
        print_words(out, f"  {', '.join(names)}: {action}")
    if not is_loopback:
        out.print(
            "[bold red]WARNING[/]  Other machines can reach it, without TLS: the key and every prompt can be read on the network."
        )
        print_words(out, f"  leave out --host {host}, and let the gateway reach it on loopback")


def show_ready(out: Console, served: Served, key: ApiKey, verdict: Verdict) -> None:
    """Print the verdict on its start, its address and its models, and a new key: the only place where it is shown."""
    show_verdict(out, None, verdict)
    url = f"http://{served.host}:{served.port}"
    print_words(
        out,
        f"serving {', '.join([served.plan.model_name, *served.adapters])} at {url}/v1; the verdict is at {url}/loadcheck",
    )
    if key.is_new:
        print_words(out, f"API key, shown once: {key.text}")


def ending(end: ChildEnd, answered: bool) -> str | None:
    """A message on the server's end; None if it ended on request, after its own requests."""
    if not end.interrupted:
        return f"the server ended by itself: {end.reason or 'exit code 0'}"
    if not answered:
        return "stopped before the server answered, so its start was not judged"
    return None if end.exit_code == 0 else f"the server did not shut down cleanly (exit code {end.exit_code})"
