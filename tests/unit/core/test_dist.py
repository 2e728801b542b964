from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64.core import dist, filesystem, project
from buildkit_riscv64.core.arch import Architecture, Target
from buildkit_riscv64.core.errors import BusyError, CheckError, NotNativeError, StorageError

from .. import documents
from ..factories import IRREGULAR, edit_manifest, promptly

TARGET = Target.parse("linux-riscv64")


@pytest.fixture
def place(checkout: Path, on: Callable[[str], None]) -> Path:
    on("riscv64")
    project.DIST.mkdir()
    return project.DIST


def stage_of(text: str, *, arch: str = "riscv64") -> dict[str, str]:
    manifest = documents.on_host(documents.BINARIES, cpu=text, arch=arch)
    return {"bin/buildctl": text, dist.MANIFEST: json.dumps(manifest)}


def image_of(text: str) -> str:
    return json.dumps(documents.on_host(documents.IMAGE, cpu=text))


def write(directory: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)


def tree(directory: Path) -> dict[str, str]:
    return {
        str(p.relative_to(directory)): p.read_text() for p in directory.rglob("*") if p.is_file()
    }


def publish(text: str) -> dist.Artifacts:
    with dist.lock(TARGET), dist.staging(TARGET) as stage:
        write(stage, stage_of(text))
        return dist.publish(stage, TARGET)


def test_names() -> None:
    assert dist.binary("buildkitd") == "bin/buildkitd"
    assert dist.sbom("buildctl") == "buildctl.cdx.json"
    assert dist.tarball("v0.32.2", Target.parse("linux-riscv64-rva22u64")) == (
        "buildkit-v0.32.2.linux-riscv64-rva22u64.tar.gz"
    )
    assert dist.directory(TARGET) == project.DIST / "linux-riscv64"
    assert dist.image_directory(TARGET, "root") == project.DIST / "linux-riscv64/image/root"
    assert dist.image_archive("v0.32.2", TARGET, "") == ("buildkit-v0.32.2.linux-riscv64.image.tar")
    assert dist.image_archive("v0.32.2", TARGET, "-rootless") == (
        "buildkit-rootless-v0.32.2.linux-riscv64.image.tar"
    )


def test_first_publication(place: Path) -> None:
    published = publish("one")
    assert published.path == place / "linux-riscv64"
    assert published.manifest["host"]["cpu"] == "one"
    assert [path.name for path in place.iterdir() if not path.name.startswith(".")] == ["linux-riscv64"]  # fmt: skip
    assert not list(place.glob(".*staging*"))


def test_publish_replaces_the_whole_directory(place: Path) -> None:
    publish("one")
    (place / "linux-riscv64" / dist.VERDICT).write_text("of the old one")
    publish("two")
    assert tree(place / "linux-riscv64") == stage_of("two")
    assert not list(place.glob(".*staging*"))


def test_publish_is_one_exchange(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish("one")
    monkeypatch.setattr(Path, "rename", None)  # leaves only the exchange
    monkeypatch.setattr(Path, "replace", None)
    publish("two")
    assert tree(place / "linux-riscv64") == stage_of("two")


def fail_exchange(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    class Libc:
        def renameat2(self, *_args: object) -> int:
            return -1

    monkeypatch.setattr("ctypes.CDLL", lambda *_args, **_options: Libc())
    monkeypatch.setattr("ctypes.get_errno", lambda: code)


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS])
def test_filesystems_without_exchange(
    place: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    publish("one")
    fail_exchange(monkeypatch, code)
    assert publish("two").manifest["host"]["cpu"] == "two"
    assert tree(place / "linux-riscv64") == stage_of("two")
    assert not list(place.glob(".*staging*"))


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EIO])
def test_a_failed_publish_keeps_the_old_directory(
    place: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    publish("one")
    fail_exchange(monkeypatch, code)
    with pytest.raises(StorageError, match="linux-riscv64"):
        publish("two")
    assert tree(place / "linux-riscv64") == stage_of("one")


def test_a_failed_rename_restores_the_old_directory(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish("one")
    fail_exchange(monkeypatch, errno.EINVAL)
    rename = Path.rename

    def no_new_one(path: Path, to: Path) -> Path:
        if path.name == ".linux-riscv64.staging":
            raise OSError(errno.EIO, "Input/output error", str(path))
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", no_new_one)
    with pytest.raises(StorageError):
        publish("two")
    assert tree(place / "linux-riscv64") == stage_of("one")


def test_an_interruption_keeps_the_old_directory(place: Path) -> None:
    publish("one")
    with pytest.raises(KeyboardInterrupt), dist.lock(TARGET), dist.staging(TARGET) as stage:  # noqa: PT012
        write(stage, stage_of("two"))
        raise KeyboardInterrupt
    assert tree(place / "linux-riscv64") == stage_of("one")
    assert not list(place.glob(".*staging*"))


@pytest.mark.parametrize("arch", ["amd64", "arm64"])
def test_cross_compiled_binaries_are_refused(place: Path, arch: str) -> None:
    publish("one")
    with pytest.raises(NotNativeError, match="linux-riscv64"), dist.staging(TARGET) as stage:  # noqa: PT012
        write(stage, stage_of("two", arch=arch))
        dist.publish(stage, TARGET)
    assert tree(place / "linux-riscv64") == stage_of("one")


def test_publish_checks_the_real_machine(place: Path, on: Callable[[str], None]) -> None:
    on("x86_64")
    with pytest.raises(NotNativeError, match="amd64"):
        publish("one")
    assert not (place / "linux-riscv64").exists()


@pytest.mark.parametrize("machine", list(Architecture))
def test_publish_from_another_machine(
    place: Path, on: Callable[[str], None], machine: Architecture
) -> None:
    on("x86_64")
    with dist.staging(TARGET) as stage:
        write(stage, stage_of("one"))
        if machine is Architecture.RISCV64:
            dist.publish(stage, TARGET, machine=machine)
        else:
            with pytest.raises(NotNativeError, match=rf"\b{machine}\b"):
                dist.publish(stage, TARGET, machine=machine)
    assert (place / "linux-riscv64").exists() is (machine is Architecture.RISCV64)


def test_a_stage_without_manifest_is_refused(place: Path) -> None:
    with pytest.raises(CheckError, match="staging"), dist.staging(TARGET) as stage:
        dist.publish(stage, TARGET)
    assert not (place / "linux-riscv64").exists()


def test_leftovers_of_a_killed_run_are_removed(place: Path) -> None:
    write(place / ".linux-riscv64.staging", {"scratch/deep/file": "half"})
    write(place / ".linux-riscv64.staging.old", {"bin/buildctl": "old"})
    with dist.staging(TARGET) as stage:
        assert list(stage.iterdir()) == []
        assert not (place / ".linux-riscv64.staging.old").exists()


def test_staging_is_in_dist(place: Path) -> None:
    with dist.staging(TARGET) as stage:
        assert stage.parent == place
        assert stage.name.startswith(".")
    assert dist.targets() == []


def test_parts_are_staged_separately(place: Path) -> None:
    with (
        dist.staging(TARGET) as whole,
        dist.staging(TARGET, part="image/root") as part,
        dist.staging(TARGET, part="image/rootless") as another,
    ):
        assert {path.name for path in (whole, part, another)} == {
            ".linux-riscv64.staging", ".linux-riscv64.image-root.staging",
            ".linux-riscv64.image-rootless.staging",
        }  # fmt: skip
        assert all(path.is_dir() for path in (whole, part, another))
    assert list(place.iterdir()) == []


# Images.


def publish_image(text: str, variant: str = "root") -> dist.Artifacts:
    part = f"image/{variant}"
    with dist.lock(TARGET), dist.staging(TARGET, part=part) as stage:
        write(stage, {dist.MANIFEST: image_of(text)})
        return dist.publish_part(stage, TARGET, part)


def test_publish_an_image(place: Path) -> None:
    publish("binaries")
    published = publish_image("one")
    assert published.path == place / "linux-riscv64/image/root"
    assert published.manifest["host"]["cpu"] == "one"
    assert (place / "linux-riscv64/bin/buildctl").read_text() == "binaries"
    assert not list(place.glob(".*staging*"))


def test_an_image_replaces_only_its_variant(place: Path) -> None:
    publish_image("one")
    (place / "linux-riscv64/image/root/of the old one").touch()
    publish_image("other", "rootless")
    publish_image("two")
    assert tree(place / "linux-riscv64/image") == {
        "root/manifest.json": image_of("two"), "rootless/manifest.json": image_of("other")
    }  # fmt: skip


def test_a_failed_publish_keeps_the_old_image(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_image("one")
    fail_exchange(monkeypatch, errno.EIO)
    with pytest.raises(StorageError, match="image/root"):
        publish_image("two")
    assert tree(place / "linux-riscv64/image") == {"root/manifest.json": image_of("one")}


def test_other_binaries_remove_the_image(place: Path) -> None:
    publish("binaries")
    publish_image("image")
    publish("other binaries")
    assert not (place / "linux-riscv64/image").exists()


@pytest.fixture
def rebuilt(finished: Path, tmp_path: Path) -> Path:
    """A staged rebuild; the finished directory has an image and evidence."""
    stage = Path(shutil.copytree(finished, tmp_path / "stage"))
    write(finished, {"image/root/manifest.json": "image", "evidence/index.html": "evidence"})
    write(finished, {f"{dist.PACKAGES}/a.deb": "package", dist.VERDICT: "{}"})
    return stage


def test_image_and_evidence_of_unchanged_commands_stay(finished: Path, rebuilt: Path) -> None:
    (rebuilt / "new").touch()
    published = dist.publish(rebuilt, TARGET)
    assert (published.path / "new").exists()
    assert (published.path / "image/root/manifest.json").read_text() == "image"
    assert (published.path / "evidence/index.html").read_text() == "evidence"
    # Packages and the verdict depend on the whole directory.
    assert not (published.path / dist.PACKAGES).exists()
    assert not (published.path / dist.VERDICT).exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda finished, _stage: (finished / "bin" / "buildctl").write_bytes(b"damaged"),
        lambda _finished, stage: edit_manifest(stage, lambda m: m["build"].update(inputs=f"sha256:{'1' * 64}")),
        lambda _finished, stage: edit_manifest(stage, lambda m: m["files"][0].update(sha256="1" * 64)),
        lambda finished, _stage: edit_manifest(finished, lambda m: m["build"].pop("inputs")),
        lambda finished, _stage: (finished / "manifest.json").write_text("{"),
    ],
    ids=["damaged", "other inputs", "other bytes", "no inputs", "garbage"],
)  # fmt: skip
def test_image_and_evidence_of_changed_commands_go(
    finished: Path, rebuilt: Path, change: Callable[[Path, Path], object]
) -> None:
    change(finished, rebuilt)
    published = dist.publish(rebuilt, TARGET)
    assert not (published.path / "image").exists()
    assert not (published.path / "evidence").exists()


def test_no_space_for_image_and_evidence(
    finished: Path, rebuilt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(rebuilt / "image"))

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(StorageError):
        dist.publish(rebuilt, TARGET)
    assert (finished / "image/root/manifest.json").read_text() == "image"


def test_a_bundle_of_another_machine_is_refused(bundled: Path, tmp_path: Path) -> None:
    stage = Path(shutil.copytree(bundled, tmp_path / "stage"))
    edit_manifest(stage, lambda m: m["bundle"]["host"].update(arch="amd64"))
    with pytest.raises(NotNativeError, match="amd64"):
        dist.publish(stage, TARGET)


@pytest.mark.parametrize(
    ("part", "document", "missing", "damaged"),
    [
        ("image/root", dist.MANIFEST, "`invoke build-image`", "`invoke build-image --force`"),
        (dist.EVIDENCE, dist.RESULTS, "`invoke validate`", "`invoke validate`"),
    ],
)
def test_missing_and_damaged_parts(
    place: Path, part: str, document: str, missing: str, damaged: str
) -> None:
    directory = dist.directory(TARGET) / part
    with pytest.raises(CheckError, match=rf"{part}\b") as none:
        dist.load(directory)
    assert missing in none.value.hint
    directory.mkdir(parents=True)
    (directory / document).write_text("{")
    with pytest.raises(CheckError, match=document) as garbage:
        dist.load(directory)
    assert damaged in garbage.value.hint


def test_publish_evidence(place: Path) -> None:
    publish_image("image")
    for text in ("one", "two"):
        evidence = documents.on_host(documents.EVIDENCE, cpu=text)
        with dist.lock(TARGET), dist.staging(TARGET, part=dist.EVIDENCE) as stage:
            write(stage, {dist.RESULTS: json.dumps(evidence)})
            published = dist.publish_part(stage, TARGET, dist.EVIDENCE)
        assert published.path == dist.evidence_directory(TARGET)
        assert published.manifest == evidence
    assert tree(place / "linux-riscv64") == {
        "image/root/manifest.json": image_of("image"), "evidence/evidence.json": json.dumps(evidence)
    }  # fmt: skip
    publish("other binaries")
    assert not dist.evidence_directory(TARGET).exists()


# Modes and owners.


@pytest.mark.parametrize("umask", [0o077, 0o022, 0])
def test_published_files_are_readable_for_all(place: Path, umask: int) -> None:
    part = f"{dist.IMAGE}/root"
    before = os.umask(umask)
    try:
        with dist.lock(TARGET), dist.staging(TARGET, part=part) as stage:
            write(stage, {dist.MANIFEST: image_of("x"), "layout/one": "", "bin/program": ""})
            (stage / "bin/program").chmod(0o700)
            (stage / "link").symlink_to("/dev/null")
            dist.publish_part(stage, TARGET, part)
    finally:
        os.umask(before)
    found = {
        str(path.relative_to(dist.directory(TARGET))): f"{path.stat().st_mode & 0o777:o}"
        for path in dist.directory(TARGET).rglob("*")
        if not path.is_symlink()
    }
    files = {f"{part}/manifest.json", f"{part}/layout/one"}
    assert {name for name, mode in found.items() if mode == "644"} == files
    assert {mode for name, mode in found.items() if name not in files} == {"755"}
    assert f"{dist.directory(TARGET).stat().st_mode & 0o777:o}" == "755"


@pytest.mark.parametrize(("us", "owner", "all_given"), [(0, 1000, True), (0, 0, False), (1000, 1000, False)])  # fmt: skip
def test_new_files_of_root_belong_to_the_owner_of_the_directory(
    place: Path, monkeypatch: pytest.MonkeyPatch, us: int, owner: int, *, all_given: bool
) -> None:
    given: set[Path] = set()

    def chown(path: Path, user: int, group: int, *, follow_symlinks: bool) -> None:
        assert (user, group, follow_symlinks) == (owner, 50, False)
        given.add(path)

    monkeypatch.setattr(os, "geteuid", lambda: us)
    monkeypatch.setattr(os, "chown", chown)
    monkeypatch.setattr(dist, "_owner", lambda _path: (owner, 50))
    dist.directory(TARGET).mkdir()
    final = dist.image_directory(TARGET, "root")
    with dist.lock(TARGET), dist.staging(TARGET, part=f"{dist.IMAGE}/root") as stage:
        write(stage, {dist.MANIFEST: image_of("x"), "layout/one": ""})
        new = {place / ".linux-riscv64.lock", final.parent, stage, *stage.rglob("*")}
        dist.publish_part(stage, TARGET, f"{dist.IMAGE}/root")
    assert given == (new if all_given else set())


# Locks.


def test_a_lock_is_released(place: Path) -> None:
    for _ in range(2):
        with dist.lock(TARGET):
            assert (place / ".linux-riscv64.lock").read_text() == f"{os.getpid()}\n"


def test_targets_do_not_lock_each_other(place: Path) -> None:
    with dist.lock(TARGET), dist.lock(Target.parse("linux-riscv64-rva22u64")):
        assert len(list(place.glob(".*.lock"))) == 2


HOLDER = """
import sys
from pathlib import Path
from buildkit_riscv64.core import dist, filesystem
from buildkit_riscv64.core.arch import Target
with dist.lock(Target.parse("linux-riscv64"), Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_error_names_the_other_run(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path(dist.__file__).parents[2]
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, place],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(real)},
    )  # fmt: skip
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(BusyError, match=rf"pid {holder.pid}.*linux-riscv64"):  # fmt: skip
            dist.lock(TARGET).__enter__()
        holder.kill()
    with dist.lock(TARGET):
        pass


def test_dist_cannot_be_created(checkout: Path) -> None:
    project.DIST.write_text("a file in its place")
    with pytest.raises(StorageError, match="dist"):
        dist.lock(TARGET).__enter__()


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_read_only_dist(place: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(path: Any, *_args: object) -> int:
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StorageError) as caught:
        dist.lock(TARGET).__enter__()
    assert os.strerror(code) in caught.value.brief
    assert str(place) in caught.value.hint


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b'"text"', b"[" * 100_000, b"1" * 10_000],
    ids=["empty", "half", "list", "null", "binary", "text", "deep", "number"],
)
def test_garbage_manifests(place: Path, content: bytes) -> None:
    directory = place / "linux-riscv64"
    directory.mkdir()
    (directory / dist.MANIFEST).write_bytes(content)
    with pytest.raises(CheckError, match=dist.MANIFEST) as caught:
        dist.load(directory)
    assert "--force" in caught.value.hint
    assert dist.find(directory) is None


def test_no_manifest(place: Path) -> None:
    assert dist.find(place / "linux-riscv64") is None
    with pytest.raises(CheckError, match=r"linux-riscv64\b"):
        dist.load(place / "linux-riscv64")
    (place / "linux-riscv64" / dist.MANIFEST).mkdir(parents=True)
    with pytest.raises(CheckError, match=dist.MANIFEST):
        dist.load(place / "linux-riscv64")


def later(path: Path, than: Path, by: int) -> None:
    stamp = than.stat().st_mtime_ns + by * 10**9
    os.utime(path, ns=(stamp, stamp))


def test_finished_directories_are_unchanged(finished: Path) -> None:
    assert dist.load(finished).unchanged()


def damage(name: str) -> Callable[[Path], object]:
    return lambda directory: (directory / name).write_bytes(
        b"x" + (directory / name).read_bytes()[1:]
    )


@pytest.mark.parametrize(
    "name", ["bin/buildctl", "bin/buildkitd", dist.PROVENANCE, "buildctl.cdx.json"]
)
def test_other_content_of_the_same_size_is_a_change(finished: Path, name: str) -> None:
    damage(name)(finished)
    later(finished / name, finished / dist.SUMS, 2)
    assert not dist.load(finished).unchanged()


def test_another_size_is_a_change_at_any_time(finished: Path) -> None:
    with (finished / "bin" / "buildctl").open("ab") as file:
        file.write(b"x")
    later(finished / "bin" / "buildctl", finished / dist.SUMS, -100)
    assert not dist.load(finished).unchanged()


def test_a_copy_is_unchanged(finished: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    for name in dist.load(copy).files:
        later(copy / name, finished / dist.SUMS, 100)
    assert dist.load(copy).unchanged()


@pytest.mark.parametrize("name", ["bin/buildctl", dist.SUMS, dist.PROVENANCE])
def test_a_missing_file_is_a_change(finished: Path, name: str) -> None:
    (finished / name).unlink()
    assert not dist.load(finished).unchanged()


@pytest.mark.parametrize(
    "files",
    [None, 5, [5], ["name"], [{}], [{"name": "bin/buildctl"}], [{"name": 5, "size": 1}],
     [{"name": "a\0b", "size": 1, "sha256": ""}], [{"name": [], "size": 1}]],
)  # fmt: skip
def test_an_invalid_record_is_a_change(finished: Path, files: object) -> None:
    artifacts = dist.load(finished)
    assert not dist.Artifacts(finished, {**artifacts.manifest, "files": files}).unchanged()


@pytest.mark.parametrize("kind", list(dist.Kind))
def test_invalid_documents_are_not_published(place: Path, kind: dist.Kind) -> None:
    """An invalid document does not replace the previous directory either."""
    part = {dist.Kind.BINARIES: "", dist.Kind.IMAGE: "image/root"}.get(kind, kind.name.lower())
    document = documents.valid(getattr(documents, kind.name))
    before = None
    for publish_it in (True, False):
        if not publish_it:
            document.pop("files", None)
            document.pop("suites", None)
        with contextlib.suppress(CheckError), dist.staging(TARGET) as stage:
            write(stage, {kind.description: json.dumps(document)})
            if kind is dist.Kind.REPOSITORY:
                dist.publish_repository(stage)
            elif part:
                dist.publish_part(stage, TARGET, part)
            else:
                dist.publish(stage, TARGET)
            assert publish_it
        before = before or tree(place)
    assert tree(place) == before
    assert len(before) == 1


def test_checksums_have_the_format_of_sha256sum(finished: Path) -> None:
    text = (finished / dist.SUMS).read_text()
    assert len(text.splitlines()) == len(dist.load(finished).files) + 1
    for line in text.splitlines():
        digest, name = line.split("  ")
        assert filesystem.sha256(finished / name) == digest


def test_targets(place: Path) -> None:
    for name in ("linux-riscv64", "linux-amd64", ".linux-arm64.staging", "other", "linux-vax"):
        (place / name).mkdir()
    (place / "linux-file").touch()
    assert [target.name for target in dist.targets()] == ["linux-amd64", "linux-riscv64"]


@pytest.mark.parametrize("kind", IRREGULAR)
@pytest.mark.parametrize("name", [dist.MANIFEST, dist.SUMS, dist.VERDICT, "bin/buildctl"])
def test_only_regular_files_are_loaded(place: Path, name: str, kind: str) -> None:
    path = publish("one").path / name
    path.touch()
    IRREGULAR[kind](path)
    with promptly(), pytest.raises(CheckError) as caught:
        dist.load(path.parents[name.count("/")])
    assert str(filesystem.display_path(path)) in caught.value.brief
    assert "build-binaries" in caught.value.hint


def test_a_build_replaces_a_fifo(place: Path) -> None:
    path = publish("one").path
    IRREGULAR["fifo"](path / dist.MANIFEST)
    with promptly():
        assert dist.find(path) is None
        assert publish("two").manifest["host"]["cpu"] == "two"
    assert tree(path) == stage_of("two")


def test_irregular_files_are_not_compared(place: Path) -> None:
    """A file can be replaced after its directory was loaded."""
    found = publish("one")
    IRREGULAR["fifo"](found.path / "bin" / "buildctl")
    (found.path / dist.SUMS).touch()
    IRREGULAR["fifo"](found.path / dist.SUMS)
    with promptly():
        assert not found.unchanged()
        with pytest.raises(CheckError, match=dist.SUMS):
            found.sums()


def test_parse_sums() -> None:
    found = {"bin/buildctl": "a" * 64, "a b": "b" * 64, "é": "c" * 64}
    text = dist.sums({"name": name, "sha256": sha256} for name, sha256 in found.items())
    assert dist.parse_sums(text.encode()) == found


@pytest.mark.parametrize(
    "text",
    [
        "", "x", "x\n", f"{'a' * 64}  x", f"{'a' * 64} x\n", f"{'A' * 64}  x\n", f"{'a' * 63}  x\n",
        f"{'a' * 64}  x\n" * 2, f"\\{'a' * 64}  a\\nb\n", f"{'a' * 64}  x\n\n", "\udcff",
        *(f"{'a' * 64}  {name}\n" for name in ("", "/x", "../x", "a/../x", ".x", "a//b", "a/", "a\tb", "a\x7f", "a\u2028")),
    ],
)  # fmt: skip
def test_invalid_sums(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        dist.parse_sums(text.encode("utf-8", "surrogateescape"))
