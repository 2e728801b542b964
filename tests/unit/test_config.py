from __future__ import annotations

from typing import Any

import pytest
from invoke.config import Config

from buildkit_riscv64 import config
from buildkit_riscv64.errors import UsageError


def merged(**changes: Any) -> Config:
    """Invoke's configuration with our defaults, and changes on top."""
    made = Config(defaults={**Config.global_defaults(), **config.DEFAULTS}, lazy=True)
    made.merge()
    for key, value in changes.items():
        if isinstance(value, dict):
            made[key].update(value)
        else:
            made[key] = value
    return made


def test_defaults() -> None:
    settings = config.read(merged())
    assert (settings.yes, settings.dry) == (False, False)
    assert (settings.source, settings.goriscv64, settings.via) == ("auto", "", "go")
    assert settings.bundle is False
    assert (settings.engine, settings.base, settings.registry) == ("buildkit", "auto", "")


def test_what_is_set_wins() -> None:
    changed = merged(
        yes=True, run={"dry": True}, binaries={"source": "module", "via": "make"},
        image={"engine": "docker", "registry": "host/me"},
    )  # fmt: skip
    settings = config.read(changed)
    assert (settings.yes, settings.dry) == (True, True)
    assert (settings.source, settings.goriscv64, settings.via) == ("module", "", "make")
    assert (settings.engine, settings.base, settings.registry) == ("docker", "auto", "host/me")


def test_the_environment_wins_over_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INVOKE_BINARIES_SOURCE", "submodule")
    monkeypatch.setenv("INVOKE_BINARIES_BUNDLE", "1")
    monkeypatch.setenv("INVOKE_IMAGE_BASE", "rootfs")
    monkeypatch.setenv("INVOKE_YES", "1")
    made = merged()
    made.load_shell_env()
    settings = config.read(made)
    assert (settings.source, settings.base) == ("submodule", "rootfs")
    assert (settings.yes, settings.bundle) == (True, True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"yes": "no"}, "'yes' is 'no', and must be a bool"),
        ({"binaries": {"source": 5}}, "'source' is 5, and must be a str"),
        ({"binaries": {"goriscv64": None}}, "'goriscv64' is None, and must be a str"),
        ({"binaries": {"bundle": "no"}}, "'bundle' is 'no', and must be a bool"),
        ({"binaries": {"via": ["go"]}}, r"'via' is \['go'\], and must be a str"),
        ({"image": {"engine": None}}, "'engine' is None, and must be a str"),
        ({"image": {"base": True}}, "'base' is True, and must be a str"),
        ({"image": {"registry": 5000}}, "'registry' is 5000, and must be a str"),
    ],
)
def test_wrong_types_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        config.read(merged(**changes))
