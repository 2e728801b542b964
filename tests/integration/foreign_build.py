"""Build artifacts for another architecture, as a machine of it would; test_verify runs this module.

Arguments: the target, the directory to write, the machine's claimed architecture, and `publish` to
publish the result into dist/. mypy checks this module, unlike code in a string.
"""

import dataclasses
import sys
from pathlib import Path

from buildkit_riscv64.binaries import build, source, toolchain
from buildkit_riscv64.binaries import compile as compiler
from buildkit_riscv64.core import dist, host, pins
from buildkit_riscv64.core.arch import Architecture, Target


def main(name: str, directory: str, claimed: str, *then: str) -> None:
    target, pinned, stage = Target.parse(name), pins.load(), Path(directory)
    real = host.facts()
    go, found = toolchain.ensure(pinned), source.resolve("module", pinned)
    (stage / "bin").mkdir(parents=True)
    scratch = stage.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    compiler.compile_commands(found, go, stage / "bin", scratch, {"GOARCH": str(target.arch)})
    host.facts = lambda: dataclasses.replace(real, arch=Architecture(claimed))
    record = {
        "via": "go", "flags": compiler.flags(found), "environment": {"CGO_ENABLED": "0"},
        "inputs": build.inputs(found, target, build.BuildMethod.GO, pinned),
        "started": "2026-01-02T03:04:05Z", "finished": "2026-01-02T03:05:05Z", "seconds": 60.0,
    }  # fmt: skip
    build._describe(stage, build._head(found, go, record, target), go, target, None)
    if "publish" in then:
        dist.publish(stage, target)


if __name__ == "__main__":
    main(*sys.argv[1:])
