"""Tasks of no phase: `doctor` and `test`."""

from __future__ import annotations

from typing import Any

from .cli import YES, command


@command(
    changes="nothing; with --fix, installs packages and registers emulators",
    help={
        "phase": "Check only for this phase: binaries, image, validation, automation, machine"
        " (the emulated riscv64 machine) or test (our own tests). Default: the first four.",
        "fix": "First fix the problems that can be fixed: install packages, after a question.",
        "yes": "With --fix: do not ask. Implied where CI is set.",
        "json": "Print verdicts and findings as JSON on stdout.",
    },
)
def doctor(
    context: Any, phase: str = "", fix: bool = False, yes: bool = False, json: bool = False
) -> None:
    """Check this machine for the requirements of each phase.

    Prints the phases that this machine is ready for, then each problem with its
    fix. FAIL: the phase cannot work. WARN: a task is slower, or an option is
    missing. Checks without a problem come last. Exit code 12 after a FAIL.
    """
    from . import doctor as doctor_
    from .core import config

    settings = config.read(context.config)
    doctor_.main(phase, fix=fix, yes=yes or settings.yes, json=json)


@command(
    changes="caches of this project; installs missing packages",
    help={
        "session": "Only these nox sessions, separated by commas. `nox` lists them.",
        "all": "Fail with code 3 if this host cannot run every test.",
        "yes": YES,
    },
)
def test(context: Any, session: str = "", all: bool = False, yes: bool = False) -> None:
    """Run the project's tests: format, lint, types, unit and integration tests.

    The task first examines the host. It leaves out tests that the host cannot
    run, such as tests of daemons in an unprivileged container, and logs the
    reasons. The exit code is 0 when all other tests pass. The last lines count
    both.

    The integration tests compile the real upstream from nothing, boot an emulated
    riscv64 machine and validate the artifacts: about 45 minutes on two idle
    cores, longer on a board. `--session unit` takes about three minutes.

    The tests run as root, with sudo if you have it. The task installs missing
    packages: apt-utils, chromium-headless-shell, cpio, createrepo-c, dnf, gcc,
    gh, git, gnupg, iptables, libarchive-tools, libseccomp, lintian, make,
    mmdebstrap, openssl, pkg-config, procps, rpm, rpmlint, rsync, runc, skopeo,
    uidmap, umoci, xz and an ssh server.
    """
    from .core import config
    from .testing.run import Request, run

    settings = config.read(context.config)
    run(Request(sessions=session, all_=all, yes=yes or settings.yes))
