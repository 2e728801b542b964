"""The disk that all emulated machines start from: Debian for riscv64.

It is made from Debian's packages, once for each recipe, and kept in the user's
cache under the recipe's hash. A base that is there is whole: it is made aside
and renamed, and its hashes are checked before a machine is created from it.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import apt, binfmt, debian, digests, dist, doctor, locks, pins, process, project, storage
from ..arch import Architecture, Platform
from ..console import say, step
from ..errors import MachineError, MissingRequirementError, StorageError

RECIPE = Path(__file__).parent / "recipe"
#: Where the pinned Go comes from, when Debian's next release has it.
GO_SUITE = "forky"
#: The file system before it grows to its machine's disk.
BASE_BYTES = 3 << 30
#: What making it takes, at most: packages, unpacked packages, raw and final image.
NEEDED_BYTES = 6 << 30
FILES = ("base.qcow2", "kernel", "initrd", "ca-certificates.crt", "packages.tsv")
#: Of qemu: the program, its libraries, its firmware.
EMULATOR_FOLDER = "emulator"
PROGRAM = "qemu-system-riscv64"
#: So that ps and pgrep, which see the first 15 letters, show qemu.
LOADER = f"{PROGRAM}-loader"
FIRMWARE = "opensbi-riscv64-generic-fw_dynamic.bin"

#: Commands that make or run a machine.
TOOLS = (
    "arch-test", "cpio", "depmod", "mke2fs", "mmdebstrap", "qemu-img", "rsync", "ssh", "xz",
)  # fmt: skip


@dataclass(frozen=True)
class Base:
    """A finished base.

    Args:
        path: its folder.
    """

    path: Path

    @property
    def disk(self) -> Path:
        """The qcow2 image that machines' disks are laid over."""
        return self.path / "base.qcow2"

    @property
    def kernel(self) -> Path:
        """The kernel that qemu loads."""
        return self.path / "kernel"

    @property
    def initrd(self) -> Path:
        """The initrd, to which each machine adds its identity."""
        return self.path / "initrd"

    @property
    def certificates(self) -> Path:
        """Debian's bundle of CA certificates."""
        return self.path / "ca-certificates.crt"

    @property
    def emulator(self) -> list[str]:
        """The command that starts the base's own qemu; the host's C library may be older."""
        folder = self.path / EMULATOR_FOLDER
        return [
            str(folder / LOADER), "--library-path", str(folder),
            str(folder / PROGRAM), "-L", str(folder),
        ]  # fmt: skip

    def sums(self) -> str:
        """The hashes of its files, as they are now.

        Raises:
            OSError: one cannot be read.
        """
        emulator = sorted(
            f"{EMULATOR_FOLDER}/{p.name}" for p in (self.path / EMULATOR_FOLDER).iterdir()
        )
        return dist.sums(dist.record(self.path, (*FILES, *emulator)))


def bases() -> Path:
    """Where bases are kept."""
    return project.cache() / "bases"


def recipe_hash(pinned: pins.Pins) -> str:
    """The hash of everything that decides what a base is, but for Debian's own updates."""
    besides = f"{debian.SUITE} {GO_SUITE} {pinned.go} {BASE_BYTES}"
    return digests.of_folder(RECIPE, besides)[:16]


def find(pinned: pins.Pins) -> Base | None:
    """The base in the cache, if its files are what they were when it was made."""
    base = Base(bases() / recipe_hash(pinned))
    if not base.path.is_dir():
        return None
    try:
        if (base.path / dist.SUMS).read_text() == base.sums():
            return base
    except (OSError, ValueError):  # ValueError: no text at all
        pass
    say(f"the base in {base.path} is damaged: making it anew")
    return None


def ensure(pinned: pins.Pins, *, yes: bool = False) -> Base:
    """The base: from the cache, or made now.

    Args:
        pinned: what is pinned.
        yes: install what is missing without asking.

    Raises:
        MissingRequirementError: the host lacks a tool.
        StorageError: there is too little space.
        MachineError: it could not be made.
    """
    # Two runs never make the same base.
    with locks.held(bases() / ".lock", "another run is making the base; waiting for it"):
        apt.provide(TOOLS, yes=yes)
        found = find(pinned)
        if found is not None:
            return found
        doctor.mend([doctor.Phase.MACHINE], yes=yes)
        _require_emulation()
        return _make(pinned)


def _require_emulation() -> None:
    """Refuse a host that cannot execute riscv64 programs.

    Raises:
        MissingRequirementError: no emulator is registered.
    """
    if not binfmt.runs(Platform.RISCV64):
        raise MissingRequirementError(
            "this machine cannot execute riscv64 programs, which configure Debian's packages",
            "run `invoke doctor --fix --phase machine`",
        )


def _command(*options: str) -> list[str]:
    """The mmdebstrap command, up to the suite."""
    return [
        *process.as_root(),
        # mmdebstrap mounts /proc, /sys and /dev in the new root. In a namespace of
        # its own they are gone with it, however it ends.
        "unshare", "--mount", "mmdebstrap", "--mode=root", *options,
        '--aptopt=Acquire::Languages "none"', '--aptopt=APT::Install-Recommends "false"',
        '--aptopt=Acquire::Retries "3"',
    ]  # fmt: skip


def system_command(release: debian.Release, go_package: str, root: Path) -> list[str]:
    """The command that makes the riscv64 system."""
    # In this order: dpkg lets the last pattern that fits decide.
    excluded = [
        f"--dpkgopt=path-include={pattern[1:]}"
        if pattern.startswith("!")
        else f"--dpkgopt=path-exclude={pattern}"
        for pattern in debian.listed(RECIPE / "excluded")
    ]
    return [
        *_command(
            "--arch=riscv64", "--variant=minbase",
            f"--include={','.join([*debian.listed(RECIPE / 'packages'), go_package])}",
            "--dpkgopt=force-unsafe-io", *excluded,
            *(f"--{kind}-hook={RECIPE}/{kind}-hook" for kind in ("setup", "essential", "customize")),
        ),
        debian.SUITE, str(root), release.source(),
        # A suite that moves: its Release file may be older than it says it can be.
        debian.source(release.archive, GO_SUITE, " check-valid-until=no"),
    ]  # fmt: skip


def unpack_command(release: debian.Release, packages: Sequence[str], root: Path) -> list[str]:
    """The command that unpacks packages for this host, and configures nothing."""
    return [
        *_command("--variant=extract", f"--include={','.join(packages)}"),
        debian.SUITE, str(root), release.source(),
    ]  # fmt: skip


def _make(pinned: pins.Pins) -> Base:
    for leftover in bases().glob(".making-*"):
        _discard(leftover)
    storage.require_space(bases(), NEEDED_BYTES, "making the base takes", project.CACHE_HINT)
    final = Base(bases() / recipe_hash(pinned))
    work = Path(tempfile.mkdtemp(prefix=".making-", dir=bases()))
    work.chmod(0o755)
    say(
        f"Debian {debian.SUITE} for riscv64 from {debian.mirror()}, once: takes minutes,"
        f" and is kept in {final.path}"
    )
    try:
        with step("unpacking qemu"):
            _emulator(work)
        with step("unpacking and configuring Debian's packages"):
            _system(pinned, work)
        with step("making the disk image"):
            raw = work / "base.raw"
            with raw.open("wb") as file:
                file.truncate(BASE_BYTES)
            # Not in a hook: /proc is mounted there, and would be copied.
            process.run(
                [*process.as_root(), "mke2fs", "-q", "-F", "-t", "ext4", "-L", "root", "-m", "0",
                 "-E", "assume_storage_prezeroed=1,lazy_itable_init=1", "-d", work / "root", raw],
                error=MachineError,
            )  # fmt: skip
            process.run(
                ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, work / "base.qcow2"],
                error=MachineError,
            )  # fmt: skip
            raw.unlink()
            _discard(work / "root")
        (work / dist.SUMS).write_text(Base(work).sums())
        if final.path.exists():
            shutil.rmtree(final.path)
        work.rename(final.path)
    except OSError as error:
        raise storage.failure(error, work) from error
    finally:
        _discard(work)
    return final


def _emulator(work: Path) -> None:
    """Take qemu out of its packages, with the libraries and the firmware that it loads.

    Every host gets the same, whatever its release: the one that machines are tested with.
    """
    root = work / "emulator-root"
    release = debian.release(Architecture.here())
    command = unpack_command(release, debian.listed(RECIPE / "emulator"), root)
    code, said = _mmdebstrap(command, process.environment({"TMPDIR": str(work)}))
    if code:
        raise _failed(code, said)
    program = root / "usr/bin" / PROGRAM
    libraries = next(root.glob("usr/lib/*/libc.so.6")).parent
    loader = next(libraries.glob("ld-linux*"))
    linked = process.read(
        [loader, "--library-path", libraries, "--list", program], error=MachineError
    )
    # "libz.so.1 => /…/libz.so.1 (0x00007f…)"
    needed = map(Path, re.findall(r" => (.+) \(0x", linked))
    folder = work / EMULATOR_FOLDER
    folder.mkdir()
    shutil.copy(loader, folder / LOADER)
    for path in (program, root / "usr/share/qemu" / FIRMWARE, *needed):
        shutil.copy(path, folder)
    _discard(root)
    version = process.read([*Base(work).emulator, "--version"], error=MachineError)
    say(f"  {version.splitlines()[0]}")


def _system(pinned: pins.Pins, work: Path) -> None:
    """Make the riscv64 system, and keep what mmdebstrap says."""
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
    # Debian's next release has moved on from the pinned Go, or will: its stable
    # Go fetches that through the module proxy. apt says at once when it has none.
    minor = ".".join(pinned.go.split(".")[:2])
    for package in (f"golang-{minor}-go", "golang-go"):
        code, said = _mmdebstrap(system_command(release, package, work / "root"), env)
        (work / "mmdebstrap.log").write_text("\n".join(said) + "\n")
        if not any(
            f"{package}' has no installation candidate" in s or f"package {package}" in s
            for s in said
        ):
            break
    if code:
        raise _failed(code, said)


def _mmdebstrap(command: process.Arguments, env: dict[str, str]) -> tuple[int, list[str]]:
    """Run mmdebstrap; its exit code, and what it said."""
    said: list[str] = []

    def on_line(line: str) -> None:
        said.append(line)
        # "I: extracting archives...": mmdebstrap's own steps.
        if line.startswith("I: ") and line.endswith("..."):
            say(f"  {line.removeprefix('I: ')}")

    return process.stream(command, on_line, env=env), said


def _failed(code: int, said: list[str]) -> MachineError | StorageError:
    """Why mmdebstrap failed."""
    for line in said[-25:]:
        say(f"  {line}")
    # dpkg and others write until it is full; apt looks first.
    if re.search("no space left|enough free space", "\n".join(said), re.IGNORECASE):
        return StorageError(f"no space left in {bases()}", "free some space and run it again")
    reasons = [line for line in said if line.startswith(("E:", "W: ", "mke2fs", "error"))]
    return MachineError(
        f"mmdebstrap failed ({process.describe_exit(code)}): {(reasons or said or ['?'])[-1]}",
        "its last lines are above; check the network, or `invoke doctor --phase machine`",
    )


def _discard(folder: Path) -> None:
    """Remove what is half-made, as the one who unpacked it; never what is mounted below it."""
    if folder.exists():
        process.run([*process.as_root(), "rm", "-rf", "--one-file-system", folder])
