"""The tasks of phase 1."""

from __future__ import annotations

from typing import Any

from ..cli import NOTHING, TARGET, VERBOSE, YES, command


@command(
    changes="dist/TARGET/, Go's caches; installs missing packages",
    help={
        "source": "auto (the submodule if it has been fetched, else the module), submodule,"
        " module, or the path of a BuildKit checkout. Default: auto, unless configured.",
        "goriscv64": "Compile for a RISC-V profile that your board has: rva22u64 (BananaPi F3)"
        " or rva23u64. Named so in dist/. Default: rva20u64, which runs everywhere.",
        "method": "go compiles with the pinned Go; make runs upstream's `make binaries` in docker."
        " Default: go, unless configured.",
        "pgo": "A CPU profile of buildkitd (pprof) for the compiler; `invoke benchmark --profile`"
        " records one. Named so in dist/.",
        "bundle": "Also build the programs that the commands run, as upstream pins them: buildkit-runc,"
        " buildkit-cni-* and rootlesskit. Needs gcc and libseccomp-dev.",
        "allow-dirty": "Build a checkout with local changes; marked .m, never released.",
        "force": "Build even if nothing has changed.",
        "yes": YES,
        "json": "Print the manifest as JSON on stdout.",
    },
)
def build_binaries(
    context: Any,
    source: str = "",
    goriscv64: str = "",
    method: str = "",
    pgo: str = "",
    bundle: bool = False,
    allow_dirty: bool = False,
    force: bool = False,
    yes: bool = False,
    json: bool = False,
) -> None:
    """Compile buildkitd and buildctl on this machine, for this machine.

    Creates dist/linux-ARCH/ with the two commands, a tarball, SBOMs, provenance,
    a manifest and SHA256SUMS, and checks them before it replaces the previous
    build. Does nothing when nothing has changed. You can interrupt it at any
    time: the next run continues with the finished compilations.

    --bundle adds the other programs of upstream's tarball, except emulators.
    Adding it later keeps the commands, their image and their evidence.

    Only a build on riscv64 can be released. On amd64 and arm64 it makes
    development builds of those architectures.
    """
    from ..core import config
    from . import report
    from .build import BuildOptions, build

    settings = config.read(context.config)
    options = BuildOptions.parse(
        source=source or settings.source,
        goriscv64=goriscv64 or settings.goriscv64,
        method=method or settings.via,
        pgo=pgo,
        bundle=bundle or settings.bundle,
        allow_dirty=allow_dirty,
        force=force,
        yes=yes or settings.yes,
    )
    outcome = build(options)
    report.built(outcome, json=json)


@command(
    changes=NOTHING,
    help={
        "target": f"{TARGET} Default: all in dist/.",
        "verbose": VERBOSE,
        "json": "Print the findings as JSON on stdout.",
    },
)
def check_binaries(
    context: Any, target: str = "", verbose: bool = False, json: bool = False
) -> None:
    """Check the binaries in dist/: complete, static, native, versioned, running.

    Binaries of another architecture are checked too, but not run. Exit code 7
    if a check fails.
    """
    from ..core import check_results
    from . import check

    check_results.report(check.examine_all(target), check.REMEDY, json=json, verbose=verbose)


@command(
    changes="dist/TARGET/cross-check.json (with --cross-check), Go's caches",
    help={
        "rebuild": "Compile again without caches in another directory, on the same architecture.",
        "cross-check": "Compile on another architecture, compare, delete the result;"
        " writes dist/TARGET/cross-check.json.",
        "target": f"{TARGET} Default: all in dist/ that this machine can verify in this way.",
        "json": "Print the verdicts as JSON on stdout.",
    },
)
def verify_binaries(
    context: Any,
    rebuild: bool = False,
    cross_check: bool = False,
    target: str = "",
    json: bool = False,
) -> None:
    """Prove that the binaries come from the source: compile again and compare.

    The same Go compiles the same source to the same bytes on every machine, so
    anyone can verify a native artifact. Exit code 8 if a byte differs.
    """
    from . import report, verify

    report.verified(verify.main(target, rebuild=rebuild, cross_check=cross_check), json=json)
