"""Configuration: defaults here, then `invoke.yaml`, then INVOKE_* variables, then flags.

The order is Invoke's (https://docs.pyinvoke.org/en/stable/concepts/configuration.html).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import UsageError

#: Every key there is, with its default; the type of the default is the key's.
DEFAULTS: dict[str, Any] = {
    # Install missing packages without asking.
    "yes": False,
    "binaries": {
        # auto, submodule, module, or the path of a checkout.
        "source": "auto",
        # A RISC-V profile above rva20u64, for boards that have it.
        "goriscv64": "",
        # go, or make for upstream's container build.
        "via": "go",
        # What the commands run too: runc, CNI plugins, rootlesskit.
        "bundle": False,
    },
    "image": {
        # buildkit, our own fresh one, or docker.
        "engine": "buildkit",
        # What unpacks Debian's packages: auto, registry or rootfs.
        "base": "auto",
        # Where push-image pushes to, as HOST/REPO; empty for an OCI layout in dist/.
        "registry": "",
    },
    "packages": {
        # Whom packages name as their maintainer, as in NAME <ADDRESS>.
        "maintainer": "buildkit-riscv64 maintainers <packages@buildkit-riscv64.invalid>",
        # Where people will find the repositories of packages.
        "url": "",
    },
    # Boards by name, for `invoke on NAME`: any ssh destination.
    "boards": {},
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The configuration of one run.

    Args:
        yes: install missing packages without asking.
        dry: only say what would be done (`invoke --dry`).
        source: default of `--source`.
        goriscv64: default of `--goriscv64`.
        via: default of `--via`.
        bundle: default of `--bundle`.
        engine: default of `--engine`.
        base: default of `--base`.
        registry: default of `--registry`.
        maintainer: whom packages name as their maintainer.
        url: default of `--url`.
        boards: ssh destinations by name.
    """

    yes: bool
    dry: bool
    source: str
    goriscv64: str
    via: str
    bundle: bool
    engine: str
    base: str
    registry: str
    maintainer: str
    url: str
    boards: Mapping[str, str]


def read(config: Any) -> Settings:
    """The settings of Invoke's merged configuration.

    Raises:
        UsageError: a value has the wrong type.
    """
    values = {
        "yes": config["yes"],
        "dry": bool(config["run"]["dry"]),
        **{
            key: config[section][key]
            for section in ("binaries", "image", "packages")
            for key in DEFAULTS[section]
        },
    }
    for key, value in values.items():
        wanted = bool if key in {"yes", "dry", "bundle"} else str
        if not isinstance(value, wanted):
            raise UsageError(
                f"configuration key {key!r} is {value!r}, and must be a {wanted.__name__}",
                "correct it in invoke.yaml or the environment",
            )
    boards = dict(config["boards"])
    for name, destination in boards.items():
        if not isinstance(destination, str) or not destination or destination.startswith("-"):
            raise UsageError(
                f"board {name!r} is {destination!r}, and must be an ssh destination",
                "correct it in invoke.yaml, as in: boards: {f3: me@192.168.1.185}",
            )
    return Settings(**values, boards=boards)
