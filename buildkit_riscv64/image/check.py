"""`invoke check-image`: check an image's contents and configuration, and run it."""

from __future__ import annotations

import fnmatch
import hashlib
import io
import os
import re
import stat
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..binaries.elf import read_stream
from ..core import dist, dry_run, filesystem, project
from ..core.arch import Architecture, Target
from ..core.check_results import (
    Finding,
    Findings,
    equal,
    judged,
    of_damaged,
    of_files,
    refuse_failed,
)
from ..core.console import Status, duration, size
from ..core.errors import CheckError
from ..system import apt
from . import build_request, container, layout
from .variants import Variant

#: How to fix a refused image.
REMEDY = "run `invoke build-image --force` to rebuild it"

#: docker's grace period for the daemon in seconds; then docker kills it and it may lose data.
STOP_SECONDS = 10.0
#: Programs with file capabilities, which rootless needs.
CAPABLE: dict[Variant, list[str]] = {
    Variant.ROOT: [],
    Variant.ROOTLESS: ["usr/bin/newgidmap", "usr/bin/newuidmap"],
}
#: Programs that must run, with a command that prints a version or usage.
PROGRAMS = {
    "buildkitd": "buildkitd --version",
    "buildctl": "buildctl --version",
    "runc": "runc --version",
    "tini": "tini --version",
    "docker-init": "/sbin/docker-init --version",
    "git": "git --version",
    "git over https": "git remote-https 2>&1 | grep usage",
    "ssh": "ssh -V",
    "iptables": "iptables --version",
    "fuse-overlayfs": "fuse-overlayfs --version",
    "fusermount3": "fusermount3 --version",
    "pigz": "pigz --version",
    "xz": "xz --version",
    "unshare": "unshare --version",
    "shell": "sh -c 'busybox | head -n 1'",
}
ROOTLESS_PROGRAMS = {
    "rootlesskit": "rootlesskit --version",
    "slirp4netns": "slirp4netns --version",
    "ip": "ip -Version",
    "nsenter": "nsenter --version",
    "newuidmap": "newuidmap 2>&1 | grep usage",
    "newgidmap": "newgidmap 2>&1 | grep usage",
}
#: The files whose bytes are compared.
COMPARED = {
    *(f"usr/bin/{command}" for command in dist.COMMANDS),
    *build_request.configuration(Variant.ROOTLESS),
}
USERS = {Variant.ROOT: "0", Variant.ROOTLESS: "1000:1000"}
ENTRYPOINT = ["/usr/bin/tini", "-s", "--", "/usr/bin/buildkitd-entrypoint"]
#: Leftovers of package managers and builds.
CACHES = (
    "var/cache/*", "var/lib/apt/lists/*", "var/log/*", "tmp/*", "var/tmp/*", "root/.*", "*.pyc",
    "*/.git/*", "*.deb",
)  # fmt: skip
#: Names of files with secrets.
SECRETS = (
    "*/id_rsa", "*/id_ecdsa", "*/id_ed25519", "*.key", "*-key.pem", "*/.netrc", "*/.npmrc",
    "*/.docker/config.json", "*/.aws/*", "*/.ssh/*", "*/.git-credentials", "etc/shadow",
    "etc/ssh/ssh_host_*",
)  # fmt: skip
_SECRET = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----")
#: Libraries that the kernel or the loader provides.
_PROVIDED = ("ld-linux", "linux-vdso")

# Runs under an engine's init, as buildx starts it: an orphan that ends must not stay a zombie.
# The loop gives a busy machine time.
_ORPHAN = (
    "/bin/sh -c '/bin/sleep 0.3 & exit'; tries=200; /bin/sleep 1;"
    " while [ $tries -gt 0 ] && grep -qs '^Name:.sleep' /proc/[0-9]*/status; do"
    " tries=$((tries - 1)); /bin/sleep 0.3; done;"
    " echo zombies: $(grep -h ^State: /proc/[0-9]*/status | grep -c Z)"
)


@dataclass
class Contents:
    """Contents of an image's layers.

    Args:
        unpacked: total file size of each layer, in bytes.
        modes: mode of each path.
        secrets: files that look like keys.
        programs: ELF machine and needed libraries of each program and library.
        capable: programs with file capabilities.
        newest: the latest modification time, in seconds since 1970.
        devices: device nodes.
        removed: whiteouts, which remove files of lower layers.
        checksums: sha256 of BuildKit's commands and of our configuration, by path.
    """

    unpacked: list[int] = field(default_factory=list)
    modes: dict[str, int] = field(default_factory=dict)
    secrets: list[str] = field(default_factory=list)
    programs: dict[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    capable: list[str] = field(default_factory=list)
    newest: float = 0
    devices: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    checksums: dict[str, str] = field(default_factory=dict)


def read(image: layout.Image) -> Contents:
    """Read every layer once.

    Raises:
        CheckError: a layer is not a tar archive.
    """
    contents = Contents()
    for path in image.layers:
        total = 0
        try:
            with tarfile.open(path, "r|*") as tar:
                for entry in tar:
                    total += entry.size if entry.isfile() else 0
                    _record(contents, entry, tar)
        except (tarfile.TarError, OSError, EOFError, TypeError) as error:
            raise CheckError(f"layer {path.name[:12]} cannot be read: {error}", REMEDY) from error
        contents.unpacked.append(total)
    return contents


def _record(contents: Contents, entry: tarfile.TarInfo, tar: tarfile.TarFile) -> None:
    name = entry.name.removeprefix("./").rstrip("/")
    contents.modes[name] = entry.mode | (stat.S_IFDIR if entry.isdir() else 0) | (
        stat.S_IFLNK if entry.issym() else 0
    )  # fmt: skip
    contents.newest = max(contents.newest, entry.mtime)
    if "SCHILY.xattr.security.capability" in entry.pax_headers:
        contents.capable.append(name)
    if entry.isdev():
        contents.devices.append(name)
    if Path(name).name.startswith(".wh."):
        contents.removed.append(name)
    # Higher layers replace lower ones, also with links.
    contents.checksums.pop(name, None)
    file = tar.extractfile(entry) if entry.isreg() else None
    if file is None:
        return
    start = file.read(4096)
    if any(fnmatch.fnmatch(name, pattern) for pattern in SECRETS) or _SECRET.search(start):
        contents.secrets.append(name)
    is_elf = start[:4] == b"\x7fELF"
    compared = name in COMPARED
    whole = start + file.read() if compared or is_elf else b""
    if compared:
        contents.checksums[name] = hashlib.sha256(whole).hexdigest()
    if is_elf:
        elf = read_stream(io.BytesIO(whole), name)
        contents.programs[name] = (elf.machine, elf.needed)


def other_files(contents: Contents, variant: Variant) -> list[str]:
    """Our files that differ from those of this checkout, or that the image lacks.

    Args:
        contents: the image's contents.
        variant: the variant that it should be.
    """
    return [
        path
        for path, file in build_request.configuration(variant).items()
        if contents.checksums.get(path) != filesystem.sha256(file)
    ]


def differences(image: layout.Image, contents: Contents, variant: Variant) -> list[str]:
    """What differs from this checkout in our part of an image, apart from the commands.

    Args:
        image: the image.
        contents: its contents.
        variant: the variant that it should be.
    """
    config: dict[str, Any] = image.config.get("config") or {}
    start = (config.get("Entrypoint"), config.get("Cmd"), config.get("User") or USERS[Variant.ROOT])
    same = start == (ENTRYPOINT, None, USERS[variant])
    return [*([] if same else ["its start command"]), *other_files(contents, variant)]


def _manifest(artifacts: dist.Artifacts, variant: Variant, target: Target) -> Iterator[Finding]:
    manifest = artifacts.manifest
    yield Finding(dist.MANIFEST, "schema", Status.OK, "good")
    yield equal(dist.MANIFEST, "target", manifest["target"], target.name)
    yield equal(dist.MANIFEST, "variant", manifest["variant"], str(variant))
    yield from of_files(artifacts)
    if not manifest["security_updates"]:
        yield Finding("packages", "security updates", Status.WARN, "Debian's archive for them did not answer")  # fmt: skip


def _binaries(artifacts: dist.Artifacts, contents: Contents, target: Target) -> Iterator[Finding]:
    """Compare the commands with the manifest and with the binaries of phase 1."""
    binaries = dist.find(dist.directory(target))
    places = sorted(name for name in contents.modes if Path(name).name in dist.COMMANDS)
    yield equal("layers", "BuildKit's commands", places, sorted(f"usr/bin/{c}" for c in dist.COMMANDS))  # fmt: skip
    for command in dist.COMMANDS:
        recorded = artifacts.manifest["binaries"][command]
        yield equal(
            f"usr/bin/{command}", "sha256", contents.checksums.get(f"usr/bin/{command}"), recorded
        )
        if binaries is None:
            yield Finding(f"usr/bin/{command}", "of phase 1", Status.WARN, "no binaries to compare with")  # fmt: skip
        else:
            now = binaries.files[dist.binary(command)]["sha256"]
            yield equal(f"usr/bin/{command}", "those in dist/", recorded, now)


def _config(
    image: layout.Image, artifacts: dist.Artifacts, variant: Variant, target: Target
) -> Iterator[Finding]:
    platform = f"{image.config.get('os')}/{image.config.get('architecture')}"
    yield equal("image", "platform", platform, f"linux/{target.arch}")
    yield equal("image", "digest", image.digest, artifacts.manifest["digest"])
    config: dict[str, Any] = image.config.get("config") or {}
    user = config.get("User") or USERS[Variant.ROOT]
    yield equal("image", "user", user, USERS[variant])
    entrypoint = config.get("Entrypoint") or []
    yield equal("image", "entrypoint", entrypoint, ENTRYPOINT)
    command = " ".join([*entrypoint, *(config.get("Cmd") or [])])
    flags = ("--tlscacert", "--tlscert", "--tlskey")
    open_door = "tcp://" in command and not all(flag in command for flag in flags)
    yield judged("image", "no TCP without mutual TLS", not open_door, config.get("Cmd") or "the unix socket only", "no tcp:// address")  # fmt: skip
    exposed = sorted(config.get("ExposedPorts") or {})
    yield equal("image", "exposed ports", exposed, [])
    variables = dict(entry.partition("=")[::2] for entry in config.get("Env") or [])
    yield judged("image", "PATH", "/usr/bin" in variables.get("PATH", ""), variables.get("PATH"), "one with /usr/bin")  # fmt: skip
    state = "/var/lib/buildkit" if variant is Variant.ROOT else "/home/user/.local/share/buildkit"
    yield equal("image", "volumes", sorted(config.get("Volumes") or {}), [state])
    health = (config.get("Healthcheck") or {}).get("Test")
    yield equal("image", "health check", health, ["CMD", "buildctl", "debug", "workers"])
    labels = config.get("Labels") or {}
    manifest = artifacts.manifest
    prefix = "org.opencontainers.image"
    for name, wanted in {"version": manifest["version"], "revision": manifest["revision"], "created": manifest["created"]}.items():  # fmt: skip
        yield equal("image", f"label {name}", labels.get(f"{prefix}.{name}"), wanted)
        annotations = image.manifest.get("annotations") or {}
        yield equal("image", f"annotation {name}", annotations.get(f"{prefix}.{name}"), wanted)
    yield equal("image", "created", image.config.get("created"), manifest["created"])


def _files(
    contents: Contents, artifacts: dist.Artifacts, variant: Variant, target: Target
) -> Iterator[Finding]:
    modes = contents.modes
    privileged = {
        name for name, mode in modes.items()
        if mode & (stat.S_ISUID | stat.S_ISGID) and not stat.S_ISDIR(mode)
    }  # fmt: skip
    yield equal("layers", "setuid and setgid", sorted(privileged), [])
    yield equal("layers", "file capabilities", sorted(contents.capable), CAPABLE[variant])
    writable = sorted(
        name for name, mode in modes.items()
        if mode & stat.S_IWOTH and not stat.S_ISLNK(mode)
        # The sticky bit protects other users' files in a directory.
        and not (stat.S_ISDIR(mode) and mode & stat.S_ISVTX)
    )  # fmt: skip
    yield equal("layers", "writable for all", writable, [])
    yield equal("layers", "secrets", sorted(contents.secrets), [])
    left = sorted(
        name for name, mode in modes.items()
        if not stat.S_ISDIR(mode) and any(fnmatch.fnmatch(name, p) for p in CACHES)
        and not name.startswith(("root/.bashrc", "root/.profile"))
    )  # fmt: skip
    yield equal("layers", "caches", left[:5], [])
    yield equal("layers", "devices", contents.devices, [])
    yield equal("layers", "removed again", contents.removed[:5], [])
    for path in ("tmp", "etc/buildkit", "usr/bin/tini", "usr/sbin/docker-init"):
        yield judged(f"/{path}", "there", path in modes, "there", "in a layer")
    foreign = sorted(n for n, (machine, _) in contents.programs.items() if machine != target.arch.elf_machine)  # fmt: skip
    yield judged("layers", "machine", not foreign, foreign[:5] or f"{len(contents.programs)} programs and libraries, all {target.arch.elf_machine}", target.arch.elf_machine)  # fmt: skip
    names = {Path(name).name for name in modes}
    missing = sorted(
        f"{library} (of {name})"
        for name, (_, needed) in contents.programs.items()
        for library in needed
        if library not in names and not library.startswith(_PROVIDED)
    )
    yield judged("layers", "libraries", not missing, missing[:5] or "all there", "every one that a program asks for")  # fmt: skip
    created = artifacts.manifest["epoch"]
    yield judged("layers", "newest file", contents.newest <= created, int(contents.newest), f"nothing later than {created}")  # fmt: skip


def _script(programs: Mapping[str, str]) -> str:
    """A shell script that prints each program's exit code and first line of output."""
    lines = [
        f'output=$({{ {command}; }} 2>&1 </dev/null); echo "{name}|$?|$(echo "$output" | head -n 1)"'
        for name, command in programs.items()
    ]
    return "\n".join(lines)


def _run(image: layout.Image, artifacts: dist.Artifacts, variant: Variant) -> Iterator[Finding]:
    with container.unpacked(image.layout) as one:
        programs = PROGRAMS | (ROOTLESS_PROGRAMS if variant is Variant.ROOTLESS else {})
        answer = one.run(["/bin/sh", "-c", _script(programs)])
        reported = {
            line.split("|")[0]: line.split("|", 2)[1:]
            for line in answer.stdout.splitlines()
            if line.count("|") >= 2
        }
        for name in programs:
            code, line = reported.get(name, ["-", answer.last_line])
            good = code == "0"
            yield judged(name, "runs", good, line if good else f"exit code {code}: {line}", "it to run")  # fmt: skip
        for command in dist.COMMANDS:
            line = reported.get(command, ["", ""])[1]
            wanted = f"{artifacts.manifest['version']} {artifacts.manifest['revision']}"
            yield judged(command, "version", line.endswith(wanted), line, wanted)

        # As buildx starts it: the engine's init is process 1, tini is not.
        init = ["/sbin/docker-init", "--", "/usr/bin/tini", "-s", "--", "/bin/sh", "-c", _ORPHAN]
        answer = one.run(init)
        counted = answer.stdout.strip() or answer.last_line
        yield equal("tini", "zombies", counted, "zombies: 0")
        yield judged("tini", "no complaint", not answer.stderr.strip(), answer.stderr.strip() or "none", "none")  # fmt: skip

        if variant is Variant.ROOTLESS and os.geteuid() != 0:
            yield Finding("buildkitd", "starts", Status.WARN, "not tried: nested user namespaces need root")  # fmt: skip
            return
        daemon_run = one.run_daemon()
        yield judged("buildkitd", "answers", not daemon_run.problem, daemon_run.problem or f"after {duration(daemon_run.ready)}", "`buildctl debug workers` to answer")  # fmt: skip
        if not daemon_run.problem:
            late = "" if daemon_run.stop <= STOP_SECONDS else f", docker waits {duration(STOP_SECONDS)}: is this machine busy?"  # fmt: skip
            yield Finding("buildkitd", "ends on SIGTERM", Status.WARN if late else Status.OK, f"after {duration(daemon_run.stop)}{late}")  # fmt: skip
            worker = "found 1 workers" in daemon_run.output
            yield judged("buildkitd", "worker", worker, "one" if worker else daemon_run.output[-200:], "one")  # fmt: skip


def _layers(image: layout.Image, contents: Contents) -> Iterator[Finding]:
    sizes = zip(image.manifest["layers"], contents.unpacked, strict=True)
    for index, (layer, unpacked) in enumerate(sizes, start=1):
        yield Finding(f"layer {index}", "size", Status.OK, f"{size(layer['size'])} compressed, {size(unpacked)} unpacked")  # fmt: skip
    yield Finding("layers", "size", Status.OK, f"{size(image.size)} compressed, {size(sum(contents.unpacked))} unpacked")  # fmt: skip


def examine(directory: Path, variant: Variant, target: Target) -> list[Finding]:
    """Check everything in an image's directory, and run the image.

    Args:
        directory: published, or about to be.
        variant: the expected variant.
        target: the expected target.

    Raises:
        CheckError: nothing to check.
    """
    try:
        artifacts = dist.load(directory, dist.Kind.IMAGE)
    except CheckError as error:
        return of_damaged(directory, error)
    findings = list(_manifest(artifacts, variant, target))
    if any(f.status is Status.FAIL for f in findings):
        return findings
    image = layout.load(directory / dist.LAYOUT)
    if damaged := layout.damaged(image):
        return [*findings, Finding("layout", "digests", Status.FAIL, f"{damaged} is damaged")]
    contents = read(image)
    findings += _binaries(artifacts, contents, target)
    findings += _config(image, artifacts, variant, target)
    findings.append(equal("layers", "our files", other_files(contents, variant), []))
    findings += _files(contents, artifacts, variant, target)
    findings += _layers(image, contents)
    if dry_run.active():
        findings.append(Finding("image", "runs", Status.WARN, "not run under --dry"))
    elif target.arch is Architecture.here():
        findings += _run(image, artifacts, variant)
    else:
        findings.append(Finding("image", "runs", Status.WARN, f"not run: this machine is {Architecture.here()}"))  # fmt: skip
    return findings


def require_good(directory: Path, variant: Variant, target: Target) -> None:
    """Check everything, and raise if a check fails.

    Raises:
        CheckError: the message names the failed checks.
    """
    name = f"{target.name} {variant}"
    refuse_failed({name: examine(directory, variant, target)}, REMEDY)


def examine_all(target: str, *, yes: bool) -> Findings:
    """Check the images of the given target, or of every target.

    Raises:
        UsageError: invalid target.
        CheckError: nothing to check.
        MissingRequirementError: runc or umoci is missing.
    """
    found = chosen(target)
    if any(one.arch is Architecture.here() for one, _ in found):
        apt.ensure_installed(container.TOOLS, yes=yes)
    return {
        f"{one.name} {variant}": examine(dist.image_directory(one, variant), variant, one)
        for one, variant in found
    }


def chosen(target: str = "") -> list[tuple[Target, Variant]]:
    """The images to check: those of the given target, or every image in `dist/`.

    Raises:
        UsageError: invalid target.
        CheckError: no images.
    """
    targets = [Target.parse(target)] if target else dist.targets()
    found = [
        (one, variant)
        for one in targets
        for variant in Variant
        if (dist.image_directory(one, variant) / dist.MANIFEST).is_file()
    ]
    if not found:
        where = filesystem.display_path(dist.directory(targets[0]) if target else project.DIST)
        raise CheckError(f"no image in {where}/", "run `invoke build-image` first")
    return found
