"""The command line of `nox -s fresh`, and the settings that it passes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from .. import fresh
from ..fresh import As


def test_readme_has_two_commands() -> None:
    first, second = fresh.readme()
    assert first.startswith("./invoke build-binaries")
    assert second.startswith("./invoke test")


def runs_of(
    monkeypatch: pytest.MonkeyPatch, *args: str, code: int = 0
) -> list[tuple[str, As, list[str]]]:
    """The runs of a command line."""
    runs: list[tuple[str, As, list[str]]] = []

    def run(suite: str, who: As, commands: list[str]) -> tuple[Path, list[fresh.Ended]]:
        runs.append((suite, who, commands))
        return Path("log"), [fresh.Ended(one, code, 1.0) for one in commands]

    monkeypatch.setattr(fresh, "run", run)
    monkeypatch.setattr(fresh, "_require_host", lambda: None)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert fresh.main(args) == (7 if code else 0)
    return runs


def test_both_suites_as_root_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert runs_of(monkeypatch) == [
        (suite, As.ROOT, fresh.readme()) for suite in ("bookworm", "trixie")
    ]


def test_suites_users_and_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    assert runs_of(monkeypatch, "trixie", "--as", "user", "--as=unprivileged") == [
        ("trixie", As.USER, fresh.readme()), ("trixie", As.UNPRIVILEGED, fresh.readme()[1:]),
    ]  # fmt: skip
    assert runs_of(monkeypatch, "bookworm", "--command", "a b", "--command=c") == [
        ("bookworm", As.ROOT, ["a b", "c"])
    ]


def test_results(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    runs_of(monkeypatch, "--command=false", code=3)
    output = capsys.readouterr().err
    for word in ("Debian 12", "Debian 13", "false", "1.0 s", "exit code 3", "log"):
        assert word in output


@pytest.mark.parametrize("args", [["sid"], ["--as", "nobody"], ["--no-such"]])
def test_invalid_arguments(args: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="2"):
        runs_of(monkeypatch, *args)


def test_only_network_settings_are_passed_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("http_proxy", "HTTPS_PROXY", "PIP_INDEX_URL", "PIP_FIND_LINKS", "GOFLAGS", "A"):
        monkeypatch.setenv(name, "here")
    monkeypatch.delenv("GOPROXY", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "go").mkdir()
    (tmp_path / "go/env").write_text("GOPROXY=file\nGOFLAGS=-x\n")
    settings = fresh.network_settings()
    assert {"http_proxy", "HTTPS_PROXY", "PIP_INDEX_URL"} <= set(settings)
    assert not {"PIP_FIND_LINKS", "GOFLAGS", "A"} & set(settings)
    assert settings["GOPROXY"] == "file"
    # As in Go, the environment overrides the file.
    monkeypatch.setenv("GOPROXY", "here")
    assert fresh.network_settings()["GOPROXY"] == "here"


def test_values_of_settings_are_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://me:secret@proxy")
    lines = list(fresh.shared())
    assert any("http_proxy" in line for line in lines)
    assert not any("secret" in line for line in lines)
