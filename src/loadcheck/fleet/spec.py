"""FLEET.toml: the description of a fleet, as a person writes it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import Meta

from loadcheck.fleet.plan import Engine, FleetName, NodeName, Price
from loadcheck.specs.files import Spec

Count = Annotated[int, Meta(ge=1, le=100_000)]
Word = Annotated[
    str,
    Meta(
        pattern=r"^[^\s'\"\\`$]+$",
        max_length=500,
        description="a word without spaces, quotes, backslashes, backticks and $",
    ),
]
"""A word without whitespace and quotes, as it is put into shell scripts and command lines."""
Gres = Annotated[str, Meta(pattern=r"^[\w.:,-]+$", description="a gres of Slurm, such as gpu:t4:1")]


class Group(Spec, frozen=True, kw_only=True):
    """Nodes of one card: one on each of `hosts`, or `count` wherever the engine finds that card.

    `ram_available_gib` is the memory available to programs on a node, which determines the swap space; None if unknown.
    """

    card: str
    count: Count = 1
    hosts: tuple[NodeName, ...] = ()
    price_per_hour: Price | None = None
    ram_available_gib: Annotated[float, Meta(gt=0, le=100_000)] | None = None

    def __post_init__(self) -> None:
        if self.hosts and self.count != 1:
            raise ValueError("it has hosts and a count; leave the count out, there is one node on each host")


class Local(Spec, frozen=True, kw_only=True):
    """This host. `workers`: how many nodes run at once; None means as many as there are GPUs, or one without GPUs."""

    workers: Count | None = None


class Kubernetes(Spec, frozen=True, kw_only=True):
    """An indexed Job for each card.

    Attributes:
        results_claim: the PersistentVolumeClaim that all nodes write into (ReadWriteMany).
        queue: the LocalQueue of Kueue; None without Kueue.
        token_secret: the Secret with the hub's token under the key "token".
        products: the nvidia.com/gpu.product labels of a card, if they differ from its device names.
        tolerations: keys of further taints of the nodes, in addition to nvidia.com/gpu.
    """

    results_claim: NodeName
    namespace: NodeName = "default"
    queue: NodeName | None = None
    token_secret: NodeName | None = None
    pull_secret: NodeName | None = None
    runtime_class: NodeName | None = None
    products: dict[str, tuple[str, ...]] = {}
    tolerations: tuple[str, ...] = ()
    shm_gib: Count = 1
    ram_gib: Count = 32
    cpus: Count = 4


class Skypilot(Spec, frozen=True, kw_only=True):
    """A task for each card.

    Attributes:
        infra: where to run, in SkyPilot's notation, such as "aws/us-east-1"; None for the cheapest that it finds.
        runtime: "docker": a virtual machine that runs the image with Docker; "image": the image is the machine (RunPod, Kubernetes).
        accelerators: SkyPilot's name of a card, if it differs from ours.
    """

    infra: Word | None = None
    runtime: Literal["docker", "image"] = "docker"
    use_spot: bool = False
    disk_gib: Count = 100
    accelerators: dict[str, str] = {}


class Slurm(Spec, frozen=True, kw_only=True):
    """An array for each card.

    Attributes:
        container: "apptainer" with the bundle of `make bundle`, or "pyxis" with a squashfs of the image.
        root: the unpacked bundle (apptainer), or the squashfs (pyxis), on a disk that all nodes share.
        bundle: the folder of the bundle, which holds the image's digest.
        gres: the request for one card; by card if the site names them.
    """

    bundle: Word
    root: Word
    container: Literal["apptainer", "pyxis"] = "apptainer"
    partition: Word | None = None
    account: Word | None = None
    gres: Gres | dict[str, Gres] = "gpu:1"
    cpus: Count = 4
    ram_gib: Count = 16


class Ray(Spec, frozen=True, kw_only=True):
    """A task for each GPU of a cluster that already runs the image. `accelerator_types`: Ray's names of cards, if another version of Ray differs."""

    address: Word = "auto"
    accelerator_types: dict[str, str] = {}


class FleetSpec(Spec, frozen=True, kw_only=True):
    """One image and one profile on these nodes.

    Attributes:
        image: by digest; None for local and Ray, which run what is installed. If it is given for these, each machine must set LOADCHECK_IMAGE.
        profile: a name in env/profiles.
        settings: changed keys of the profile, nested ones with a dot.
        price_cap_per_hour: a card that costs more is refused; in the same currency as the prices.
    """

    name: FleetName
    engine: Engine
    image: Word | None = None
    profile: str
    settings: dict[str, Any] = {}
    nodes: Annotated[tuple[Group, ...], Meta(min_length=1)]
    price_cap_per_hour: Price | None = None
    until: datetime | None = None
    results: Word = "results"
    minutes: Annotated[int, Meta(ge=1, le=10_080)] = 60
    retries: Annotated[int, Meta(ge=0, le=10)] = 0
    local: Local = Local()
    kubernetes: Kubernetes | None = None
    skypilot: Skypilot = Skypilot()
    slurm: Slurm | None = None
    ray: Ray = Ray()

    def __post_init__(self) -> None:
        if self.until is not None and self.until.tzinfo is None:
            raise ValueError("until has no zone; write it with one, such as 2026-11-29T12:00:00Z")
        if getattr(self, self.engine) is None:
            raise ValueError(
                f"the engine is {self.engine}, and there is no table [{self.engine}]; docs/clouds.md has one"
            )
        if self.image is None and self.engine in ("kubernetes", "skypilot"):
            raise ValueError(f"{self.engine} needs an image; write it by digest, HOST/PATH@sha256:…")
        if self.image is not None and "@sha256:" not in self.image:
            raise ValueError("the image has no digest; a tag is moved, write it as HOST/PATH@sha256:…")
