"""The base disk of emulated machines: Debian for riscv64.

The base is built from Debian's packages, once for each recipe, and cached under
the recipe's hash. A cached base is complete: it is built in a temporary directory
and renamed. Its checksums are verified before a machine is created from it.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ..core import cache_keys, dist, dry_run, durations, filesystem, locks, pins, process, project
from ..core.arch import Architecture, Platform
from ..core.console import log, step
from ..core.errors import MachineError, MissingRequirementError, StorageError
from ..system import apt, binfmt, checks, debian
from . import doctor_checks

RECIPE = Path(__file__).parent / "recipe"
#: The suite that provides the pinned Go: Debian's next release.
GO_SUITE = "forky"
#: Size of the file system before it grows to the machine's disk.
BASE_BYTES = 3 << 30
FILES = ("base.qcow2", "kernel", "initrd", "ca-certificates.crt", "packages.tsv")
#: Directory with qemu, its libraries and its firmware.
EMULATOR_DIRECTORY = "emulator"
PROGRAM = "qemu-system-riscv64"
#: ps and pgrep show the first 15 letters: qemu's name.
LOADER = f"{PROGRAM}-loader"
FIRMWARE = "opensbi-riscv64-generic-fw_dynamic.bin"


@dataclass(frozen=True)
class BaseDisk:
    """A finished base.

    Args:
        path: the base's directory.
    """

    path: Path

    @property
    def disk(self) -> Path:
        """The qcow2 image below the machines' overlays."""
        return self.path / "base.qcow2"

    @property
    def kernel(self) -> Path:
        """The kernel that qemu loads."""
        return self.path / "kernel"

    @property
    def initrd(self) -> Path:
        """The initrd; each machine appends its identity."""
        return self.path / "initrd"

    @property
    def certificates(self) -> Path:
        """Debian's bundle of CA certificates."""
        return self.path / "ca-certificates.crt"

    @property
    def emulator(self) -> list[str]:
        """The command that starts the base's qemu with its own C library: the host's may be older."""
        directory = self.path / EMULATOR_DIRECTORY
        return [
            str(directory / LOADER), "--library-path", str(directory),
            str(directory / PROGRAM), "-L", str(directory),
        ]  # fmt: skip

    def sums(self) -> str:
        """Compute the checksums of the base's files.

        Raises:
            OSError: a file cannot be read.
        """
        emulator = sorted(
            f"{EMULATOR_DIRECTORY}/{p.name}" for p in (self.path / EMULATOR_DIRECTORY).iterdir()
        )
        return dist.sums(dist.record(self.path, (*FILES, *emulator)))


def bases() -> Path:
    """The cache directory of bases."""
    return project.cache() / "bases"


def recipe_hash(pinned: pins.Pins) -> str:
    """Hash the base's inputs, except Debian's own updates."""
    versions = f"{debian.SUITE} {GO_SUITE} {pinned.go} {BASE_BYTES}"
    return cache_keys.of_directory(RECIPE, versions)[:16]


def find(pinned: pins.Pins) -> BaseDisk | None:
    """Return the cached base, or None when it is missing or its checksums do not match."""
    base = BaseDisk(bases() / recipe_hash(pinned))
    if not base.path.is_dir():
        return None
    try:
        if (base.path / dist.SUMS).read_text() == base.sums():
            return base
    except (OSError, ValueError):  # ValueError: not text
        pass
    log(f"the base in {base.path} is damaged: rebuilding it")
    return None


def ensure(pinned: pins.Pins, *, yes: bool = False) -> BaseDisk:
    """Return the cached base, or build it.

    Args:
        pinned: the pins.
        yes: install missing tools without asking.

    Raises:
        MissingRequirementError: the host lacks a tool.
        StorageError: there is too little space.
        MachineError: the build failed.
    """
    if dry_run.active():
        return _log_dry_run(pinned)
    # Two runs never build the same base.
    with locks.held(bases() / ".lock", "another run is building the base; waiting for it"):
        apt.ensure_installed(doctor_checks.TOOLS, yes=yes)
        found = find(pinned)
        if found is not None:
            return found
        checks.apply_fixes([checks.Phase.MACHINE], yes=yes)
        _require_emulation()
        with durations.announced("the machine's first disk", "machine.create"):
            return _build(pinned)


def _log_dry_run(pinned: pins.Pins) -> BaseDisk:
    """Log the commands that build the base, unless it is cached.

    Returns:
        The base, which may not exist.
    """
    apt.ensure_installed(doctor_checks.TOOLS, yes=True)
    if found := find(pinned):
        return found
    checks.apply_fixes([checks.Phase.MACHINE], yes=True)
    work = bases() / ".making"
    release = debian.release(Architecture.here())
    emulator = debian.unpack_command(
        release, debian.listed(RECIPE / "emulator"), work / "emulator-root"
    )
    package = _go_packages(pinned)[0]
    system = system_command(debian.release(Architecture.RISCV64), package, work / "root")
    for command in (emulator, system, *_disk_commands(work)):
        log(f"would run: {process.show(command)}")
    final = BaseDisk(bases() / recipe_hash(pinned))
    log(f"would store the base in {final.path}/")
    return final


def _require_emulation() -> None:
    """Check that the host can execute riscv64 programs."""
    if not binfmt.runs(Platform.RISCV64):
        raise MissingRequirementError(
            "cannot configure Debian's packages: this host cannot execute riscv64 programs",
            "run `invoke doctor --fix --phase machine`",
        )


def system_command(release: debian.DebianRelease, go_package: str, root: Path) -> list[str]:
    """The command that builds the riscv64 system."""
    # The order matters: dpkg applies the last pattern that matches.
    excluded = [
        f"--dpkgopt=path-include={pattern[1:]}"
        if pattern.startswith("!")
        else f"--dpkgopt=path-exclude={pattern}"
        for pattern in debian.listed(RECIPE / "excluded")
    ]
    return [
        *debian.mmdebstrap(
            "--arch=riscv64", "--variant=minbase",
            f"--include={','.join([*debian.listed(RECIPE / 'packages'), go_package])}",
            "--dpkgopt=force-unsafe-io", *excluded,
            *(f"--{kind}-hook={RECIPE}/{kind}-hook" for kind in ("setup", "essential", "customize")),
        ),
        debian.SUITE, str(root), release.source(),
        # A testing suite's Release file may have expired.
        debian.source(release.archive, GO_SUITE, " check-valid-until=no"),
    ]  # fmt: skip


def _build(pinned: pins.Pins) -> BaseDisk:
    for leftover in bases().glob(".making-*"):
        _discard(leftover)
    filesystem.require_space(
        bases(), doctor_checks.NEEDED_BYTES, "building the base takes", project.CACHE_HINT
    )
    final = BaseDisk(bases() / recipe_hash(pinned))
    work = Path(tempfile.mkdtemp(prefix=".making-", dir=bases()))
    work.chmod(0o755)
    log(
        f"building the base once, Debian {debian.SUITE} for riscv64 from {debian.mirror()}:"
        f" takes minutes; stored in {final.path}"
    )
    try:
        with step("unpacking qemu"):
            _emulator(work)
        with step("unpacking and configuring Debian's packages"):
            _system(pinned, work)
        with step("creating the disk image"):
            raw = work / "base.raw"
            with raw.open("wb") as file:
                file.truncate(BASE_BYTES)
            for command in _disk_commands(work):
                process.run(command, error=MachineError)
            raw.unlink()
            _discard(work / "root")
        (work / dist.SUMS).write_text(BaseDisk(work).sums())
        if final.path.exists():
            shutil.rmtree(final.path)
        work.rename(final.path)
    except OSError as error:
        raise filesystem.failure(error, work) from error
    finally:
        _discard(work)
    return final


def _disk_commands(work: Path) -> list[process.Arguments]:
    """The commands that create the disk image from the system in `work`."""
    raw = work / "base.raw"
    # Not in an mmdebstrap hook: /proc is mounted there and would be copied.
    return [
        [*process.as_root(), "mke2fs", "-q", "-F", "-t", "ext4", "-L", "root", "-m", "0",
         "-E", "assume_storage_prezeroed=1,lazy_itable_init=1", "-d", work / "root", raw],
        ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, work / "base.qcow2"],
    ]  # fmt: skip


def _go_packages(pinned: pins.Pins) -> tuple[str, str]:
    """Debian's packages that provide the pinned Go, the preferred one first.

    Debian's next release may no longer have the pinned Go. Stable's Go then
    fetches it through the module proxy. apt fails at once when a package is missing.
    """
    minor = ".".join(pinned.go.split(".")[:2])
    return f"golang-{minor}-go", "golang-go"


def _emulator(work: Path) -> None:
    """Extract qemu, its libraries and its firmware from Debian's packages.

    Every host runs the same qemu, the version that machines are tested with.
    """
    root = work / "emulator-root"
    release = debian.release(Architecture.here())
    command = debian.unpack_command(release, debian.listed(RECIPE / "emulator"), root)
    code, output = _mmdebstrap(command, process.environment({"TMPDIR": str(work)}))
    if code:
        raise _failure(code, output)
    program = root / "usr/bin" / PROGRAM
    libraries = next(root.glob("usr/lib/*/libc.so.6")).parent
    loader = next(libraries.glob("ld-linux*"))
    linked = process.read(
        [loader, "--library-path", libraries, "--list", program], error=MachineError
    )
    # "libz.so.1 => /…/libz.so.1 (0x00007f…)"
    needed = map(Path, re.findall(r" => (.+) \(0x", linked))
    directory = work / EMULATOR_DIRECTORY
    directory.mkdir()
    shutil.copy(loader, directory / LOADER)
    for path in (program, root / "usr/share/qemu" / FIRMWARE, *needed):
        shutil.copy(path, directory)
    _discard(root)
    version = process.read([*BaseDisk(work).emulator, "--version"], error=MachineError)
    log(f"  {version.splitlines()[0]}")


def _system(pinned: pins.Pins, work: Path) -> None:
    """Build the riscv64 system; write mmdebstrap.log."""
    release = debian.release(Architecture.RISCV64)
    env = process.environment(
        {
            "DEBIAN_FRONTEND": "noninteractive",
            "TMPDIR": str(work),
            "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin",
            "RECIPE": str(RECIPE),
            "OUTPUT": str(work),
            "GO": pinned.go,
            "MIRROR": release.archive,
            "SUITE": release.suite,
        }
    )
    for package in _go_packages(pinned):
        code, output = _mmdebstrap(system_command(release, package, work / "root"), env)
        (work / "mmdebstrap.log").write_text("\n".join(output) + "\n")
        if not any(
            f"{package}' has no installation candidate" in line or f"package {package}" in line
            for line in output
        ):
            break
    if code:
        raise _failure(code, output)


def _mmdebstrap(command: process.Arguments, env: dict[str, str]) -> tuple[int, list[str]]:
    """Run mmdebstrap; return its exit code and output."""
    output: list[str] = []

    def on_line(line: str) -> None:
        output.append(line)
        # mmdebstrap's steps: "I: extracting archives...".
        if line.startswith("I: ") and line.endswith("..."):
            log(f"  {line.removeprefix('I: ')}")

    return process.stream(command, on_line, env=env), output


def _failure(code: int, output: list[str]) -> MachineError | StorageError:
    """The error for a failed mmdebstrap."""
    for line in output[-25:]:
        log(f"  {line}")
    # "no space left" is dpkg's message; apt checks before it writes.
    if re.search("no space left|enough free space", "\n".join(output), re.IGNORECASE):
        return StorageError(f"no space left in {bases()}", "free some space and run it again")
    reasons = [line for line in output if line.startswith(("E:", "W: ", "mke2fs", "error"))]
    return MachineError(
        f"mmdebstrap failed ({process.describe_exit(code)}): {(reasons or output or ['?'])[-1]}",
        "see the output above; check the network, or run `invoke doctor --phase machine`",
    )


def _discard(directory: Path) -> None:
    """Delete partial output as root, except mounted file systems."""
    if directory.exists():
        process.run([*process.as_root(), "rm", "-rf", "--one-file-system", directory])
