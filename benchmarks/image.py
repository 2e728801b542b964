"""The image against the same content on Debian's slim image: sizes and times.

Debian's slim image is built from the same packages without a registry, and omits the
same documentation and translations as Debian's.
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
from benchmarks.checkout import copy_checkout
from benchmarks.measure import Case, Sample, alternate, run, save
from buildkit_riscv64.buildkitd import daemon
from buildkit_riscv64.core import dist, process, project
from buildkit_riscv64.core.arch import Target
from buildkit_riscv64.image import check, layout
from buildkit_riscv64.image.variants import Variant
from buildkit_riscv64.system import debian

#: As in Debian's image: https://github.com/debuerreotype/debuerreotype, slimify-excludes.
SLIM = ("doc/*", "info/*", "linda/*", "lintian/overrides/*", "locale/*", "man/*")
#: The maximum ratio of sizes, ours to plain.
LIMIT = 0.7


def slim(directory: Path) -> tuple[Path, str]:
    """Debian's slim image as a layout, and its digest."""
    root = directory / "slim"
    excluded = [f"--dpkgopt=path-exclude=/usr/share/{pattern}" for pattern in SLIM]
    process.run(
        [
            *process.as_root(), "unshare", "--mount", "mmdebstrap", "--mode=root",
            "--variant=minbase", "--include=ca-certificates", *excluded,
            "--dpkgopt=path-include=/usr/share/doc/*/copyright",
            debian.SUITE, str(root), debian.release(Target.here().arch).source(),
        ]
    )  # fmt: skip
    # As in Debian's image: apt keeps no caches that the next layer would contain.
    (root / "etc/apt/apt.conf.d/docker-clean").write_text(
        'Acquire::Languages "none";\nDir::Cache::pkgcache "";\nDir::Cache::srcpkgcache "";\n'
        'DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb"; };\n'
    )
    for name in ("var/lib/apt/lists", "var/cache/apt"):
        process.run([*process.as_root(), "rm", "-rf", root / name])
    return directory / "base", layout.from_directory(root, directory / "base", Target.here().arch)


def plain(directory: Path, binaries: Path) -> dict[Variant, layout.Image]:
    """The plain images, built with the same BuildKit and compression."""
    base, digest = slim(directory)
    images = {}
    with daemon.running(binaries, yes=True) as address:
        for variant in Variant:
            output = directory / f"plain-{variant}"
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
            images[variant] = layout.load(output)
    return images


def _bytes(number: int) -> list[Sample]:
    return [Sample(0, 0, number)]


def sizes(ours: dict[Variant, layout.Image], theirs: dict[Variant, layout.Image]) -> list[Case]:
    """Compressed and unpacked sizes, of images and layers."""
    cases = []
    for variant in Variant:
        unpacked = {"ours": check.read(ours[variant]).unpacked, "plain": check.read(theirs[variant]).unpacked}  # fmt: skip
        whole = {
            "compressed": {"ours": ours[variant].size, "plain": theirs[variant].size},
            "unpacked": {label: sum(layers) for label, layers in unpacked.items()},
        }
        cases += [
            Case(
                name=f"{variant}, {kind}", description="against Debian's slim image and apt",
                limit=LIMIT, samples={label: _bytes(number) for label, number in both.items()},
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


def times(directory: Path) -> list[Case]:
    """Times of `invoke build-image`, and from `docker run` to an answer if docker is available."""
    copy = directory / "checkout"
    copy_checkout(copy)
    target = dist.directory(Target.here())
    (copy / "dist").mkdir()
    process.run(["cp", "-a", target, copy / "dist"])
    shutil.rmtree(copy / "dist" / target.name / dist.IMAGE)
    env = {**os.environ, "XDG_CACHE_HOME": str(directory / "cache")}

    def build(*words: str) -> Sample:
        return run(
            [sys.executable, "-m", "buildkit_riscv64", "build-image", "--engine=buildkit", "--base=rootfs", *words],
            copy, env,
        )  # fmt: skip

    cold = Case(name="cold", description="`invoke build-image`, tests of it included, no caches")
    forced = Case(name="forced", description="the same with `--force`: packages are there")
    nothing = Case(name="up to date", description="nothing changed")
    cases = [
        alternate(cold, 1, {"ours": build}),
        alternate(forced, 3, {"ours": lambda: build("--force")}),
        alternate(nothing, 3, {"ours": build}),
    ]
    if process.which("docker") and process.probe(["docker", "version"]).ok:
        name = load_image(copy, env)
        started = Case(
            name="start", description="from `docker run` to `buildctl debug workers` answering"
        )
        cases.append(alternate(started, 5, {"ours": lambda: start_until_ready(name)}))
    return cases


def load_image(copy: Path, env: dict[str, str]) -> str:
    """Load the image into docker; return its name."""
    run(
        [sys.executable, "-m", "buildkit_riscv64", "build-image", "--engine=buildkit", "--load"],
        copy,
        env,
    )
    version = dist.load(dist.directory(Target.here())).manifest["version"]
    return f"buildkit-riscv64:{version}"


def start_until_ready(name: str) -> Sample:
    """Start the daemon in docker, wait until it answers, and remove it."""
    began = time.monotonic()
    container = process.read(
        ["docker", "run", "--detach", "--privileged", name], changes=True
    ).strip()
    while not process.probe(["docker", "exec", container, "buildctl", "debug", "workers"]).ok:
        time.sleep(0.02)
    seconds = time.monotonic() - began
    process.run(["docker", "rm", "--force", "--volumes", container])
    return Sample(round(seconds, 3), 0)


def main(argv: Sequence[str] = ()) -> None:
    """Measure all cases; `--sizes` only the sizes. Requires dist/ with both images."""
    target = Target.here()
    ours = {
        variant: layout.load(dist.image_directory(target, variant) / dist.LAYOUT)
        for variant in Variant
    }
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR") or "/var/tmp") as name:
        directory = Path(name)
        cases = sizes(ours, plain(directory, dist.directory(target) / "bin"))
        if "--sizes" not in argv:
            cases += times(directory)
        print(f"wrote {save('image', cases)}")
    report.main()


if __name__ == "__main__":
    main(sys.argv[1:])
