"""Configuration: defaults here, then `invoke.yaml`, then INVOKE_* variables, then flags.

The order is Invoke's (https://docs.pyinvoke.org/en/stable/concepts/configuration.html).
"""

from __future__ import annotations

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
    },
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
    """

    yes: bool
    dry: bool
    source: str
    goriscv64: str
    via: str


def read(config: Any) -> Settings:
    """The settings of Invoke's merged configuration.

    Raises:
        UsageError: a value has the wrong type.
    """
    binaries = config["binaries"]
    values = {
        "yes": config["yes"],
        "dry": bool(config["run"]["dry"]),
        **{key: binaries[key] for key in DEFAULTS["binaries"]},
    }
    for key, value in values.items():
        wanted = bool if key in {"yes", "dry"} else str
        if not isinstance(value, wanted):
            raise UsageError(
                f"configuration key {key!r} is {value!r}, and must be a {wanted.__name__}",
                "correct it in invoke.yaml or the environment",
            )
    return Settings(**values)
