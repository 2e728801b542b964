from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64.binaries import check, toolchain
from buildkit_riscv64.core import dist, project, schemas
from buildkit_riscv64.core.arch import Target
from buildkit_riscv64.core.console import Status
from buildkit_riscv64.core.errors import CheckError, UsageError

from .. import factories
from ..factories import GO, Commands, edit_manifest
from ..published import command_answers

TARGET = Target.parse("linux-riscv64")


@pytest.fixture
def directory(finished: Path, commands: Commands) -> Path:
    """A published directory whose programs answer."""
    command_answers(commands, finished)
    return finished


def failed(directory: Path) -> list[str]:
    """The failed checks."""
    findings = check.examine(directory, TARGET, GO)
    return [f"{f.subject}: {f.check}: {f.detail}" for f in findings if f.status is Status.FAIL]


def test_good_directory(directory: Path, commands: Commands) -> None:
    findings = check.examine(directory, TARGET, GO)
    assert {f.status for f in findings} == {Status.OK}
    assert {
        "schema", "target", "compiled natively on", "version", "revision", "Go", "files", "sha256",
        "complete", "nothing else", "ELF class", "machine", "linked", "package", "GOOS/GOARCH",
        "CGO_ENABLED", "GORISCV64", "trimpath", "tags", "module", "runs", "--version", "--help",
    } - {f.check for f in findings} == {"runs"}  # fmt: skip
    binary = str(directory / "bin" / "buildctl")
    assert [binary, "--version"] in commands.args
    assert [binary, "--help"] in commands.args
    check.require_good(directory, TARGET, GO)


def test_verdict_file_is_accepted(directory: Path) -> None:
    (directory / dist.VERDICT).write_text("{}")
    assert failed(directory) == []


@pytest.mark.parametrize(
    "name", ["extra", ".hidden", "bin/extra", "bin/.hidden", "deep/er/file", "empty/"]
)
def test_extra_file(directory: Path, name: str) -> None:
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir() if name.endswith("/") else path.write_text("x")
    (reported,) = failed(directory)
    assert reported.startswith(".: nothing else: ")
    assert name.rstrip("/") in reported


def test_dangling_link_is_an_extra_file(directory: Path) -> None:
    (directory / "link").symlink_to("/nowhere")
    assert failed(directory) == [".: nothing else: link, expected nothing"]


@pytest.mark.parametrize("name", ["buildkit-v0.32.2.linux-riscv64.tar.gz", dist.PROVENANCE, "buildctl.cdx.json"])  # fmt: skip
def test_missing_file(directory: Path, name: str) -> None:
    (directory / name).unlink()
    assert failed(directory) == [f"{name}: sha256: cannot be read: No such file or directory"]


def test_missing_program(directory: Path) -> None:
    (directory / "bin" / "buildctl").unlink()
    reported = failed(directory)
    assert reported[0].startswith("bin/buildctl: sha256: cannot be read")
    assert reported[1].startswith("bin/buildctl: program: buildctl is not an ELF program")


def test_changed_byte(directory: Path) -> None:
    with (directory / "bin" / "buildctl").open("ab") as file:
        file.write(b"x")
    (reported,) = failed(directory)
    assert reported.startswith("bin/buildctl: sha256: ")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"0  bin/buildctl\n", None])
def test_damaged_checksums(directory: Path, content: bytes | None) -> None:
    if content is None:
        (directory / dist.SUMS).unlink()
    else:
        (directory / dist.SUMS).write_bytes(content)
    assert failed(directory) == ["SHA256SUMS: complete: differs, expected all files"]


def test_changed_manifest_does_not_match_checksums(directory: Path) -> None:
    text = (directory / dist.MANIFEST).read_text()
    (directory / dist.MANIFEST).write_text(text.replace('"seconds": 100.0', '"seconds": 1.0'))
    assert failed(directory) == ["SHA256SUMS: complete: differs, expected all files"]


def forge(directory: Path, command: str, content: bytes) -> None:
    """Replace a program, with matching manifest and checksums."""
    path = directory / dist.binary(command)
    path.write_bytes(content)

    def record(manifest: dict[str, Any]) -> None:
        for file in manifest["files"]:
            if file["name"] == dist.binary(command):
                file.update(dist.record(directory, [file["name"]])[0])

    edit_manifest(directory, record)


@pytest.mark.parametrize(
    ("content", "reported"),
    [
        (factories.elf("amd64"), "machine: EM_X86_64, expected EM_RISCV"),
        (factories.elf("riscv64", bits=32), "ELF class: 32, expected 64"),
        (factories.elf("riscv64", interpreter="/lib/ld.so.1"), "linked: /lib/ld.so.1, expected statically"),
        (factories.elf("riscv64", needed="libc.so.6"), "linked: libc.so.6, expected statically"),
    ],
)  # fmt: skip
def test_forged_program(directory: Path, content: bytes, reported: str) -> None:
    forge(directory, "buildctl", content)
    assert failed(directory) == [f"bin/buildctl: {reported}"]


def test_dynamic_program_is_refused(directory: Path) -> None:
    forge(directory, "buildkitd", Path("/bin/sh").read_bytes())
    assert any(reported.startswith("bin/buildkitd: linked: /lib") for reported in failed(directory))


@pytest.mark.parametrize("content", [b"#!/bin/sh\necho yes\n", b"", b"\x7fELF"])
def test_not_an_elf_program(directory: Path, content: bytes) -> None:
    forge(directory, "buildctl", content or b"\0")
    (reported,) = failed(directory)
    assert reported.startswith("bin/buildctl: program: buildctl is not an ELF program")


def info(monkeypatch: pytest.MonkeyPatch, edit: Callable[[dict[str, Any]], object]) -> None:
    """Programs with changed build information."""

    def read(path: Path, _go: object) -> dict[str, Any]:
        info = factories.build_info(path.name, TARGET)
        edit(info)
        return info

    monkeypatch.setattr(check, "read_build_info", read)


def setting(name: str, value: str) -> Callable[[dict[str, Any]], object]:
    return lambda info: info["Settings"].update({name: value})


@pytest.mark.parametrize(
    ("edit", "reported"),
    [
        (setting("GOARCH", "amd64"), "GOOS/GOARCH: linux/amd64, expected linux/riscv64"),
        (setting("GOOS", "freebsd"), "GOOS/GOARCH: freebsd/riscv64, expected linux/riscv64"),
        (setting("CGO_ENABLED", "1"), "CGO_ENABLED: 1, expected 0"),
        (setting("GORISCV64", "rva22u64"), "GORISCV64: rva22u64, expected rva20u64"),
        (setting("-trimpath", "false"), "trimpath: false, expected true"),
        (setting("-tags", "seccomp"), "tags: seccomp, expected osusergo,netgo,static_build,seccomp"),
        (lambda i: i["Settings"].clear(), "GOOS/GOARCH: None/None, expected linux/riscv64"),
        (lambda i: i.update(GoVersion="go1.26.9"), "Go: go1.26.9, expected go1.26.10"),
        (lambda i: i.pop("GoVersion"), "Go: , expected go1.26.10"),
        (lambda i: i.update(Path="evil"), "package: evil, expected github.com/moby/buildkit/cmd/buildctl"),
        (lambda i: i.pop("Path"), "package: None, expected github.com/moby/buildkit/cmd/buildctl"),
        (lambda i: i["Main"].update(Sum="h1:other"), f"module: h1:other, expected {factories.SUM}"),
        (lambda i: i.pop("Main"), f"module: , expected {factories.SUM}"),
    ],
)  # fmt: skip
def test_wrong_build_information(
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    edit: Callable[[dict[str, Any]], object],
    reported: str,
) -> None:
    info(monkeypatch, edit)
    assert f"bin/buildctl: {reported}" in failed(directory)


def test_no_build_information(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(path: Path, _go: object) -> dict[str, Any]:
        raise CheckError(f"{path.name} has no Go build information")

    monkeypatch.setattr(check, "read_build_info", none)
    assert "bin/buildctl: program: buildctl has no Go build information" in failed(directory)


@pytest.mark.parametrize(
    "version", ["go1.26.10 X:boringcrypto", "go1.26.10-other", "go1.26.100", " go1.26.10", "go1.26.10\n"]
)  # fmt: skip
def test_other_go(directory: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    """An experiment changes the compiled program: it is not the pinned Go."""
    info(monkeypatch, lambda i: i.update(GoVersion=version))
    assert f"bin/buildctl: Go: {version}, expected go1.26.10" in failed(directory)


@pytest.mark.parametrize(
    ("code", "stdout", "stderr", "reported"),
    [
        (0, "buildctl github.com/moby/buildkit v0.32.1 x", "", "buildctl github.com/moby/buildkit v0.32.1 x, expected buildctl github.com/moby/buildkit v0.32.2 "),
        (-11, "", "", "killed by SIGSEGV: , expected"),
        (124, "", "no answer within 60 s", "exit code 124: no answer within 60 s, expected"),
        (126, "", "x: cannot be executed: Exec format error", "exit code 126: x: cannot be executed"),
    ],
)  # fmt: skip
def test_program_without_answer(
    directory: Path, commands: Commands, code: int, stdout: str, stderr: str, reported: str
) -> None:
    commands.answer(str(directory / "bin" / "buildctl"), code=code, stdout=stdout, stderr=stderr)
    assert failed(directory)[0].startswith(f"bin/buildctl: --version: {reported}")
    assert failed(directory)[1].startswith("bin/buildctl: --help: ")


def test_programs_have_a_timeout(directory: Path, commands: Commands) -> None:
    failed(directory)
    assert {call.options["timeout"] for call in commands.calls} == {check.ANSWER_SECONDS}


def test_foreign_programs_are_not_run(
    directory: Path, commands: Commands, on: Callable[[str], None]
) -> None:
    on("x86_64")
    findings = check.examine(directory, TARGET, GO)
    assert commands.calls == []
    warned = [f for f in findings if f.status is Status.WARN]
    assert [f.detail for f in warned] == ["not run: this machine is amd64"] * 2
    assert failed(directory) == []


@pytest.mark.parametrize(
    ("edit", "reported"),
    [
        (lambda m: m["host"].update(arch="amd64"), "compiled natively on: amd64, expected riscv64"),
        (lambda m: m.update(target="linux-riscv64-rva22u64"), "target: linux-riscv64-rva22u64, expected linux-riscv64"),
        (lambda m: m.update(revision="0" * 40), f"revision: {'0' * 40}, expected {factories.COMMIT}"),
        (lambda m: m["go"].update(version="go1.26.9"), "Go: go1.26.9, expected go1.26.10"),
    ],
)  # fmt: skip
def test_wrong_manifest(
    directory: Path, edit: Callable[[dict[str, Any]], object], reported: str
) -> None:
    edit_manifest(directory, edit)
    assert f"manifest.json: {reported}" in failed(directory)


def test_development_build_is_a_warning(directory: Path) -> None:
    edit_manifest(directory, lambda m: m["source"].update(pinned=False))
    (warned,) = [f for f in check.examine(directory, TARGET, GO) if f.status is Status.WARN]
    assert "development build" in warned.detail


def test_build_by_make_has_no_flags(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit_manifest(directory, lambda m: (m["build"].update(via="make", flags=[]), m["go"].update(origin="container")))  # fmt: skip
    info(monkeypatch, lambda i: i["Settings"].pop("-trimpath"))
    assert failed(directory) == []


# The schema.


def drop(*keys: str) -> Callable[[dict[str, Any]], object]:
    def edit(manifest: dict[str, Any]) -> None:
        for key in keys[:-1]:
            manifest = manifest[key]
        del manifest[keys[-1]]

    return edit


def put(value: object, *keys: str) -> Callable[[dict[str, Any]], object]:
    def edit(manifest: dict[str, Any]) -> None:
        for key in keys[:-1]:
            manifest = manifest[key]
        manifest[keys[-1]] = value

    return edit


def name_of_file(name: object) -> Callable[[dict[str, Any]], object]:
    return lambda manifest: manifest["files"][-1].update(name=name)


REQUIRED = ["manifest_version", "target", "version", "revision", "source", "go", "build", "host", "files"]  # fmt: skip
HOSTILE_NAMES = ["../x", "/etc/passwd", ".hidden", "bin/../../x", "bin/.x", "a//b", "", "a/", "a\0b", "a\nb", 5, None]  # fmt: skip


@pytest.mark.parametrize(
    "edit",
    [
        *map(drop, REQUIRED), *map(name_of_file, HOSTILE_NAMES),
        put(2, "manifest_version"), put("1", "manifest_version"), put("x", "extra"),
        put("linux-mips", "target"), put("../x", "target"), put("linux-riscv64-rva20u64", "target"),
        put("abc", "revision"), put(f"{factories.COMMIT}.x", "revision"), put("", "version"),
        put("ftp", "source", "kind"), put("yes", "source", "dirty"), drop("source", "pinned"),
        put("1.26", "go", "version"), put("sha256:x", "build", "inputs"), put(-1, "build", "seconds"),
        put("make it", "build", "via"), put("emulated", "host", "execution"), put("mips", "host", "arch"),
        put(0, "host", "cpus"), put([], "files"), put({}, "files"), put([5], "files"),
        lambda m: m["files"][0].update(size=0), lambda m: m["files"][0].update(sha256="F" * 64),
        lambda m: m["files"][0].pop("size"), lambda m: m["build"].update(environment={"A": 1}),
    ],
)  # fmt: skip
def test_schema_refuses(pristine: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((pristine / dist.MANIFEST).read_text())
    edit(manifest)
    assert schemas.validation_error(manifest, schemas.BINARIES)


def test_invalid_manifest_ends_the_check(directory: Path, commands: Commands) -> None:
    edit_manifest(directory, name_of_file("../../etc/passwd"))
    (reported,) = failed(directory)
    assert reported.startswith("manifest.json: schema: ")
    assert commands.calls == []


@pytest.mark.parametrize(
    "edit",
    [
        put(f"{factories.COMMIT}.m", "revision"), put("linux-riscv64-rva23u64", "target"),
        name_of_file("a/b/c.d"), name_of_file("a..b"), put("", "source", "sum"),
    ],
)  # fmt: skip
def test_schema_accepts(pristine: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((pristine / dist.MANIFEST).read_text())
    edit(manifest)
    assert schemas.validation_error(manifest, schemas.BINARIES) == ""


def test_schema_is_draft_7_and_closed() -> None:
    schema = json.loads(schemas.BINARIES.read_text())
    assert schema["$schema"] == "http://json-schema.org/draft-07/schema#"

    def objects(node: Any) -> Any:
        if isinstance(node, dict):
            if node.get("type") == "object":
                yield node
            for value in node.values():
                yield from objects(value)

    for node in objects(schema):
        assert "additionalProperties" in node, node
        # A profile, a bundle and C in it are optional.
        named = set(node.get("properties", {})) - {"pgo", "bundle", "c"}
        assert sorted(node.get("required", [])) == sorted(named), node


# The bundle.


@pytest.fixture
def whole(bundled: Path, commands: Commands) -> Path:
    """A published directory with a bundle, whose programs answer."""
    command_answers(commands, bundled)
    factories.answers(commands, bundled)
    return bundled


def test_good_bundle(whole: Path, commands: Commands) -> None:
    findings = check.examine(whole, TARGET, GO)
    assert {f.status for f in findings} == {Status.OK}
    subjects = {f.subject for f in findings}
    assert set(map(dist.binary, dist.BUNDLE)) <= subjects
    (seccomp,) = [f for f in findings if f.check == "seccomp"]
    assert seccomp.detail == "libseccomp: 2.6.0"
    plugin = str(whole / "bin" / "buildkit-cni-bridge")
    alone, asked = [call for call in commands.calls if call.args == [plugin]]
    assert "env" not in alone.options
    assert asked.options["env"]["CNI_COMMAND"] == "VERSION"
    assert [str(whole / "bin" / "rootlesskit"), "--version"] in commands.args


def test_foreign_bundle_is_not_run(
    whole: Path, on: Callable[[str], None], commands: Commands
) -> None:
    on("x86_64")
    findings = check.examine(whole, TARGET, GO)
    not_run = [f.subject for f in findings if f.status is Status.WARN]
    assert sorted(not_run) == sorted(map(dist.binary, [*dist.COMMANDS, *dist.BUNDLE]))
    assert failed(whole) == []
    assert commands.calls == []


@pytest.mark.parametrize(
    ("command", "answer", "message"),
    [
        ("buildkit-runc", {"stdout": "runc version 1.4.2\nlibseccomp: 2.6.0\n"}, "--version: runc version 1.4.2, expected runc version 1.4.3"),
        ("buildkit-runc", {"stdout": "runc version 1.4.3\n"}, "seccomp: not linked in, expected libseccomp"),
        ("rootlesskit", {"code": -11}, "--version: killed by SIGSEGV: , expected rootlesskit version 3.0.1"),
        ("rootlesskit", {"stdout": ""}, "--version: exit code 0: , expected rootlesskit version 3.0.1"),
        ("buildkit-cni-bridge", {"stdout": '{"supportedVersions": ["1.0.0"]}', "stderr": "CNI bridge plugin version unknown\n"}, "version: CNI bridge plugin version unknown, expected CNI bridge plugin v1.9.1"),
        ("buildkit-cni-loopback", {"stdout": '{"supportedVersions": ["0.4.0"]}', "stderr": "CNI loopback plugin v1.9.1\n"}, 'VERSION: {"supportedVersions": ["0.4.0"]}, expected CNI 1.0.0'),
        ("buildkit-cni-loopback", {"stdout": "[]", "stderr": "CNI loopback plugin v1.9.1\n"}, "VERSION: [], expected CNI 1.0.0"),
        ("buildkit-cni-loopback", {"stdout": "garbage", "stderr": "CNI loopback plugin v1.9.1\n"}, "VERSION: garbage, expected CNI 1.0.0"),
    ],
)  # fmt: skip
def test_wrong_answer(
    whole: Path, commands: Commands, command: str, answer: dict[str, Any], message: str
) -> None:
    commands.answer(str(whole / "bin" / command), **answer)
    assert f"bin/{command}: {message}" in failed(whole)


@pytest.mark.parametrize(
    ("command", "setting", "value"),
    [
        ("buildkit-runc", "CGO_ENABLED", "0"), ("rootlesskit", "CGO_ENABLED", "1"),
        ("buildkit-runc", "-tags", "netgo"), ("rootlesskit", "-tags", "evil"),
        ("buildkit-cni-firewall", "GOARCH", "amd64"), ("rootlesskit", "-pgo", "default.pgo"),
    ],
)  # fmt: skip
def test_wrong_compilation(
    whole: Path, monkeypatch: pytest.MonkeyPatch, command: str, setting: str, value: str
) -> None:
    def read(path: Path, _go: object) -> dict[str, Any]:
        changes = {setting: value} if path.name == command else {}
        return factories.build_info(path.name, TARGET, **changes)

    monkeypatch.setattr(check, "read_build_info", read)
    (reported,) = failed(whole)
    assert reported.startswith(f"bin/{command}: ")
    assert value in reported


def test_dynamic_runc(whole: Path) -> None:
    (whole / "bin" / "buildkit-runc").write_bytes(factories.elf(needed="libseccomp.so.2"))
    assert "bin/buildkit-runc: linked: libseccomp.so.2, expected statically" in failed(whole)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda b: b["host"].update(arch="amd64"), "compiled natively on: amd64, expected riscv64"),
        (lambda b: b["go"].update(version="go1.26.9"), "Go: go1.26.9, expected go1.26.10"),
        (lambda b: b["components"][0].update(version="v1.4.2"), "runc: github.com/opencontainers/runc@v1.4.2, expected github.com/opencontainers/runc@v1.4.3"),
        (lambda b: b["components"][2].update(sum="h1:other"), "rootlesskit: github.com/rootless-containers/rootlesskit/v3@v3.0.1, expected"),
        (lambda b: b["components"][1]["flags"].append("-race"), "cni-plugins: github.com/containernetworking/plugins@v1.9.1, expected"),
        (lambda b: b["components"].pop(), "components: ['runc', 'cni-plugins'], expected"),
    ],
)  # fmt: skip
def test_bundle_differs_from_pins(
    whole: Path, edit: Callable[[dict[str, Any]], object], message: str
) -> None:
    edit_manifest(whole, lambda manifest: edit(manifest["bundle"]))
    assert any(one.startswith(f"manifest.json: bundle: {message}") for one in failed(whole))


def test_program_missing_in_the_manifest(whole: Path) -> None:
    edit_manifest(whole, lambda m: m["bundle"]["components"][2].update(commands={}))
    assert any(one.startswith("bin/rootlesskit: program: ") for one in failed(whole))


@pytest.mark.parametrize(
    "edit",
    [
        lambda m: m.update(bundle=[]), lambda m: m.update(bundle={}),
        lambda m: m["bundle"].update(extra=1), lambda m: m["bundle"].update(components=[]),
        lambda m: m["bundle"]["components"][0].update(name="evil"),
        lambda m: m["bundle"]["components"][0].pop("sum"),
        lambda m: m["bundle"]["components"][0]["c"].pop("compiler"),
        lambda m: m["bundle"]["components"][0]["c"]["libraries"][0].update(package="libc6"),
    ],
)  # fmt: skip
def test_schema_refuses_a_bundle(whole: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    edit_manifest(whole, edit)
    (reported,) = failed(whole)
    assert reported.startswith("manifest.json: schema: ")
    assert "data.bundle" in reported


def test_unrecorded_bundle_is_refused(whole: Path) -> None:
    edit_manifest(whole, lambda manifest: manifest.pop("bundle"))
    assert any(one.startswith("manifest.json: files: ") for one in failed(whole))


# The command.


def test_require_good(directory: Path) -> None:
    (directory / "extra").touch()
    with pytest.raises(CheckError) as caught:
        check.require_good(directory, TARGET, GO)
    assert "linux-riscv64" in caught.value.brief
    assert "extra" in caught.value.brief


def test_every_target_is_examined(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "ensure", lambda _pins: GO)
    assert list(check.examine_all()) == ["linux-riscv64"]
    assert list(check.examine_all("linux-riscv64")) == ["linux-riscv64"]


def test_empty_dist_needs_no_go(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "ensure", lambda _pins: pytest.fail("asked for Go"))
    with pytest.raises(CheckError, match=r"nothing in .*dist/"):
        check.examine_all()
    with pytest.raises(CheckError, match="no artifacts in"):
        check.examine_all("linux-riscv64")
    with pytest.raises(UsageError, match="is not a target"):
        check.examine_all("../../etc")
    project.DIST.mkdir()
    (project.DIST / "linux-riscv64").mkdir()
    with pytest.raises(CheckError, match="no artifacts in"):
        check.examine_all()
