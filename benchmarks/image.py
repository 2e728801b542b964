"""The image against the same content on Debian's slim image: sizes, and times.

Without a registry, Debian's slim image is made here of the same packages, and its
documentation and translations are left out as Debian leaves them out of its own.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import report
from benchmarks.measure import Case, Sample, in_turns, keep, run
from buildkit_riscv64 import debian, dist, process, project
from buildkit_riscv64.arch import Target
from buildkit_riscv64.image import check, daemon, layout
from buildkit_riscv64.image.variants import Variant
from tests.integration.miniature import copy_checkout

#: As in Debian's own: https://github.com/debuerreotype/debuerreotype, slimify-excludes.
SLIM = ("doc/*", "info/*", "linda/*", "lintian/overrides/*", "locale/*", "man/*")
#: The most that ours may be of the plain one.
LIMIT = 0.7


def slim(folder: Path) -> tuple[Path, str]:
    """Debian's slim image as a layout, and its digest."""
    root = folder / "slim"
    excluded = [f"--dpkgopt=path-exclude=/usr/share/{pattern}" for pattern in SLIM]
    process.run(
        [
            *process.as_root(), "unshare", "--mount", "mmdebstrap", "--mode=root",
            "--variant=minbase", "--include=ca-certificates", *excluded,
            "--dpkgopt=path-include=/usr/share/doc/*/copyright",
            debian.SUITE, str(root), debian.release(Target.here().arch).source(),
        ]
    )  # fmt: skip
    # As Debian's image has it: apt keeps nothing that the next layer would carry along.
    (root / "etc/apt/apt.conf.d/docker-clean").write_text(
        'Acquire::Languages "none";\nDir::Cache::pkgcache "";\nDir::Cache::srcpkgcache "";\n'
        'DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb"; };\n'
    )
    for name in ("var/lib/apt/lists", "var/cache/apt"):
        process.run([*process.as_root(), "rm", "-rf", root / name])
    return folder / "base", layout.from_folder(root, folder / "base", Target.here().arch)


def plain(folder: Path, binaries: Path) -> dict[Variant, layout.Image]:
    """The plain images, built by the same BuildKit with the same compression."""
    base, digest = slim(folder)
    made = {}
    with daemon.running(binaries, yes=True) as address:
        for variant in Variant:
            output = folder / f"plain-{variant}"
            process.run(
                [
                    binaries / "buildctl", "--addr", address, "build", "--frontend=dockerfile.v0",
                    f"--opt=target={variant}", "--opt=filename=plain.Dockerfile", "--no-cache",
                    f"--opt=context:base=oci-layout://base@{digest}", f"--oci-layout=base={base}",
                    "--opt=context:binaries=local:binaries", f"--local=binaries={binaries}",
                    f"--local=dockerfile={project.ROOT / 'benchmarks'}",
                    f"--output=type=oci,dest={output},tar=false,compression=gzip,force-compression=true",
                ]
            )  # fmt: skip
            made[variant] = layout.load(output)
    return made


def _bytes(number: int) -> list[Sample]:
    return [Sample(0, 0, number)]


def sizes(ours: dict[Variant, layout.Image], theirs: dict[Variant, layout.Image]) -> list[Case]:
    """Compressed and unpacked, whole and by layer."""
    cases = []
    for variant in Variant:
        unpacked = {"ours": check.read(ours[variant]).unpacked, "plain": check.read(theirs[variant]).unpacked}  # fmt: skip
        whole = {
            "compressed": {"ours": ours[variant].size, "plain": theirs[variant].size},
            "unpacked": {way: sum(layers) for way, layers in unpacked.items()},
        }
        cases += [
            Case(
                name=f"{variant}, {kind}", description="against Debian's slim image and apt",
                limit=LIMIT, samples={way: _bytes(number) for way, number in both.items()},
            )
            for kind, both in whole.items()
        ]  # fmt: skip
        cases += [
            Case(
                name=f"{variant}, layer {number}",
                description=f"{layer['size'] / (1 << 20):.1f} MiB compressed, unpacked:",
                samples={"ours": _bytes(size)},
            )
            for number, (layer, size) in enumerate(
                zip(ours[variant].manifest["layers"], unpacked["ours"], strict=True), start=1
            )
        ]
    return cases


def times(folder: Path) -> list[Case]:
    """Building, and from `docker run` to an answer where there is a docker engine."""
    copy = folder / "checkout"
    copy_checkout(copy)
    target = dist.folder(Target.here())
    (copy / "dist").mkdir()
    process.run(["cp", "-a", target, copy / "dist"])
    shutil.rmtree(copy / "dist" / target.name / dist.IMAGE)
    env = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}

    def build(*words: str) -> Sample:
        return run(
            [sys.executable, "-m", "invoke", "build-image", "--engine=buildkit", "--base=rootfs", *words],
            copy, env,
        )  # fmt: skip

    cold = Case(name="cold", description="`invoke build-image`, tests of it included, no caches")
    forced = Case(name="forced", description="the same with `--force`: packages are there")
    nothing = Case(name="up to date", description="nothing changed")
    cases = [
        in_turns(cold, 1, {"ours": build}),
        in_turns(forced, 3, {"ours": lambda: build("--force")}),
        in_turns(nothing, 3, {"ours": build}),
    ]
    if process.which("docker") and process.probe(["docker", "version"]).ok:
        name = loaded(copy, env)
        started = Case(
            name="start", description="from `docker run` to `buildctl debug workers` answering"
        )
        cases.append(in_turns(started, 5, {"ours": lambda: answer(name)}))
    return cases


def loaded(copy: Path, env: dict[str, str]) -> str:
    """The name of the image in docker, once it is loaded."""
    run([sys.executable, "-m", "invoke", "build-image", "--engine=buildkit", "--load"], copy, env)
    version = dist.load(dist.folder(Target.here())).manifest["version"]
    return f"buildkit-riscv64:{version}"


def answer(name: str) -> Sample:
    """Start the daemon in docker, wait until it answers, remove it."""
    began = time.monotonic()
    container = process.read(["docker", "run", "--detach", "--privileged", name]).strip()
    while not process.probe(["docker", "exec", container, "buildctl", "debug", "workers"]).ok:
        time.sleep(0.02)
    seconds = time.monotonic() - began
    process.run(["docker", "rm", "--force", "--volumes", container])
    return Sample(round(seconds, 3), 0)


def main(argv: Sequence[str] = ()) -> None:
    """Measure all cases; `--sizes` only the sizes. Needs dist/ with both images."""
    target = Target.here()
    ours = {
        variant: layout.load(dist.image_folder(target, variant) / dist.LAYOUT)
        for variant in Variant
    }
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR") or "/var/tmp") as name:
        folder = Path(name)
        cases = sizes(ours, plain(folder, dist.folder(target) / "bin"))
        if "--sizes" not in argv:
            cases += times(folder)
        print(f"wrote {keep('image', cases)}")
    report.main()


if __name__ == "__main__":
    main(sys.argv[1:])
