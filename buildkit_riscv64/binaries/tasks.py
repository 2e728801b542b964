"""The tasks of phase 1."""

from __future__ import annotations

from typing import Any

from ..cli import TARGET, YES, command


@command(
    help={
        "source": "auto (the submodule if it has been fetched, else the module), submodule,"
        " module, or the path of a BuildKit checkout.",
        "goriscv64": "Compile for a RISC-V profile that your board has: rva22u64 (BananaPi F3)"
        " or rva23u64. Named so in dist/. Default: rva20u64, which runs everywhere.",
        "via": "go compiles with the pinned Go; make runs upstream's `make binaries` in docker.",
        "pgo": "A CPU profile of buildkitd (pprof) for the compiler; `invoke benchmark --profile`"
        " records one. Named so in dist/.",
        "bundle": "Also what the commands run, in the versions that upstream pins: buildkit-runc,"
        " buildkit-cni-* and rootlesskit. Needs gcc and libseccomp-dev.",
        "allow-dirty": "Build a checkout with local changes; stamped .m, and never released.",
        "force": "Build even if nothing has changed.",
        "yes": YES,
        "json": "Print the manifest as JSON on stdout.",
    }
)
def build_binaries(
    context: Any,
    source: str = "",
    goriscv64: str = "",
    via: str = "",
    pgo: str = "",
    bundle: bool = False,
    allow_dirty: bool = False,
    force: bool = False,
    yes: bool = False,
    json: bool = False,
) -> None:
    """Compile buildkitd and buildctl on this machine, for this machine.

    Makes dist/linux-ARCH/ with the two commands, a tarball, SBOMs, provenance,
    a manifest and SHA256SUMS; checks them; and only then replaces what was
    there. Does nothing when nothing has changed. May be interrupted at any
    time: the next run goes on with what the compiler had finished.

    --bundle adds to them what upstream's tarball has, but for emulators. Added
    later, it leaves the commands as they are, and their image and evidence.

    Only a build on riscv64 can be released. On amd64 and arm64 it makes
    development builds of those architectures.
    """
    from .. import config
    from . import report
    from .build import Options, build

    settings = config.read(context.config)
    options = Options.parse(
        source=source or settings.source,
        goriscv64=goriscv64 or settings.goriscv64,
        via=via or settings.via,
        pgo=pgo,
        bundle=bundle or settings.bundle,
        allow_dirty=allow_dirty,
        force=force,
        yes=yes or settings.yes,
        dry=settings.dry,
    )
    outcome = build(options)
    report.built(outcome, json=json)


@command(
    help={
        "target": f"{TARGET} Default: all in dist/.",
        "json": "Print the findings as JSON on stdout.",
    }
)
def check_binaries(context: Any, target: str = "", json: bool = False) -> None:
    """Check what lies in dist/: complete, static, native, stamped, and it runs.

    Binaries of another architecture are checked too, but not run. Exit code 7
    when anything is refused.
    """
    from .. import findings
    from . import check

    findings.report(check.examine_all(target), check.REMEDY, json=json)


@command(
    help={
        "rebuild": "Compile again from nothing in another folder, on the same architecture.",
        "cross-check": "Compile on another architecture, compare, throw it away;"
        " writes dist/TARGET/cross-check.json.",
        "target": f"{TARGET} Default: all in dist/ that this machine can verify so.",
        "json": "Print the verdicts as JSON on stdout.",
    }
)
def verify_binaries(
    context: Any,
    rebuild: bool = False,
    cross_check: bool = False,
    target: str = "",
    json: bool = False,
) -> None:
    """Prove that the binaries come from the source: compile again and compare.

    The same Go makes the same bytes of the same source, wherever it runs. So
    anybody can check a native artifact, on any machine. Exit code 8 when a
    byte differs.
    """
    from . import report, verify

    report.verified(verify.main(target, rebuild=rebuild, cross_check=cross_check), json=json)


@command(help={"json": "Print it as JSON on stdout."})
def source_show(context: Any, json: bool = False) -> None:
    """Show what is pinned, and which source a build would take."""
    from . import report, update

    report.pinned(update.show(), json=json)


@command(
    positional=["version"],
    help={"version": "An upstream release tag, as in v0.32.2."},
)
def source_update(context: Any, version: str) -> None:
    """Move the pins to another upstream release: commit, module and hashes together.

    Asks upstream's repository for the tag's commit and the module proxy for the
    module, then writes pins.toml, go.mod and go.sum in upstream/, and the
    submodule's commit. What the bundle is made of moves to what upstream's
    Dockerfile pins at that tag. Commit the result.
    """
    from .. import config
    from . import update

    update.update(version, dry=config.read(context.config).dry)


@command(
    name="update-go",
    positional=["version"],
    help={"version": "A release of Go, as in 1.26.11."},
)
def source_update_go(context: Any, version: str) -> None:
    """Move the pin of Go, which compiles everything, to another release.

    Has the toolchains of the pinned platforms fetched and checked against Go's
    checksum database, then writes version and hashes to pins.toml. Commit the
    result.
    """
    from .. import config
    from . import update_go

    update_go.update(version, dry=config.read(context.config).dry)
