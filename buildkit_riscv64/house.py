"""Tasks that belong to no phase: the state of this machine, and the tests."""

from __future__ import annotations

from typing import Any

from .cli import YES, command

#: Commands that the tests call. A docker engine and a registry they unpack themselves:
#: installed, these would be services on this machine.
NEEDED_BY_TESTS = (
    "apt-ftparchive", "cpio", "createrepo_c", "dnf", "gh", "git", "gpg", "iptables", "lintian",
    "make", "mmdebstrap", "newuidmap", "openssl", "perf", "pgrep", "rpmlint", "rpmsign", "rsync", "runc",
    "skopeo", "sshd", "umoci", "xz",
)  # fmt: skip
#: What the tests open pages in. Debian has none for riscv64; there, nothing is opened.
BROWSER = "chromium-headless-shell"


@command(
    help={
        "phase": "Only what this phase needs: binaries, image, validation, automation,"
        " or machine for the emulated riscv64 machine. Default: all but machine.",
        "fix": "Mend what can be mended: install packages, after a question.",
        "yes": "With --fix: do not ask. Implied where CI is set.",
        "json": "Print the findings as JSON on stdout.",
    }
)
def doctor(
    context: Any, phase: str = "", fix: bool = False, yes: bool = False, json: bool = False
) -> None:
    """Check this machine for what each phase needs.

    Prints OK, WARN or FAIL for each thing, why it matters and how to mend it.
    WARN means that something is slower or an option is missing; FAIL means that
    the phase cannot work. Exit code 12 when anything is FAIL.
    """
    from . import config
    from . import doctor as doctor_

    settings = config.read(context.config)
    doctor_.main(phase, fix=fix, yes=yes or settings.yes, json=json, dry=settings.dry)


@command(
    help={
        "session": "Only these nox sessions, separated by commas. `nox --list` names them.",
        "yes": YES,
    }
)
def test(context: Any, session: str = "", yes: bool = False) -> None:
    """Run the project's tests: format, lint, types, unit and integration tests.

    The integration tests compile the real upstream from nothing and boot an
    emulated riscv64 machine, and then everything is validated: forty minutes on a
    laptop, longer on a board, which has nothing to emulate. `--session unit`
    takes seconds. What is missing is installed: apt-utils,
    chromium-headless-shell, cpio, createrepo-c, dnf, gcc, gh, git, gnupg,
    iptables, libseccomp, lintian, make, mmdebstrap, openssl, pkg-config, procps,
    rpm, rpmlint, rsync, runc, skopeo, uidmap, umoci, xz and an ssh server.
    """
    import sys

    from . import apt, config, pins, process, project
    from .arch import Architecture
    from .binaries import cc, toolchain
    from .errors import CheckError

    settings = config.read(context.config)
    chosen = ["--sessions", *session.split(",")] if session else []
    if not settings.dry:
        browser = () if Architecture.here() is Architecture.RISCV64 else (BROWSER,)
        apt.provide([*NEEDED_BY_TESTS, *browser], yes=yes or settings.yes)
        cc.provide(yes=yes or settings.yes)
        toolchain.ensure(pins.load())
    process.run(
        [sys.executable, "-m", "nox", *chosen], cwd=project.ROOT, dry=settings.dry,
        env=process.whole_environment(), error=CheckError, hint="what failed is above",
    )  # fmt: skip
