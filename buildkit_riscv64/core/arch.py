"""Architectures, platforms and targets: the only module with their spellings."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from enum import StrEnum

from .errors import UsageError

#: The kernel's names of architectures where they differ from Go's; also qemu's and Python's.
_UNAMES = {"amd64": "x86_64", "arm64": "aarch64"}


class Architecture(StrEnum):
    """An architecture, by its name in Go and OCI."""

    AMD64 = "amd64"
    ARM64 = "arm64"
    RISCV64 = "riscv64"

    @property
    def uname(self) -> str:
        """The kernel's name, as `uname -m` prints it; also qemu's and Python's."""
        return _UNAMES.get(self, self.value)

    @property
    def elf_machine(self) -> str:
        """`e_machine` of ELF files, as pyelftools spells it."""
        return {"amd64": "EM_X86_64", "arm64": "EM_AARCH64", "riscv64": "EM_RISCV"}[self]

    @property
    def level_variable(self) -> str:
        """The Go variable that selects the instruction set level.

        See https://go.dev/doc/install/source#environment.
        """
        return {"amd64": "GOAMD64", "arm64": "GOARM64", "riscv64": "GORISCV64"}[self]

    @property
    def default_level(self) -> str:
        """The instruction set level that Go compiles for by default."""
        return {"amd64": "v1", "arm64": "v8.0", "riscv64": "rva20u64"}[self]

    @classmethod
    def from_uname(cls, machine: str) -> Architecture:
        """The architecture of a `uname -m`.

        Raises:
            UsageError: this project does not build on that architecture.
        """
        for architecture in cls:
            if architecture.uname == machine:
                return architecture
        raise UsageError(
            f"machine architecture {machine!r} is not supported",
            f"use one of: {', '.join(a.uname for a in cls)}",
        )

    @classmethod
    def here(cls) -> Architecture:
        """The architecture of this process."""
        return cls.from_uname(platform.machine())


class Platform(StrEnum):
    """A platform of images, by its name in OCI and `--platform`.

    BuildKit runs on an :class:`Architecture`; it builds images for any of these platforms.
    """

    AMD64 = "linux/amd64"
    ARM64 = "linux/arm64"
    ARM = "linux/arm/v7"
    PPC64LE = "linux/ppc64le"
    RISCV64 = "linux/riscv64"
    S390X = "linux/s390x"

    @property
    def architecture(self) -> str:
        """OCI's name of the architecture; also Go's."""
        return self.split("/")[1]

    @property
    def variant(self) -> str:
        """OCI's name of the architecture's variant, or an empty string."""
        return "".join(self.split("/")[2:])

    @property
    def debian(self) -> str:
        """Debian's name of the architecture."""
        return {"arm": "armhf", "ppc64le": "ppc64el"}.get(self.architecture, self.architecture)

    @property
    def qemu(self) -> str:
        """QEMU's name of the architecture, as in `qemu-aarch64`."""
        return _UNAMES.get(self.architecture, self.architecture)

    @property
    def uname(self) -> str:
        """The output of `uname -m` on this platform."""
        return "armv7l" if self is Platform.ARM else self.qemu

    @property
    def binfmt(self) -> str:
        """The name under which Debian registers the emulator."""
        return f"qemu-{self.qemu}"

    @classmethod
    def here(cls) -> Platform:
        """The platform of this process."""
        return cls(f"linux/{Architecture.here()}")


# https://github.com/riscv/riscv-profiles; Go has known rva23u64 since 1.25.
RISCV_PROFILES = ("rva20u64", "rva22u64", "rva23u64")


@dataclass(frozen=True)
class Target:
    """A target of artifacts: Linux, an architecture, an instruction set level.

    Args:
        arch: the architecture.
        level: an instruction set level above Go's default, as in `rva22u64`;
            empty for the default.
        pgo: compiled with a profile.
    """

    arch: Architecture
    level: str = ""
    pgo: bool = False

    @property
    def name(self) -> str:
        """The name, as in `linux-riscv64`, `linux-riscv64-rva22u64` or `linux-amd64-pgo`."""
        level = f"-{self.level}" if self.level else ""
        return f"linux-{self.arch}{level}{'-pgo' if self.pgo else ''}"

    @property
    def default(self) -> bool:
        """True for a target that runs on every machine of the architecture and uses no profile."""
        return not self.level and not self.pgo

    @classmethod
    def parse(cls, name: str) -> Target:
        """The target with this name.

        Raises:
            UsageError: no target has this name.
        """
        pgo = name.endswith("-pgo")
        match name.removesuffix("-pgo").split("-"):
            case ["linux", arch] if arch in list(Architecture):
                return cls(Architecture(arch), pgo=pgo)
            case ["linux", "riscv64", level] if level in RISCV_PROFILES[1:]:
                return cls(Architecture.RISCV64, level, pgo)
        raise UsageError(
            f"{name!r} is not a target", "give one like linux-riscv64 or linux-riscv64-rva22u64"
        )

    @classmethod
    def here(cls, goriscv64: str = "", *, pgo: bool = False) -> Target:
        """The target of a build on this machine.

        Args:
            goriscv64: a RISC-V profile; empty for Go's default.
            pgo: compile with profile-guided optimization.

        Raises:
            UsageError: unknown RISC-V profile, or this machine is not RISC-V.
        """
        arch = Architecture.here()
        if not goriscv64:
            return cls(arch, pgo=pgo)
        if goriscv64 not in RISCV_PROFILES:
            raise UsageError(
                f"{goriscv64!r} is not a RISC-V profile", f"one of: {', '.join(RISCV_PROFILES)}"
            )
        if arch is not Architecture.RISCV64:
            raise UsageError(
                f"--goriscv64 is for RISC-V, and this machine is {arch}", "leave --goriscv64 out"
            )
        return cls(arch, "" if goriscv64 == arch.default_level else goriscv64, pgo)

    def go_level(self) -> dict[str, str]:
        """The environment that makes Go compile for this level."""
        return {self.arch.level_variable: self.level} if self.level else {}
