"""A good image of a few KiB, of which each test spoils one thing."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from buildkit_riscv64 import dist
from buildkit_riscv64.arch import Target
from buildkit_riscv64.image import build, check, engines, layout, tools
from buildkit_riscv64.image.container import Life
from buildkit_riscv64.image.variants import Variant
from buildkit_riscv64.process import Result

from ..making import COMMIT, elf
from ..making_images import CREATED, PACKAGES, RECORD

TARGET = Target.parse("linux-riscv64")
EPOCH = int(datetime.fromisoformat(CREATED).timestamp())
Entry = tuple[tarfile.TarInfo, bytes]
#: What spoils a picture.
Spoil = Callable[["Picture"], object]


def entry(name: str, content: bytes = b"", *, mode: int = 0o755, kind: bytes = tarfile.REGTYPE, link: str = "", time: int = EPOCH, capable: bool = False) -> Entry:  # fmt: skip
    """Something in a layer."""
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.type, info.linkname, info.mtime = len(content), mode, kind, link, time  # fmt: skip
    if capable:
        info.pax_headers = {"SCHILY.xattr.security.capability": "\x01\x02"}
    return info, content


def folder(name: str, mode: int = 0o755) -> Entry:
    return entry(name, mode=mode, kind=tarfile.DIRTYPE)


@dataclass
class Picture:
    """An image before it is written.

    Args:
        binaries: phase 1's.
        variant: which image.
        layers: what is in it.
        config: how it starts.
        annotations: of its manifest.
        architecture: what it says that it is for.
        created: when it says that it was.
        updates: whether Debian's security updates are in it.
    """

    binaries: dist.Artifacts
    variant: Variant = Variant.ROOT
    layers: list[list[Entry]] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    architecture: str = "riscv64"
    created: str = CREATED
    updates: bool = True

    def __post_init__(self) -> None:
        """Make it good."""
        program = elf("riscv64", interpreter="/lib/ld-linux-riscv64-lp64d.so.1", needed="libc.so.6")
        commands = [
            entry(f"usr/bin/{command}", (self.binaries.path / dist.binary(command)).read_bytes())
            for command in dist.COMMANDS
        ]
        self.layers = [
            [
                folder("usr/bin"), folder("tmp", 0o1777), folder("var/log"), folder("etc/buildkit"),
                entry("usr/bin/tini", program), entry("usr/sbin/docker-init", program),
                entry("usr/lib/libc.so.6.1", elf("riscv64", needed="ld-linux-riscv64-lp64d.so.1")),
                entry("usr/lib/libc.so.6", kind=tarfile.SYMTYPE, link="libc.so.6.1", mode=0o777),
                entry("usr/share/doc/tini/copyright", b"MIT\n", mode=0o644),
            ],
            commands,
        ]  # fmt: skip
        state = "/var/lib/buildkit"
        if self.variant is Variant.ROOTLESS:
            state = "/home/user/.local/share/buildkit"
            self.config["User"] = "1000:1000"
            maps = ("newuidmap", "newgidmap")
            self.layers += [[entry(f"usr/bin/{name}", program, capable=True) for name in maps]]
        prefix = "org.opencontainers.image."
        words = {"version": "v0.32.2", "revision": COMMIT, "created": CREATED}
        self.annotations |= {f"{prefix}{name}": word for name, word in words.items()}
        self.config |= {
            "Entrypoint": ["/usr/bin/tini", "-s", "--", "/usr/bin/buildkitd-entrypoint"],
            "Env": ["PATH=/usr/local/bin:/usr/bin", "HOME=/"], "Volumes": {state: {}},
            "Healthcheck": {"Test": ["CMD", "buildctl", "debug", "workers"]},
            "Labels": dict(self.annotations),
        }  # fmt: skip

    def add(self, *entries: Entry) -> None:
        """Put something into the uppermost layer."""
        self.layers[-1] += entries

    def write(self, place: Path) -> None:
        """Write its layout."""
        layers = []
        for entries in self.layers:
            content = io.BytesIO()
            with tarfile.open(fileobj=content, mode="w", format=tarfile.PAX_FORMAT) as tar:
                for info, data in entries:
                    tar.addfile(info, io.BytesIO(data))
            layers.append(
                layout._write_blob(
                    place, gzip.compress(content.getvalue(), mtime=0), f"{layout.TAR_TYPE}+gzip"
                )
            )
        config = {
            "os": "linux", "architecture": self.architecture, "created": self.created,
            "config": self.config,
        }  # fmt: skip
        manifest = {
            "schemaVersion": 2, "mediaType": layout.MANIFEST_TYPE, "layers": layers,
            "config": layout._write_blob(place, layout._encode(config), layout.CONFIG_TYPE),
            "annotations": self.annotations,
        }  # fmt: skip
        descriptor = layout._write_blob(place, layout._encode(manifest), layout.MANIFEST_TYPE)
        layout.write_index(place, [{**descriptor, "annotations": {layout.REF_NAME: "latest"}}])

    def finish(self) -> Path:
        """Write all that a build leaves in dist/."""
        place = dist.image_folder(TARGET, self.variant)
        self.write(place / dist.LAYOUT)
        options = build.Options(
            variant=self.variant, engine=engines.Name.BUILDKIT, base=tools.Origin.ROOTFS,
            target=TARGET,
        )  # fmt: skip
        build._describe(
            options, place, self.binaries, PACKAGES, RECORD, EPOCH, updates=self.updates
        )
        return place


def with_config(image: layout.Image) -> layout.Image:
    """Write an image's configuration anew, as it is now, and all that points to it."""
    place = image.layout
    config = layout._write_blob(place, layout._encode(image.config), layout.CONFIG_TYPE)
    manifest = {**image.manifest, "config": config}
    written = layout._write_blob(place, layout._encode(manifest), layout.MANIFEST_TYPE)
    layout.write_index(place, [{**image.descriptor, **written}])
    for old in (image.digest, image.manifest["config"]["digest"]):
        layout.blob(place, old).unlink()
    return layout.load(place)


def record_anew(place: Path) -> None:
    """Have manifest and sums agree with the files, as a careful forger would."""
    manifest = json.loads((place / dist.MANIFEST).read_text())
    own = (dist.MANIFEST, dist.SUMS)
    names = [str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()]
    manifest["files"] = dist.record(place, sorted({*names} - {*own}))
    dist.write_manifest(place, manifest)


@dataclass
class Alive:
    """A container that runs as it should; tests spoil one answer each.

    Args:
        answers: what programs say of themselves, instead of their version.
        codes: with what they end.
        orphan: what is said when a process has lost its parent.
        life: how its daemon lives.
        broken: what is said where not even a shell runs.
        ran: what was run in it.
        lived: how often its daemon was started.
    """

    answers: dict[str, str] = field(default_factory=dict)
    codes: dict[str, int] = field(default_factory=dict)
    orphan: Result = field(default_factory=lambda: Result(0, "zombies: 0\n", ""))
    life: Life = field(default_factory=lambda: Life("", 1.5, 0.25, "found 1 workers\n"))
    broken: Result | None = None
    ran: list[list[str]] = field(default_factory=list)
    lived: int = 0

    def run(self, words: list[str]) -> Result:
        self.ran.append(words)
        if words[0] != "/bin/sh":
            return self.orphan
        if self.broken:
            return self.broken
        lines = []
        for name in check.PROGRAMS | check.ROOTLESS_PROGRAMS:
            if f'echo "{name}|$?' in words[-1]:
                version = f"{name} github.com/moby/buildkit v0.32.2 {COMMIT}"
                said = self.answers.get(name, version)
                lines.append(f"{name}|{self.codes.get(name, 0)}|{said}\n")
        return Result(0, "".join(lines), "")

    def live(self) -> Life:
        self.lived += 1
        return self.life


def give_to_the_group(folder: Path) -> None:
    """Let the group write files, as a clone does where the umask is 002."""
    for path in folder.rglob("*"):
        path.chmod(path.stat().st_mode | 0o020)
