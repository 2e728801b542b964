from __future__ import annotations

from collections.abc import Callable

import pytest

from buildkit_riscv64.core.arch import Architecture, Platform, Target
from buildkit_riscv64.core.errors import UsageError


@pytest.mark.parametrize(
    ("machine", "go", "elf", "level"),
    [
        ("x86_64", "amd64", "EM_X86_64", ("GOAMD64", "v1")),
        ("aarch64", "arm64", "EM_AARCH64", ("GOARM64", "v8.0")),
        ("riscv64", "riscv64", "EM_RISCV", ("GORISCV64", "rva20u64")),
    ],
)
def test_spellings(machine: str, go: str, elf: str, level: tuple[str, str]) -> None:
    arch = Architecture.from_uname(machine)
    assert str(arch) == go
    assert arch.uname == machine
    assert arch.elf_machine == elf
    assert (arch.level_variable, arch.default_level) == level


@pytest.mark.parametrize(
    ("name", "oci", "debian", "uname", "binfmt"),
    [
        ("linux/amd64", ("amd64", ""), "amd64", "x86_64", "qemu-x86_64"),
        ("linux/arm64", ("arm64", ""), "arm64", "aarch64", "qemu-aarch64"),
        ("linux/arm/v7", ("arm", "v7"), "armhf", "armv7l", "qemu-arm"),
        ("linux/ppc64le", ("ppc64le", ""), "ppc64el", "ppc64le", "qemu-ppc64le"),
        ("linux/riscv64", ("riscv64", ""), "riscv64", "riscv64", "qemu-riscv64"),
        ("linux/s390x", ("s390x", ""), "s390x", "s390x", "qemu-s390x"),
    ],
)
def test_platforms(name: str, oci: tuple[str, str], debian: str, uname: str, binfmt: str) -> None:
    platform = Platform(name)
    assert (platform.architecture, platform.variant) == oci
    assert (platform.debian, platform.uname, platform.binfmt) == (debian, uname, binfmt)


@pytest.mark.parametrize("arch", Architecture)
def test_each_architecture_is_a_platform(arch: Architecture, on: Callable[[str], None]) -> None:
    on(arch.uname)
    platform = Platform.here()
    assert (platform.architecture, platform.qemu) == (arch, arch.uname)


@pytest.mark.parametrize("machine", ["i686", "armv7l", "amd64", "", "riscv32"])
def test_unsupported_machines(machine: str) -> None:
    with pytest.raises(UsageError, match=f"'{machine}'"):
        Architecture.from_uname(machine)


@pytest.mark.parametrize(
    "name",
    [
        "linux-amd64",
        "linux-arm64",
        "linux-riscv64",
        "linux-riscv64-rva22u64",
        "linux-riscv64-rva23u64",
        "linux-amd64-pgo",
        "linux-riscv64-rva22u64-pgo",
    ],
)
def test_targets_round_trip(name: str) -> None:
    assert Target.parse(name).name == name


@pytest.mark.parametrize(
    "name",
    [
        "", "linux", "linux-", "linux-mips", "darwin-arm64", "linux-amd64-v3", "linux-riscv64-",
        "linux-riscv64-rva20u64", "linux-riscv64-rva22u64-x", "../linux-amd64",
        "linux-pgo", "linux-amd64-pgo-pgo", "linux-riscv64-pgo-rva22u64", "-pgo", "LINUX-amd64",
    ],
)  # fmt: skip
def test_invalid_targets(name: str) -> None:
    with pytest.raises(UsageError, match=f"'{name}'"):
        Target.parse(name)


@pytest.mark.parametrize("profile", ["", "rva20u64"])
def test_the_baseline_has_no_suffix(profile: str, on: Callable[[str], None]) -> None:
    on("riscv64")
    target = Target.here(profile)
    assert target.name == "linux-riscv64"
    assert target.go_level() == {}


@pytest.mark.parametrize("profile", ["rva22u64", "rva23u64"])
def test_a_profile_sets_name_and_environment(profile: str, on: Callable[[str], None]) -> None:
    on("riscv64")
    target = Target.here(profile)
    assert target.name == f"linux-riscv64-{profile}"
    assert target.go_level() == {"GORISCV64": profile}


def test_unknown_profile(on: Callable[[str], None]) -> None:
    on("riscv64")
    with pytest.raises(UsageError, match="'rv64gc'"):
        Target.here("rv64gc")


def test_a_profile_needs_riscv(on: Callable[[str], None]) -> None:
    on("x86_64")
    with pytest.raises(UsageError, match=r"--goriscv64.*\bamd64\b"):
        Target.here("rva22u64")
