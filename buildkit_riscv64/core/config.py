"""Configuration: defaults here, then `invoke.yaml`, then INVOKE_* variables, then flags.

The order is Invoke's (https://docs.pyinvoke.org/en/stable/concepts/configuration.html).
:class:`Config` reads files and variables strictly: an unknown key or variable, or a value of
another type, is an error.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from invoke.config import Config as _Config
from invoke.config import DataProxy
from invoke.exceptions import UnknownFileType

from . import booleans
from .documents import InvalidDocumentError, parse_yaml, shown
from .errors import UsageError

#: Every key with its default; a value has the type of the default.
DEFAULTS: dict[str, Any] = {
    # Install missing packages, and delete machines, without asking.
    "yes": False,
    "binaries": {
        # auto, submodule, module, or the path of a checkout.
        "source": "auto",
        # A RISC-V profile above rva20u64, for boards that support it.
        "goriscv64": "",
        # go, or make for upstream's container build.
        "via": "go",
        # Also build runc, the CNI plugins and rootlesskit.
        "bundle": False,
    },
    "image": {
        # buildkit (an engine of our own) or docker.
        "engine": "buildkit",
        # Base of the image: auto, registry or rootfs.
        "base": "auto",
        # Registry for push-image, as HOST/REPO; empty for an OCI layout in dist/.
        "registry": "",
    },
    "packages": {
        # Maintainer of the packages, as NAME <ADDRESS>.
        "maintainer": "buildkit-riscv64 maintainers <packages@buildkit-riscv64.invalid>",
        # Address at which the package repositories are published.
        "url": "",
    },
    # Boards by name, for `invoke on NAME`: any ssh destination.
    "boards": {},
}

#: Keys of a configuration file: ours, and the only key of Invoke that our tasks read.
_KEYS: dict[str, Any] = {**DEFAULTS, "run": {"dry": False}}
#: The section whose keys the user chooses.
_BOARDS = "boards"
_PREFIX = "INVOKE_"
#: Variables that Invoke reads itself.
_INVOKES_OWN = {"INVOKE_DEBUG", "INVOKE_RUNTIME_CONFIG"}

# Invalid in paths, names and addresses; system calls reject NUL.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


def nearest(word: str, known: Iterable[str]) -> str:
    """The most similar known word; empty where none is similar."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1)), "")


def _leaves(tree: Mapping[str, Any] = _KEYS, above: str = "") -> Iterator[str]:
    """Every key with its section, as in `binaries.source`."""
    for key, value in tree.items():
        if isinstance(value, dict) and key != _BOARDS:
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}"


def _unknown(where: str, key: str, section: str = "") -> UsageError:
    """The error for an unknown key, with the most similar key."""
    full = f"{section}.{key}" if section else key
    leaves = list(_leaves())
    same_name = {leaf.rpartition(".")[2]: leaf for leaf in leaves}
    siblings = list(_KEYS[section] if section else _KEYS)
    if found := nearest(key, siblings):
        meant = f"{section}.{found}" if section else found
    else:
        meant = nearest(full, leaves) or same_name.get(nearest(key, same_name), "")
    hint = f"did you mean {meant}?" if meant else f"the keys are {', '.join(leaves)}"
    return UsageError(f"{where}: unknown key {full}", hint)


def _checked(where: str, name: str, value: Any, default: Any) -> Any:
    """A value, converted to the type of its default.

    Args:
        where: the file or the variable, for messages.
        name: the key with its section.
        value: what the user wrote.
        default: the default.

    Raises:
        UsageError: the value has another type.
    """
    if isinstance(default, bool):
        found = booleans.parse(value)
        if found is None:
            raise UsageError(
                f"{where}: {name} is {shown(value)}, not a boolean", "write true or false"
            )
        return found
    if not isinstance(value, str):
        raise UsageError(
            f"{where}: {name} is {shown(value)}, not a text",
            f'put the value in quotes, as in {name.rpartition(".")[2]}: "{default or "text"}"',
        )
    if _UNPRINTABLE.search(value):
        raise UsageError(f"{where}: {name} has control characters", "remove them")
    return value


def _board(where: str, name: object, destination: object) -> str:
    """The ssh destination of a board.

    Raises:
        UsageError: the value is not an ssh destination.
    """
    if not isinstance(destination, str) or not destination.strip() or destination.startswith("-"):
        raise UsageError(
            f"{where}: boards.{name} is {shown(destination)}, not an ssh destination",
            "write boards: {f3: me@192.168.1.185}, for example",
        )
    return destination


def _validated(data: Any, where: str, *, shared: bool = False) -> dict[str, Any]:
    """The content of a configuration file, with each key known and of its type.

    Args:
        data: the content.
        where: the file, for messages.
        shared: other projects also read this file and may have sections in it.

    Raises:
        UsageError: a key is unknown, or its value has another type.
    """
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise UsageError(
            f"{where} is {shown(data)}, not keys with values",
            "write binaries: {source: module}, for example; docs/binaries.md lists the keys",
        )
    found: dict[str, Any] = {}
    for key, value in data.items():
        if key not in DEFAULTS and shared:
            continue
        if key not in _KEYS:
            raise _unknown(where, str(key))
        if not isinstance(_KEYS[key], dict):
            found[key] = _checked(where, key, value, _KEYS[key])
        elif not isinstance(value, dict):
            example = (
                "{f3: me@192.168.1.185}" if key == _BOARDS else f"{{{next(iter(_KEYS[key]))}: …}}"
            )
            raise UsageError(
                f"{where}: {key} is {shown(value)}, not keys with values",
                f"write {key}: {example}, or remove the line",
            )
        elif key == _BOARDS:
            found[key] = {name: _board(where, name, board) for name, board in value.items()}
        else:
            found[key] = {}
            for name, one in value.items():
                if name not in _KEYS[key]:
                    raise _unknown(where, str(name), key)
                found[key][name] = _checked(where, f"{key}.{name}", one, _KEYS[key][name])
    return found


def _parsed(path: Path) -> Any:
    """The content of a YAML or JSON file.

    Raises:
        UsageError: the file is not YAML.
    """
    try:
        return parse_yaml(path.read_bytes())
    except InvalidDocumentError as error:
        raise UsageError(f"{_name(path)}: {error}", "fix or remove the file") from error


def _variables(config: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """The path of a key, by its environment variable."""
    paths = [tuple(leaf.split(".")) for leaf in _leaves() if leaf != _BOARDS]
    paths += [(_BOARDS, name) for name in config.get(_BOARDS) or {}]
    return {f"{_PREFIX}{'_'.join(path).upper()}": path for path in paths}


def _invokes_variables(tree: Mapping[str, Any], above: str = _PREFIX) -> Iterator[str]:
    """The environment variables of Invoke's own settings, which our tasks do not read."""
    for key, value in tree.items():
        yield f"{above}{key.upper()}"
        if isinstance(value, dict):
            yield from _invokes_variables(value, f"{above}{key.upper()}_")


def _from_environment(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of INVOKE_* variables.

    Args:
        config: the configuration from files, with the names of the boards.

    Raises:
        UsageError: an unknown variable, or a value of another type.
    """
    known = _variables(config)
    others = _INVOKES_OWN | set(_invokes_variables(_Config.global_defaults()))
    found: dict[str, Any] = {}
    for variable, value in sorted(os.environ.items()):
        if not variable.startswith(_PREFIX) or (variable in others and variable not in known):
            continue
        if variable not in known:
            names = {name.removeprefix(_PREFIX): name for name in known}
            meant = names.get(nearest(variable.removeprefix(_PREFIX), names), "")
            raise UsageError(
                f"unknown setting in the environment: {variable}",
                f"did you mean {meant}?" if meant else f"unset {variable}",
            )
        *sections, key = known[variable]
        default: Any = _KEYS
        table = found
        for section in sections:
            default = default[section]
            table = table.setdefault(section, {})
        if sections == [_BOARDS]:
            table[key] = _board(variable, key, value)
        else:
            name = ".".join(known[variable])
            table[key] = _checked(variable, name, value, default[key])
    return found


class Config(_Config):
    """Invoke's configuration, with files and variables read strictly."""

    def _load_file(self, prefix: str, absolute: bool = False, merge: bool = True) -> None:  # noqa: FBT001, FBT002 - Invoke's
        """Read and validate one configuration file.

        Args:
            prefix: `system`, `user`, `project` or `runtime`, Invoke's kinds of files.
            absolute: the user gave the path of the file.
            merge: apply the file at once.

        Raises:
            UsageError: the file cannot be read, a key is unknown, or a value has another type.
        """
        try:
            super()._load_file(prefix, absolute=absolute, merge=False)
        except OSError as error:
            raise UsageError(
                f"cannot read {error.filename}: {error.strerror}", "fix or remove the file"
            ) from error
        except UnknownFileType as error:
            raise UsageError(str(error), "use a file name that ends in .yaml") from error
        path = getattr(self, f"_{prefix}_path")
        if getattr(self, f"_{prefix}_found"):
            shared = prefix in {"system", "user"}
            data = _validated(getattr(self, f"_{prefix}"), _name(path), shared=shared)
            self._set(f"_{prefix}", data)
            if merge:
                self.merge()
        elif absolute and path is not None:
            raise UsageError(
                f"no configuration file {path}", "correct --config or INVOKE_RUNTIME_CONFIG"
            )

    def _load_yaml(self, path: Any) -> Any:
        return _parsed(Path(path))

    _load_yml = _load_yaml
    _load_json = _load_yaml

    def _load_py(self, path: Any) -> dict[str, Any]:
        try:
            return super()._load_py(path)
        except OSError:
            raise
        except Exception as error:  # a Python file can raise anything
            raise UsageError(f"{path}: {error!r}", "fix or remove the file") from error

    def load_shell_env(self) -> None:
        """Read the INVOKE_* variables.

        Raises:
            UsageError: an unknown variable, or a value of another type.
        """
        self.merge()
        self._set(_env=_from_environment(self._config))
        self.merge()


def _name(path: Path | str) -> str:
    """The name of a configuration file of this directory; the path of any other."""
    path = Path(path)
    return path.name if path.parent == Path.cwd() else str(path)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The configuration of one run.

    Args:
        yes: install missing packages without asking.
        source: default of `--source`.
        goriscv64: default of `--goriscv64`.
        via: default of `--method`.
        bundle: default of `--bundle`.
        engine: default of `--engine`.
        base: default of `--base`.
        registry: default of `--registry`.
        maintainer: the maintainer of the packages.
        url: default of `--url`.
        boards: ssh destinations by name.
    """

    yes: bool
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

    Args:
        config: a task's configuration.

    Raises:
        UsageError: a key is unknown, or its value has the wrong type.
    """
    ours = {key: _plain(config[key]) for key in DEFAULTS}
    found = _validated(ours, "the configuration")
    return Settings(
        yes=found["yes"],
        **found["binaries"], **found["image"], **found["packages"], boards=found[_BOARDS],
    )  # fmt: skip


def _plain(value: Any) -> Any:
    """A value without Invoke's proxy."""
    return dict(value) if isinstance(value, DataProxy) else value
