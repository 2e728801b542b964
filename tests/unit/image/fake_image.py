"""A valid image of a few KiB; tests break one part each."""

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

from buildkit_riscv64.core import dist
from buildkit_riscv64.core.arch import Target
from buildkit_riscv64.core.process import Result
from buildkit_riscv64.image import base_image, build, build_request, check, engines, layout
from buildkit_riscv64.image.container import DaemonRun
from buildkit_riscv64.image.variants import Variant

from ..factories import COMMIT, elf
from ..image_factories import CREATED, PACKAGES, RECORD

TARGET = Target.parse("linux-riscv64")
EPOCH = int(datetime.fromisoformat(CREATED).timestamp())
Entry = tuple[tarfile.TarInfo, bytes]
#: Breaks one part of an image.
Damage = Callable[["FakeImage"], object]


def entry(
    name: str,
    content: bytes = b"",
    *,
    mode: int = 0o755,
    kind: bytes = tarfile.REGTYPE,
    link: str = "",
    time: int = EPOCH,
    capable: bool = False,
) -> Entry:
    """An entry of a layer."""
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.type, info.linkname, info.mtime = len(content), mode, kind, link, time  # fmt: skip
    if capable:
        info.pax_headers = {"SCHILY.xattr.security.capability": "\x01\x02"}
    return info, content


def directory(name: str, mode: int = 0o755) -> Entry:
    return entry(name, mode=mode, kind=tarfile.DIRTYPE)


@dataclass
class FakeImage:
    """An image before it is written.

    Args:
        binaries: the binaries of phase 1.
        variant: root or rootless.
        layers: entries of each layer.
        config: the image's configuration.
        annotations: of its manifest.
        architecture: in its configuration.
        created: in its configuration.
        updates: Debian's security updates are included.
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
        """Fill in a valid image."""
        program = elf("riscv64", interpreter="/lib/ld-linux-riscv64-lp64d.so.1", needed="libc.so.6")
        commands = [
            entry(f"usr/bin/{command}", (self.binaries.path / dist.binary(command)).read_bytes())
            for command in dist.COMMANDS
        ]
        ours = [
            entry(name, file.read_bytes(), mode=0o644)
            for name, file in build_request.configuration(self.variant).items()
        ]
        self.layers = [
            [
                *ours,
                directory("usr/bin"), directory("tmp", 0o1777), directory("var/log"), directory("etc/buildkit"),
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
            "Entrypoint": check.ENTRYPOINT,
            "Env": ["PATH=/usr/local/bin:/usr/bin", "HOME=/"], "Volumes": {state: {}},
            "Healthcheck": {"Test": ["CMD", "buildctl", "debug", "workers"]},
            "Labels": dict(self.annotations),
        }  # fmt: skip

    def add(self, *entries: Entry) -> None:
        """Add entries to the top layer."""
        self.layers[-1] += entries

    def write(self, place: Path) -> None:
        """Write the layout."""
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
        """Write every file of a published image to dist/."""
        place = dist.image_directory(TARGET, self.variant)
        self.write(place / dist.LAYOUT)
        options = build.ImageOptions(
            variant=self.variant, engine=engines.Name.BUILDKIT, base=base_image.Origin.ROOTFS,
            target=TARGET,
        )  # fmt: skip
        build._describe(
            options, place, self.binaries, PACKAGES, RECORD, EPOCH, updates=self.updates
        )
        return place


def with_config(image: layout.Image) -> layout.Image:
    """Write an image's changed configuration, manifest and index."""
    place = image.layout
    config = layout._write_blob(place, layout._encode(image.config), layout.CONFIG_TYPE)
    manifest = {**image.manifest, "config": config}
    written = layout._write_blob(place, layout._encode(manifest), layout.MANIFEST_TYPE)
    layout.write_index(place, [{**image.descriptor, **written}])
    for old in (image.digest, image.manifest["config"]["digest"]):
        layout.blob(place, old).unlink()
    return layout.load(place)


def record_again(place: Path) -> None:
    """Update manifest and checksums to match the files, as a careful forger would."""
    manifest = json.loads((place / dist.MANIFEST).read_text())
    own = (dist.MANIFEST, dist.SUMS)
    names = [str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()]
    manifest["files"] = dist.record(place, sorted({*names} - {*own}))
    dist.write_manifest(place, manifest)


@dataclass
class FakeContainer:
    """A working container; tests break one answer each.

    Args:
        answers: output of programs, instead of their version.
        codes: exit codes of programs.
        orphan: the result of the test with an orphan.
        daemon_run: the result of running the daemon.
        broken: the result if no shell runs.
        ran: the commands.
        daemon_starts: how often the daemon was started.
    """

    answers: dict[str, str] = field(default_factory=dict)
    codes: dict[str, int] = field(default_factory=dict)
    orphan: Result = field(default_factory=lambda: Result(0, "zombies: 0\n", ""))
    daemon_run: DaemonRun = field(
        default_factory=lambda: DaemonRun("", 1.5, 0.25, "found 1 workers\n")
    )
    broken: Result | None = None
    ran: list[list[str]] = field(default_factory=list)
    daemon_starts: int = 0

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
                output = self.answers.get(name, version)
                lines.append(f"{name}|{self.codes.get(name, 0)}|{output}\n")
        return Result(0, "".join(lines), "")

    def run_daemon(self) -> DaemonRun:
        self.daemon_starts += 1
        return self.daemon_run


def give_to_the_group(directory: Path) -> None:
    """Make files writable for the group, as in a clone with umask 002."""
    for path in directory.rglob("*"):
        path.chmod(path.stat().st_mode | 0o020)
