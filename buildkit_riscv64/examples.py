"""Examples of every task, for `--help` and the command reference; a test parses each example."""

from __future__ import annotations

#: The first commands in the overview, with their descriptions.
FIRST = (
    ("invoke doctor", "check this machine"),
    ("invoke build-binaries --yes", "compile BuildKit here, for this machine"),
    ("invoke test --yes", "run the tests"),
)

#: At least two examples of each task.
EXAMPLES = {
    "doctor": ("invoke doctor", "invoke doctor --phase binaries --fix"),
    "test": ("invoke test --yes", "invoke test --session lint,unit"),
    "build-binaries": (
        "invoke build-binaries --yes", "invoke build-binaries --bundle",
        "invoke build-binaries --source ../buildkit --allow-dirty",
    ),
    "check-binaries": ("invoke check-binaries", "invoke check-binaries --target linux-riscv64 --json"),
    "verify-binaries": (
        "invoke verify-binaries --rebuild",
        "invoke verify-binaries --cross-check --target linux-riscv64",
    ),
    "build-image": ("invoke build-image", "invoke build-image --rootless --load"),
    "check-image": ("invoke check-image", "invoke check-image --target linux-riscv64"),
    "push-image": (
        "invoke push-image --registry ghcr.io/example/buildkit", "invoke push-image --target linux-riscv64",
    ),
    "create-certs": (
        "invoke create-certs --names builder.example.org,10.0.0.5", "invoke create-certs --output ./certs --days 90",
    ),
    "validate": ("invoke validate", "invoke validate --only standalone,rootless"),
    "evidence.show": ("invoke evidence.show", "invoke evidence.show --target linux-riscv64 --json"),
    "benchmark": ("invoke benchmark", "invoke benchmark --baseline upstream --only simple,export"),
    "status": ("invoke status", "invoke status --target linux-riscv64 --json"),
    "build-packages": ("invoke build-packages", "invoke build-packages --target linux-riscv64 --revision 2"),
    "publish-repo": (
        "invoke publish-repo --url https://packages.example.org --key signing.asc",
        "invoke publish-repo --unsigned",
    ),
    "release": ("invoke --dry release", "invoke release --tag v0.32.2 --repository example/buildkit-riscv64"),
    "verify-release": (
        "invoke verify-release ~/Downloads/v0.32.2",
        "invoke verify-release v0.32.2 --repository example/buildkit-riscv64",
    ),
    "track-releases": ("invoke --dry track-releases", "invoke track-releases --repository example/buildkit-riscv64"),
    "notify-build": ("invoke notify-build failure", "invoke --dry notify-build success"),
    "on": ("invoke on riscv64 -- build-binaries", "invoke on riscv64 -- nox -s unit",
        "invoke on me@192.168.1.185 -- doctor --fix"),
    "machine.create": ("invoke machine.create", "invoke machine.create --cpus 2 --memory 6G --if-missing"),
    "machine.start": ("invoke machine.start", "invoke machine.start --icount"),
    "machine.stop": ("invoke machine.stop", "invoke machine.stop --name second"),
    "machine.status": ("invoke machine.status", "invoke machine.status --json"),
    "machine.list": ("invoke machine.list", "invoke machine.list --json"),
    "machine.ssh": ("invoke machine.ssh", "invoke machine.ssh --name second"),
    "machine.logs": ("invoke machine.logs", "invoke machine.logs --lines 0"),
    "machine.reset": ("invoke machine.reset", "invoke machine.reset --name second --yes"),
    "machine.destroy": ("invoke machine.destroy", "invoke machine.destroy --name second --yes"),
    "pins.show": ("invoke pins.show", "invoke pins.show --json"),
    "pins.update": ("invoke pins.update v0.33.1", "invoke --dry pins.update v0.33.1"),
    "pins.update-go": ("invoke pins.update-go 1.26.11", "invoke --dry pins.update-go 1.26.11"),
}  # fmt: skip
