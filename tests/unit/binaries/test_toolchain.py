from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64.binaries import toolchain
from buildkit_riscv64.binaries.toolchain import Go
from buildkit_riscv64.core import process
from buildkit_riscv64.core.errors import (
    MissingRequirementError,
    NetworkError,
    NotNativeError,
    SourceError,
    UsageError,
)

from ..factories import GO, PINS, Commands

Script = Callable[[str, str], Path]


@pytest.fixture(autouse=True)
def _amd64(on: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    on("x86_64")
    monkeypatch.setattr(toolchain, "_USUAL_PLACES", ())
    toolchain._settings.cache_clear()


@pytest.mark.parametrize("name", toolchain._TARGET_VARIABLES)
def test_each_target_variable_is_refused(name: str) -> None:
    with pytest.raises(NotNativeError, match=f"{name}=other") as caught:
        toolchain.refuse_cross_compilation({name: "other"})
    assert caught.value.code == 5
    assert caught.value.hint == f"unset {name}"


@pytest.mark.parametrize(
    "asked",
    [
        {}, {"GOOS": "linux", "GOARCH": "amd64"}, {"GOAMD64": "v1"}, {"GOARCH": ""},
        {"GOFLAGS": "-mod=mod", "GOPROXY": "off"},
    ],
)  # fmt: skip
def test_native_target_variables_are_accepted(asked: dict[str, str]) -> None:
    toolchain.refuse_cross_compilation(asked)


def test_process_environment_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOARCH", "riscv64")
    with pytest.raises(NotNativeError, match=r"GOARCH=riscv64 .*linux/amd64"):  # fmt: skip
        toolchain.refuse_cross_compilation()


def test_goriscv64_hint_names_the_flag(on: Callable[[str], None]) -> None:
    on("riscv64")
    toolchain.refuse_cross_compilation({"GORISCV64": "rva20u64"})
    with pytest.raises(NotNativeError) as caught:
        toolchain.refuse_cross_compilation({"GORISCV64": "rva22u64"})
    assert "--goriscv64 rva22u64" in caught.value.hint


@pytest.mark.parametrize(
    "output",
    [
        "verifying golang.org/x/net@v0.1.0: checksum mismatch\n\tdownloaded: h1:a\n\tgo.sum: h1:b",
        "SECURITY ERROR\nThis download does NOT match an earlier download recorded in go.sum.",
        "dial tcp: connection refused\nverifying x: checksum mismatch",
    ],
)
def test_wrong_hash_is_a_source_error(output: str) -> None:
    error = toolchain.fetch_error("cannot fetch x", output)
    assert isinstance(error, SourceError)
    assert error.brief.startswith("cannot fetch x: checksum")


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("go: x: Get \"https://proxy\": dial tcp 1.2.3.4:443: connect: connection refused\n", "connection refused"),
        ("go: downloading x\ngo: x: dial tcp: lookup proxy: no such host\nlast", "no such host"),
        ("go: x: module lookup disabled by GOPROXY=off", "module lookup disabled by GOPROXY=off"),
        ("something else\n\n  the last line \n", "the last line"),
        ("", "no answer"),
    ],
)  # fmt: skip
def test_other_failures_are_network_errors(output: str, reason: str) -> None:
    error = toolchain.fetch_error("cannot fetch x", output)
    assert isinstance(error, NetworkError)
    assert error.brief.startswith("cannot fetch x: ")
    assert error.brief.endswith(reason)


def go(script: Script, directory: str, version: str, more: str = "") -> Path:
    """A fake go command."""
    return script(
        f"{directory}/go",
        f'case $1 in\nversion) echo "go version {version}" ;;\n'
        f'env) echo "{{}}" ;;\n{more}\n*) echo "unexpected $*" >&2; exit 2 ;;\nesac',
    )


@pytest.fixture
def path(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Add directories to the front of PATH."""

    def put(*commands: Path) -> None:
        directories = [str(command.parent) for command in commands]
        others = [p for p in os.environ["PATH"].split(":") if not Path(p, "go").exists()]
        monkeypatch.setenv("PATH", ":".join([*directories, *others]))

    put()
    return put


def test_pinned_go_on_path_is_used(script: Script, path: Callable[..., None]) -> None:
    command = go(script, "a", "go1.26.10 linux/amd64")
    path(command)
    assert toolchain.ensure(PINS) == Go(command, "go1.26.10", "system")
    assert toolchain.find(PINS) == Go(command, "go1.26.10", "system")


def test_go_outside_path(
    script: Script, path: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path(go(script, "a", "go1.19 linux/amd64"))
    exact = go(script, "go-1.26/bin", "go1.26.10 linux/amd64")
    monkeypatch.setattr(toolchain, "_USUAL_PLACES", (f"{tmp_path}/go-{{minor}}/bin/go", "/none"))
    assert toolchain.ensure(PINS).command == exact
    assert [c.version for c in toolchain.candidates(PINS)] == ["go1.19", "go1.26.10"]


def test_one_go_under_two_names(
    script: Script, path: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    command = go(script, "a", "go1.19 linux/amd64")
    (tmp_path / "link").symlink_to(command)
    path(command)
    monkeypatch.setattr(toolchain, "_USUAL_PLACES", (str(tmp_path / "link"),))
    assert len(list(toolchain.candidates(PINS))) == 1


def test_no_go(path: Callable[..., None]) -> None:
    assert toolchain.find(PINS) is None
    with pytest.raises(MissingRequirementError, match="no Go ") as caught:
        toolchain.ensure(PINS)
    assert caught.value.tool == "go"
    assert "doctor --fix" in caught.value.hint


@pytest.mark.parametrize(
    "reported",
    ["go1.26.10 linux/riscv64", "go1.26.10 darwin/amd64", "go1.26.10", "", "go1.26.10 linux/amd64x"],
)  # fmt: skip
def test_go_for_another_architecture_is_ignored(
    script: Script, path: Callable[..., None], reported: str
) -> None:
    path(go(script, "a", reported))
    with pytest.raises(MissingRequirementError, match="no Go "):
        toolchain.ensure(PINS)


@pytest.mark.parametrize(
    "reported",
    [
        "go1.26.10 linux/amd64 more", "go1.26.10 linux/amd64\nmore", "go1.26.10 X:boringcrypto linux/amd64",
        "go1.26.10  linux/amd64", "more go1.26.10 linux/amd64", "go1.26.10\u00a0 linux/amd64",
    ],
)  # fmt: skip
def test_only_the_exact_output_is_a_version(
    script: Script, path: Callable[..., None], reported: str
) -> None:
    path(go(script, "a", reported))
    assert toolchain.find(PINS) is None


@pytest.mark.parametrize("version", ["go1.26.1", "go1.26.100", "go1.26.10-other", "go1.26.10rc1"])
def test_version_that_begins_like_the_pinned_one(
    script: Script, path: Callable[..., None], version: str
) -> None:
    path(go(script, "a", f"{version} linux/amd64"))
    assert toolchain.find(PINS) is None
    assert [one.version for one in toolchain.candidates(PINS)] == [version]


def test_go_that_fails_is_ignored(script: Script, path: Callable[..., None]) -> None:
    path(script("a/go", "echo go version go1.26.10 linux/amd64; exit 1"))
    assert list(toolchain.candidates(PINS)) == []


@pytest.mark.parametrize("content", ["\x7fELF for something else", "#!/no/interpreter\n", ""])
def test_go_that_cannot_run_is_ignored(
    script: Script, path: Callable[..., None], content: str
) -> None:
    command = script("a/go", "")
    command.write_text(content)
    path(command)
    assert list(toolchain.candidates(PINS)) == []


def test_too_old_go(script: Script, path: Callable[..., None]) -> None:
    command = go(script, "a", "go1.18.10 linux/amd64")
    path(command)
    with pytest.raises(MissingRequirementError) as caught:
        toolchain.ensure(PINS)
    assert caught.value.brief == (
        f"{command} is go1.18.10, too old to fetch go1.26.10 (at least 1.19)"
    )
    assert caught.value.tool == "", "apt-get has no newer Go"


@pytest.mark.parametrize(
    ("version", "older"),
    [("go1.18.10", True), ("go1.19rc1", True), ("go1.9", True), ("go1.19", False), ("go1.26.10", False), ("go1.28-devel_abc", False)],
)  # fmt: skip
def test_older_than(version: str, older: bool) -> None:
    assert toolchain.older_than(version, "1.19") is older


def test_first_recent_go_fetches(
    script: Script, path: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    old, young = go(script, "a", "go1.18 linux/amd64"), go(script, "b", "go1.21.0 linux/amd64")
    path(old)
    monkeypatch.setattr(toolchain, "_USUAL_PLACES", (str(young),))
    asked: list[Go] = []

    def fetch(bootstrap: Go, _pins: object) -> Go:
        asked.append(bootstrap)
        return GO

    monkeypatch.setattr(toolchain, "fetch", fetch)
    assert toolchain.ensure(PINS) == GO
    assert asked == [Go(young, "go1.21.0", "system")]


@pytest.fixture
def module(tmp_path: Path) -> Path:
    """The pinned Go as in the module cache: without permissions."""
    for name, text in {"bin/go": "echo go version go1.26.10 linux/amd64", "pkg/tool/linux_amd64/compile": ""}.items():  # fmt: skip
        (tmp_path / "module" / name).parent.mkdir(parents=True)
        (tmp_path / "module" / name).write_text(f"#!/bin/sh\n{text}\n")
    return tmp_path / "module"


def answer(script: Script, **reported: Any) -> Go:
    """A Go with this answer to a download; it records its arguments."""
    text = json.dumps(reported)
    more = f"mod) echo \"$@\" > {script('note', '').parent}/asked; env > {script('note', '').parent}/env; cat <<'X'\n{text}\nX\n;;"  # fmt: skip
    return Go(go(script, "a", "go1.19 linux/amd64", more), "go1.19", "system")


def test_fetch(script: Script, module: Path, tmp_path: Path) -> None:
    found = toolchain.fetch(answer(script, Dir=str(module), Sum="h1:pinned"), PINS)
    assert found == Go(module / "bin" / "go", "go1.26.10", "module", "h1:pinned")
    assert (tmp_path / "asked").read_text() == (
        "mod download -json golang.org/toolchain@v0.0.1-go1.26.10.linux-amd64\n"
    )
    assert os.access(module / "pkg" / "tool" / "linux_amd64" / "compile", os.X_OK)


def test_fetched_with_another_hash(script: Script, module: Path) -> None:
    with pytest.raises(SourceError, match=r"h1:other.*h1:pinned"):
        toolchain.fetch(answer(script, Dir=str(module), Sum="h1:other"), PINS)
    assert not os.access(module / "bin" / "go", os.X_OK), "must not become executable"


def test_platform_without_pinned_hash(script: Script, module: Path) -> None:
    bootstrap = answer(script, Dir=str(module), Sum="h1:other")
    assert toolchain.fetch(bootstrap, replace(PINS, go_sums={})).sum == "h1:other"


@pytest.mark.parametrize(
    ("error", "expected"),
    [("dial tcp: lookup proxy.invalid: no such host", NetworkError), ("verifying: checksum mismatch", SourceError)],
)  # fmt: skip
def test_fetch_fails(script: Script, error: str, expected: type[Exception]) -> None:
    with pytest.raises(expected, match=r"cannot fetch go1.26.10 for linux-amd64"):
        toolchain.fetch(answer(script, Error=error), PINS)


def test_go_without_json(script: Script) -> None:
    command = go(script, "a", "go1.19 linux/amd64", "mod) echo flag provided but not defined >&2; exit 2 ;;")  # fmt: skip
    with pytest.raises(NetworkError, match="flag provided but not defined"):
        toolchain.fetch(Go(command, "go1.19", "system"), PINS)


def test_broken_fetched_go(script: Script, module: Path) -> None:
    (module / "bin" / "go").write_text("#!/bin/sh\necho go version go1.25.0 linux/amd64\n")
    with pytest.raises(SourceError, match=r"is not a working go1.26.10"):
        toolchain.fetch(answer(script, Dir=str(module), Sum="h1:pinned"), PINS)


SETTINGS = {
    "GOPROXY": "https://proxy.example", "GOCACHE": "/cache", "GOMODCACHE": "/mod",
    "GONOSUMDB": "", "GOFLAGS": "-mod=mod", "GOARCH": "mips", "GOEXPERIMENT": "x",
    "CC": "evil", "GOROOT": "/other", "GOTOOLCHAIN": "go9",
}  # fmt: skip


def test_go_environment(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GOFLAGS", "GOARCH", "GOROOT", "GOEXPERIMENT", "GOAMD64", "CC", "CGO_CFLAGS", "GODEBUG"):  # fmt: skip
        monkeypatch.setenv(name, "leak")
    monkeypatch.setenv("GOPROXY", "https://proxy.example")
    commands.answer("env", stdout=json.dumps(SETTINGS))
    env = toolchain.environment(GO, {"GOTMPDIR": "/tmp/x"})
    assert "leak" not in env.values()
    ours = {name: value for name, value in env.items() if name.startswith(("GO", "CGO", "CC"))}
    assert ours == {
        "GOPROXY": "https://proxy.example", "GOCACHE": "/cache", "GOMODCACHE": "/mod",
        "GOENV": "off", "GOFLAGS": "", "GOWORK": "off", "GOTOOLCHAIN": "local",
        "GO111MODULE": "on", "CGO_ENABLED": "0", "GOTMPDIR": "/tmp/x",
    }  # fmt: skip
    assert commands.args == [["/go/bin/go", "env", "-json"]]
    asked = commands.calls[0].options["env"]
    assert asked["GOPROXY"] == "https://proxy.example"
    assert asked["GOTOOLCHAIN"] == "local"
    assert "GOARCH" not in asked
    assert asked["GOFLAGS"] == ""


def test_go_queries_use_user_settings_without_telemetry(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    for given in "", "/x":
        if given:
            monkeypatch.setenv("GOENV", given)
        wanted = given or Path.home() / ".config/go/env"
        toolchain._ask(Path("/go/bin/go"), "version")
        env = commands.calls[-1].options["env"]
        assert (env["GOENV"], env["XDG_CONFIG_HOME"]) == (str(wanted), os.devnull)


@pytest.mark.parametrize(
    ("name", "value"),
    [("GOPATH", "relative"), ("GOPATH", "/a:b"), ("GOPATH", "~/go"), ("GOCACHE", "x"), ("GOCACHE", "off"), ("GOMODCACHE", "./x")],
)  # fmt: skip
def test_relative_go_directory_is_refused(
    script: Script,
    path: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str,
) -> None:
    path(go(script, "a", "go1.26.10 linux/amd64"))
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=f"{name}={value}"):
        toolchain.ensure(PINS)


@pytest.mark.parametrize("value", ["", "/a", "/a:/b", "/a:"])
def test_absolute_go_directories_are_accepted(
    script: Script, path: Callable[..., None], monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    command = go(script, "a", "go1.26.10 linux/amd64")
    path(command)
    monkeypatch.setenv("GOPATH", value)
    monkeypatch.setenv("GOMODCACHE", "/a:b")
    assert toolchain.ensure(PINS).command == command


def test_go_settings_are_queried_once(commands: Commands) -> None:
    commands.answer("env", stdout="{}")
    toolchain.environment(GO)
    toolchain.environment(GO)
    assert len(commands.calls) == 1


def test_unreadable_go_settings(commands: Commands) -> None:
    commands.answer("env", code=1, stderr="go: parsing GOENV file: bad line")
    with pytest.raises(MissingRequirementError, match="parsing GOENV file: bad line"):
        toolchain.environment(GO)


def test_shell_variables_do_not_reach_go(
    script: Script, module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOFLAGS", "-mod=mod")
    monkeypatch.setenv("GOARCH", "riscv64")
    toolchain.fetch(answer(script, Dir=str(module), Sum="h1:pinned"), PINS)
    seen = (tmp_path / "env").read_text().splitlines()
    assert "GOFLAGS=" in seen
    assert not [line for line in seen if line.startswith("GOARCH=")]


def test_go_with_a_timeout_is_ignored(
    script: Script, path: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    path(go(script, "a", "go1.26.10 linux/amd64"))
    monkeypatch.setattr(process, "probe", lambda *_args, **_options: process.Result(124, "", "no answer"))  # fmt: skip
    assert toolchain.find(PINS) is None
