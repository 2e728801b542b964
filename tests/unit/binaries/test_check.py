from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64 import dist, pins, project, schemas
from buildkit_riscv64.arch import Target
from buildkit_riscv64.binaries import check, toolchain
from buildkit_riscv64.console import Status
from buildkit_riscv64.errors import CheckError, UsageError

from .. import making
from ..making import GO, Commands, edit_manifest

TARGET = Target.parse("linux-riscv64")


@pytest.fixture
def folder(finished: Path, commands: Commands) -> Path:
    """A finished folder whose programs answer."""
    for command in dist.COMMANDS:
        said = f"{command} {pins.MODULE} v0.32.2 {making.COMMIT}\n"
        commands.answer(str(finished / "bin" / command), "--version", stdout=said)
        commands.answer(str(finished / "bin" / command), "--help", stdout="USAGE:\n")
    return finished


def failed(folder: Path) -> list[str]:
    """What is refused."""
    findings = check.examine(folder, TARGET, GO)
    return [f"{f.subject}: {f.check}: {f.detail}" for f in findings if f.status is Status.FAIL]


def test_a_good_folder(folder: Path, commands: Commands) -> None:
    findings = check.examine(folder, TARGET, GO)
    assert {f.status for f in findings} == {Status.OK}
    assert {
        "schema", "target", "compiled natively on", "version", "revision", "Go", "files", "sha256",
        "complete", "nothing else", "ELF class", "machine", "linked", "package", "GOOS/GOARCH",
        "CGO_ENABLED", "GORISCV64", "trimpath", "tags", "module", "runs", "--version", "--help",
    } - {f.check for f in findings} == {"runs"}  # fmt: skip
    binary = str(folder / "bin" / "buildctl")
    assert [binary, "--version"] in commands.args
    assert [binary, "--help"] in commands.args
    check.require_good(folder, TARGET, GO)


def test_a_verdict_beside_it_is_no_intruder(folder: Path) -> None:
    (folder / dist.VERDICT).write_text("{}")
    assert failed(folder) == []


@pytest.mark.parametrize(
    "name", ["extra", ".hidden", "bin/extra", "bin/.hidden", "deep/er/file", "empty/"]
)
def test_an_extra_file(folder: Path, name: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir() if name.endswith("/") else path.write_text("x")
    (told,) = failed(folder)
    assert told.startswith(".: nothing else: ")
    assert name.rstrip("/") in told


def test_a_dangling_link_is_an_extra_file(folder: Path) -> None:
    (folder / "link").symlink_to("/nowhere")
    assert failed(folder) == [".: nothing else: link, expected nothing"]


@pytest.mark.parametrize("name", ["buildkit-v0.32.2.linux-riscv64.tar.gz", dist.PROVENANCE, "buildctl.cdx.json"])  # fmt: skip
def test_a_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert failed(folder) == [f"{name}: sha256: cannot be read: No such file or directory"]


def test_a_missing_program(folder: Path) -> None:
    (folder / "bin" / "buildctl").unlink()
    told = failed(folder)
    assert told[0].startswith("bin/buildctl: sha256: cannot be read")
    assert told[1].startswith("bin/buildctl: program: buildctl is not an ELF program")


def test_a_changed_byte(folder: Path) -> None:
    with (folder / "bin" / "buildctl").open("ab") as file:
        file.write(b"x")
    (told,) = failed(folder)
    assert told.startswith("bin/buildctl: sha256: ")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"0  bin/buildctl\n", None])
def test_damaged_sums(folder: Path, content: bytes | None) -> None:
    if content is None:
        (folder / dist.SUMS).unlink()
    else:
        (folder / dist.SUMS).write_bytes(content)
    assert failed(folder) == ["SHA256SUMS: complete: differs, expected all files"]


def test_a_changed_manifest_is_seen_in_the_sums(folder: Path) -> None:
    text = (folder / dist.MANIFEST).read_text()
    (folder / dist.MANIFEST).write_text(text.replace('"seconds": 100.0', '"seconds": 1.0'))
    assert failed(folder) == ["SHA256SUMS: complete: differs, expected all files"]


def forge(folder: Path, command: str, content: bytes) -> None:
    """Another program, with manifest and sums that agree with it."""
    path = folder / dist.binary(command)
    path.write_bytes(content)

    def record(manifest: dict[str, Any]) -> None:
        for file in manifest["files"]:
            if file["name"] == dist.binary(command):
                file.update(dist.record(folder, [file["name"]])[0])

    edit_manifest(folder, record)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (making.elf("amd64"), "machine: EM_X86_64, expected EM_RISCV"),
        (making.elf("riscv64", bits=32), "ELF class: 32, expected 64"),
        (making.elf("riscv64", interpreter="/lib/ld.so.1"), "linked: /lib/ld.so.1, expected statically"),
        (making.elf("riscv64", needed="libc.so.6"), "linked: libc.so.6, expected statically"),
    ],
)  # fmt: skip
def test_a_forged_program(folder: Path, content: bytes, told: str) -> None:
    forge(folder, "buildctl", content)
    assert failed(folder) == [f"bin/buildctl: {told}"]


def test_a_program_of_this_system_is_refused(folder: Path) -> None:
    forge(folder, "buildkitd", Path("/bin/sh").read_bytes())
    assert any(told.startswith("bin/buildkitd: linked: /lib") for told in failed(folder))


@pytest.mark.parametrize("content", [b"#!/bin/sh\necho yes\n", b"", b"\x7fELF"])
def test_no_program_at_all(folder: Path, content: bytes) -> None:
    forge(folder, "buildctl", content or b"\0")
    (told,) = failed(folder)
    assert told.startswith("bin/buildctl: program: buildctl is not an ELF program")


def info(monkeypatch: pytest.MonkeyPatch, edit: Callable[[dict[str, Any]], object]) -> None:
    """Programs in which Go's linker recorded something else."""

    def read(path: Path, _go: object) -> dict[str, Any]:
        made = making.build_info(path.name, TARGET)
        edit(made)
        return made

    monkeypatch.setattr(check, "read_build_info", read)


def setting(name: str, value: str) -> Callable[[dict[str, Any]], object]:
    return lambda info: info["Settings"].update({name: value})


@pytest.mark.parametrize(
    ("edit", "told"),
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
        (lambda i: i["Main"].update(Sum="h1:other"), f"module: h1:other, expected {making.SUM}"),
        (lambda i: i.pop("Main"), f"module: , expected {making.SUM}"),
    ],
)  # fmt: skip
def test_another_build_information(folder: Path, monkeypatch: pytest.MonkeyPatch, edit: Callable[[dict[str, Any]], object], told: str) -> None:  # fmt: skip
    info(monkeypatch, edit)
    assert f"bin/buildctl: {told}" in failed(folder)


def test_no_build_information(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(path: Path, _go: object) -> dict[str, Any]:
        raise CheckError(f"{path.name} has no Go build information")

    monkeypatch.setattr(check, "read_build_info", none)
    assert "bin/buildctl: program: buildctl has no Go build information" in failed(folder)


def test_an_experiment_is_no_other_go(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info(monkeypatch, lambda i: i.update(GoVersion="go1.26.10 X:boringcrypto"))
    assert failed(folder) == []


@pytest.mark.parametrize(
    ("code", "stdout", "stderr", "told"),
    [
        (0, "buildctl github.com/moby/buildkit v0.32.1 x", "", "buildctl github.com/moby/buildkit v0.32.1 x, expected buildctl github.com/moby/buildkit v0.32.2 "),
        (-11, "", "", "killed by SIGSEGV: , expected"),
        (124, "", "no answer within 60 s", "exit code 124: no answer within 60 s, expected"),
        (126, "", "x: cannot be executed: Exec format error", "exit code 126: x: cannot be executed"),
    ],
)  # fmt: skip
def test_a_program_that_does_not_answer(folder: Path, commands: Commands, code: int, stdout: str, stderr: str, told: str) -> None:  # fmt: skip
    commands.answer(str(folder / "bin" / "buildctl"), code=code, stdout=stdout, stderr=stderr)
    assert failed(folder)[0].startswith(f"bin/buildctl: --version: {told}")
    assert failed(folder)[1].startswith("bin/buildctl: --help: ")


def test_programs_get_a_limit_of_time(folder: Path, commands: Commands) -> None:
    failed(folder)
    assert {call.options["timeout"] for call in commands.calls} == {check.ANSWER_SECONDS}


def test_programs_of_another_machine_are_not_run(folder: Path, commands: Commands, on: Callable[[str], None]) -> None:  # fmt: skip
    on("x86_64")
    findings = check.examine(folder, TARGET, GO)
    assert commands.calls == []
    warned = [f for f in findings if f.status is Status.WARN]
    assert [f.detail for f in warned] == ["not run: this machine is amd64"] * 2
    assert failed(folder) == []


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda m: m["host"].update(arch="amd64"), "compiled natively on: amd64, expected riscv64"),
        (lambda m: m.update(target="linux-riscv64-rva22u64"), "target: linux-riscv64-rva22u64, expected linux-riscv64"),
        (lambda m: m.update(revision="0" * 40), f"revision: {'0' * 40}, expected {making.COMMIT}"),
        (lambda m: m["go"].update(version="go1.26.9"), "Go: go1.26.9, expected go1.26.10"),
    ],
)  # fmt: skip
def test_a_manifest_that_says_something_else(folder: Path, edit: Callable[[dict[str, Any]], object], told: str) -> None:  # fmt: skip
    edit_manifest(folder, edit)
    assert f"manifest.json: {told}" in failed(folder)


def test_a_development_build_is_a_warning(folder: Path) -> None:
    edit_manifest(folder, lambda m: m["source"].update(pinned=False))
    (warned,) = [f for f in check.examine(folder, TARGET, GO) if f.status is Status.WARN]
    assert warned.detail == "v0.32.2: a development build, not the pinned v0.32.2"


def test_a_build_by_make_has_no_flags_of_ours(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    edit_manifest(folder, lambda m: (m["build"].update(via="make", flags=[]), m["go"].update(origin="container")))  # fmt: skip
    info(monkeypatch, lambda i: i["Settings"].pop("-trimpath"))
    assert failed(folder) == []


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
    return lambda manifest: manifest["files"][0].update(name=name)


REQUIRED = ["manifest_version", "target", "version", "revision", "source", "go", "build", "host", "files"]  # fmt: skip
HOSTILE_NAMES = ["../x", "/etc/passwd", ".hidden", "bin/../../x", "bin/.x", "a//b", "", "a/", "a\0b", "a\nb", 5, None]  # fmt: skip


@pytest.mark.parametrize(
    "edit",
    [
        *map(drop, REQUIRED), *map(name_of_file, HOSTILE_NAMES),
        put(2, "manifest_version"), put("1", "manifest_version"), put("x", "extra"),
        put("linux-mips", "target"), put("../x", "target"), put("linux-riscv64-rva20u64", "target"),
        put("abc", "revision"), put(f"{making.COMMIT}.x", "revision"), put("", "version"),
        put("ftp", "source", "kind"), put("yes", "source", "dirty"), drop("source", "pinned"),
        put("1.26", "go", "version"), put("sha256:x", "build", "inputs"), put(-1, "build", "seconds"),
        put("make it", "build", "via"), put("emulated", "host", "execution"), put("mips", "host", "arch"),
        put(0, "host", "cpus"), put([], "files"), put({}, "files"), put([5], "files"),
        lambda m: m["files"][0].update(size=0), lambda m: m["files"][0].update(sha256="F" * 64),
        lambda m: m["files"][0].pop("size"), lambda m: m["build"].update(environment={"A": 1}),
    ],
)  # fmt: skip
def test_the_schema_refuses(pristine: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((pristine / dist.MANIFEST).read_text())
    edit(manifest)
    assert schemas.objection(manifest, schemas.BINARIES)


def test_nothing_else_is_looked_at_where_the_schema_objects(
    folder: Path, commands: Commands
) -> None:
    edit_manifest(folder, name_of_file("../../etc/passwd"))
    (told,) = failed(folder)
    assert told.startswith("manifest.json: schema: ")
    assert commands.calls == []


@pytest.mark.parametrize(
    "edit",
    [
        put(f"{making.COMMIT}.m", "revision"), put("linux-riscv64-rva23u64", "target"),
        name_of_file("a/b/c.d"), name_of_file("a..b"), put("", "source", "sum"),
    ],
)  # fmt: skip
def test_the_schema_accepts(pristine: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((pristine / dist.MANIFEST).read_text())
    edit(manifest)
    assert schemas.objection(manifest, schemas.BINARIES) == ""


def test_the_schema_is_draft_7_and_closed() -> None:
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
        # Only what was compiled with a profile has one; only some have a bundle, or C in it.
        named = set(node.get("properties", {})) - {"pgo", "bundle", "c"}
        assert sorted(node.get("required", [])) == sorted(named), node


# The bundle.


@pytest.fixture
def whole(bundled: Path, commands: Commands) -> Path:
    """A finished folder with a bundle, whose programs answer."""
    for command in dist.COMMANDS:
        said = f"{command} {pins.MODULE} v0.32.2 {making.COMMIT}\n"
        commands.answer(str(bundled / "bin" / command), "--version", stdout=said)
        commands.answer(str(bundled / "bin" / command), "--help", stdout="USAGE:\n")
    making.answers(commands, bundled)
    return bundled


def test_a_good_bundle(whole: Path, commands: Commands) -> None:
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


def test_on_another_machine_a_bundle_is_not_run(whole: Path, on: Callable[[str], None], commands: Commands) -> None:  # fmt: skip
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
def test_a_program_that_answers_otherwise(whole: Path, commands: Commands, command: str, answer: dict[str, Any], message: str) -> None:  # fmt: skip
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
def test_a_program_that_was_compiled_otherwise(whole: Path, monkeypatch: pytest.MonkeyPatch, command: str, setting: str, value: str) -> None:  # fmt: skip
    def read(path: Path, _go: object) -> dict[str, Any]:
        changes = {setting: value} if path.name == command else {}
        return making.build_info(path.name, TARGET, **changes)

    monkeypatch.setattr(check, "read_build_info", read)
    (told,) = failed(whole)
    assert told.startswith(f"bin/{command}: ")
    assert value in told


def test_a_runc_that_is_not_static(whole: Path) -> None:
    (whole / "bin" / "buildkit-runc").write_bytes(making.elf(needed="libseccomp.so.2"))
    assert "bin/buildkit-runc: linked: libseccomp.so.2, expected statically" in failed(whole)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda b: b["host"].update(arch="amd64"), "compiled natively on: amd64, expected riscv64"),
        (lambda b: b["go"].update(version="go1.26.9"), "Go: go1.26.9, expected go1.26.10"),
        (lambda b: b["components"][0].update(version="v1.4.2"), "runc: github.com/opencontainers/runc@v1.4.2, expected github.com/opencontainers/runc@v1.4.3 as it is pinned"),
        (lambda b: b["components"][2].update(sum="h1:other"), "rootlesskit: github.com/rootless-containers/rootlesskit/v3@v3.0.1, expected"),
        (lambda b: b["components"][1]["flags"].append("-race"), "cni-plugins: github.com/containernetworking/plugins@v1.9.1, expected"),
        (lambda b: b["components"].pop(), "components: ['runc', 'cni-plugins'], expected"),
    ],
)  # fmt: skip
def test_a_bundle_that_is_not_what_is_pinned(whole: Path, edit: Callable[[dict[str, Any]], object], message: str) -> None:  # fmt: skip
    edit_manifest(whole, lambda manifest: edit(manifest["bundle"]))
    assert any(one.startswith(f"manifest.json: bundle: {message}") for one in failed(whole))


def test_a_program_of_which_the_manifest_says_nothing(whole: Path) -> None:
    edit_manifest(whole, lambda m: m["bundle"]["components"][2].update(commands={}))
    assert "bin/rootlesskit: program: the manifest does not say what rootlesskit comes from" in failed(whole)  # fmt: skip


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
def test_a_bundle_that_the_schema_refuses(whole: Path, edit: Callable[[dict[str, Any]], object]) -> None:  # fmt: skip
    edit_manifest(whole, edit)
    (told,) = failed(whole)
    assert told.startswith("manifest.json: schema: data.bundle")


def test_a_bundle_without_its_record_is_no_artifact(whole: Path) -> None:
    edit_manifest(whole, lambda manifest: manifest.pop("bundle"))
    assert any(one.startswith("manifest.json: files: ") for one in failed(whole))


# The command.


def test_require_good(folder: Path) -> None:
    (folder / "extra").touch()
    with pytest.raises(CheckError) as caught:
        check.require_good(folder, TARGET, GO)
    assert caught.value.brief == "linux-riscv64: .: nothing else: extra, expected nothing"


def test_everything_in_dist_is_examined(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "ensure", lambda _pins: GO)
    assert list(check.examine_all()) == ["linux-riscv64"]
    assert list(check.examine_all("linux-riscv64")) == ["linux-riscv64"]


def test_nothing_to_examine_needs_no_go(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
