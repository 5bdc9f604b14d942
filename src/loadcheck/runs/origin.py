"""Where a run was made, as the fleet that started it states: on which node, with which image and which lock."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from typing import Annotated

from msgspec import Meta

from loadcheck.specs.files import env_dir

NODE_VARIABLE, IMAGE_VARIABLE, FLEET_VARIABLE = "LOADCHECK_NODE", "LOADCHECK_IMAGE", "LOADCHECK_FLEET"
"""Set by whatever starts a node: an image cannot know its own digest."""
LOCK = "requirements.lock"
"""The lock that constrains all others."""
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")

Word = Annotated[str, Meta(max_length=200)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """None means not stated.

    Attributes:
        node: its name in the fleet.
        image: the digest of its image, "sha256:…", as stated by whoever started it.
        lock_sha256: of the lock that is installed with this loadcheck.
        fleet: the plan that it was started for (FleetPlan.identity).
    """

    node: Word | None = None
    image: Word | None = None
    lock_sha256: Word | None = None
    fleet: Word | None = None


def read_origin(environ: Mapping[str, str]) -> Origin:
    """The origin by the environment variables and the installed lock."""
    digest = DIGEST.search(environ.get(IMAGE_VARIABLE, ""))
    return Origin(
        node=environ.get(NODE_VARIABLE) or None,
        image=digest.group() if digest else None,
        lock_sha256=lock_sha256(),
        fleet=environ.get(FLEET_VARIABLE) or None,
    )


@cache
def lock_sha256() -> str | None:
    """The SHA-256 of the installed lock; None if it cannot be read."""
    try:
        return sha256((env_dir() / LOCK).read_bytes()).hexdigest()
    except OSError:
        return None
