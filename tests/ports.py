"""Ports for servers that tests start."""

import random
import socket
from contextlib import suppress
from pathlib import Path

RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
FIRST = 20_000


def free_port(*others: int) -> int:
    """A port of loopback that is free, is none of these, and is below those that the kernel gives to programs which ask for any port."""
    end = int(RANGE.read_text().split()[0]) if RANGE.exists() else FIRST
    dice = random.SystemRandom()
    for port in [dice.randrange(FIRST, end) for _ in range(100)] if end - FIRST > 1000 else []:
        with suppress(OSError):
            if port not in others:
                return _bound(port)
    return _bound(0)


def _bound(port: int) -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", port))
        return int(found.getsockname()[1])
