from __future__ import annotations

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

from buildkit_riscv64 import dist, project, storage
from buildkit_riscv64.arch import Architecture, Target
from buildkit_riscv64.errors import BusyError, CheckError, NotNativeError, StorageError

from .making import edit_manifest

TARGET = Target.parse("linux-riscv64")


@pytest.fixture
def place(checkout: Path, on: Callable[[str], None]) -> Path:
    on("riscv64")
    project.DIST.mkdir()
    return project.DIST


def stage_of(text: str, *, arch: str = "riscv64") -> dict[str, str]:
    return {"bin/buildctl": text, dist.MANIFEST: json.dumps({"host": {"arch": arch}, "text": text})}


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def tree(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


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
    assert dist.folder(TARGET) == project.DIST / "linux-riscv64"
    assert dist.image_folder(TARGET, "root") == project.DIST / "linux-riscv64/image/root"
    assert dist.image_archive("v0.32.2", TARGET, "") == ("buildkit-v0.32.2.linux-riscv64.image.tar")
    assert dist.image_archive("v0.32.2", TARGET, "-rootless") == (
        "buildkit-rootless-v0.32.2.linux-riscv64.image.tar"
    )


def test_first_publication(place: Path) -> None:
    published = publish("one")
    assert published.path == place / "linux-riscv64"
    assert published.manifest["text"] == "one"
    assert [path.name for path in place.iterdir() if not path.name.startswith(".")] == ["linux-riscv64"]  # fmt: skip
    assert not list(place.glob(".*staging*"))


def test_a_publication_replaces_the_whole_folder(place: Path) -> None:
    publish("one")
    (place / "linux-riscv64" / dist.VERDICT).write_text("of the old one")
    publish("two")
    assert tree(place / "linux-riscv64") == stage_of("two")
    assert not list(place.glob(".*staging*"))


def test_publication_is_one_exchange(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish("one")
    monkeypatch.setattr(Path, "rename", None)  # no other way to do it
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
def test_file_systems_that_cannot_exchange(place: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:  # fmt: skip
    publish("one")
    fail_exchange(monkeypatch, code)
    assert publish("two").manifest["text"] == "two"
    assert tree(place / "linux-riscv64") == stage_of("two")
    assert not list(place.glob(".*staging*"))


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EIO])
def test_a_publication_that_fails_leaves_the_old_folder(place: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:  # fmt: skip
    publish("one")
    fail_exchange(monkeypatch, code)
    with pytest.raises(StorageError, match="linux-riscv64"):
        publish("two")
    assert tree(place / "linux-riscv64") == stage_of("one")


def test_a_rename_that_fails_puts_the_old_folder_back(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
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


def test_an_interruption_leaves_the_old_folder(place: Path) -> None:
    publish("one")
    with pytest.raises(KeyboardInterrupt), dist.lock(TARGET), dist.staging(TARGET) as stage:  # noqa: PT012
        write(stage, stage_of("two"))
        raise KeyboardInterrupt
    assert tree(place / "linux-riscv64") == stage_of("one")
    assert not list(place.glob(".*staging*"))


@pytest.mark.parametrize("arch", ["amd64", "arm64", "", "mips"])
def test_what_was_cross_compiled_is_no_artifact(place: Path, arch: str) -> None:
    publish("one")
    with pytest.raises(NotNativeError, match="linux-riscv64"), dist.staging(TARGET) as stage:  # noqa: PT012
        write(stage, stage_of("two", arch=arch))
        dist.publish(stage, TARGET)
    assert tree(place / "linux-riscv64") == stage_of("one")


def test_a_manifest_that_lies_about_the_machine_does_not_help(
    place: Path, on: Callable[[str], None]
) -> None:
    on("x86_64")
    with pytest.raises(NotNativeError, match="compiled on amd64"):
        publish("one")
    assert not (place / "linux-riscv64").exists()


@pytest.mark.parametrize("machine", list(Architecture))
def test_what_comes_from_another_machine_was_compiled_there(
    place: Path, on: Callable[[str], None], machine: Architecture
) -> None:
    on("x86_64")
    with dist.staging(TARGET) as stage:
        write(stage, stage_of("one"))
        if machine is Architecture.RISCV64:
            dist.publish(stage, TARGET, machine=machine)
        else:
            with pytest.raises(NotNativeError, match=f"compiled on {machine} are not"):
                dist.publish(stage, TARGET, machine=machine)
    assert (place / "linux-riscv64").exists() is (machine is Architecture.RISCV64)


def test_a_stage_without_manifest_is_not_published(place: Path) -> None:
    with pytest.raises(CheckError, match="no artifacts"), dist.staging(TARGET) as stage:
        dist.publish(stage, TARGET)
    assert not (place / "linux-riscv64").exists()


def test_what_a_killed_run_left_is_removed(place: Path) -> None:
    write(place / ".linux-riscv64.staging", {"scratch/deep/file": "half"})
    write(place / ".linux-riscv64.staging.old", {"bin/buildctl": "old"})
    with dist.staging(TARGET) as stage:
        assert list(stage.iterdir()) == []
        assert not (place / ".linux-riscv64.staging.old").exists()


def test_staging_is_on_the_file_system_of_dist(place: Path) -> None:
    with dist.staging(TARGET) as stage:
        assert stage.parent == place
        assert stage.name.startswith(".")
    assert dist.targets() == []


def test_a_part_is_staged_beside_the_whole(place: Path) -> None:
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
        write(stage, {dist.MANIFEST: json.dumps({"text": text})})
        return dist.publish_part(stage, TARGET, part)


def test_an_image_is_published_below_its_binaries(place: Path) -> None:
    publish("binaries")
    published = publish_image("one")
    assert published.path == place / "linux-riscv64/image/root"
    assert published.manifest == {"text": "one"}
    assert (place / "linux-riscv64/bin/buildctl").read_text() == "binaries"
    assert not list(place.glob(".*staging*"))


def test_an_image_replaces_the_whole_folder_of_its_variant_alone(place: Path) -> None:
    publish_image("one")
    (place / "linux-riscv64/image/root/of the old one").touch()
    publish_image("other", "rootless")
    publish_image("two")
    assert tree(place / "linux-riscv64/image") == {
        "root/manifest.json": '{"text": "two"}', "rootless/manifest.json": '{"text": "other"}'
    }  # fmt: skip


def test_an_image_that_cannot_be_published_leaves_the_old_one(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    publish_image("one")
    fail_exchange(monkeypatch, errno.EIO)
    with pytest.raises(StorageError, match="image/root"):
        publish_image("two")
    assert tree(place / "linux-riscv64/image") == {"root/manifest.json": '{"text": "one"}'}


def test_images_of_other_binaries_go_with_those(place: Path) -> None:
    publish("binaries")
    publish_image("image")
    publish("other binaries")
    assert not (place / "linux-riscv64/image").exists()


@pytest.fixture
def anew(finished: Path, tmp_path: Path) -> Path:
    """The folder of a build beside a finished one, with an image and evidence of the commands."""
    stage = Path(shutil.copytree(finished, tmp_path / "stage"))
    write(finished, {"image/root/manifest.json": "image", "evidence/index.html": "evidence"})
    write(finished, {f"{dist.PACKAGES}/a.deb": "package", dist.VERDICT: "{}"})
    return stage


def test_what_was_made_of_the_same_commands_stays(finished: Path, anew: Path) -> None:
    (anew / "new").touch()
    published = dist.publish(anew, TARGET)
    assert (published.path / "new").exists()
    assert (published.path / "image/root/manifest.json").read_text() == "image"
    assert (published.path / "evidence/index.html").read_text() == "evidence"
    # These are of the whole folder.
    assert not (published.path / dist.PACKAGES).exists()
    assert not (published.path / dist.VERDICT).exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda finished, _stage: (finished / "bin" / "buildctl").write_bytes(b"damaged"),
        lambda _finished, stage: edit_manifest(stage, lambda m: m["build"].update(inputs=f"sha256:{'1' * 64}")),
        lambda _finished, stage: edit_manifest(stage, lambda m: m["files"][0].update(sha256="1" * 64)),
        lambda finished, _stage: edit_manifest(finished, lambda m: m["build"].pop("inputs")),
    ],
    ids=["damaged", "other inputs", "other bytes", "no inputs"],
)  # fmt: skip
def test_what_was_made_of_others_does_not(finished: Path, anew: Path, change: Callable[[Path, Path], object]) -> None:  # fmt: skip
    change(finished, anew)
    published = dist.publish(anew, TARGET)
    assert not (published.path / "image").exists()
    assert not (published.path / "evidence").exists()


def test_what_stays_may_not_fit(finished: Path, anew: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    def full(*_args: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(anew / "image"))

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(StorageError):
        dist.publish(anew, TARGET)
    assert (finished / "image/root/manifest.json").read_text() == "image"


def test_a_bundle_of_another_machine_is_no_artifact(bundled: Path, tmp_path: Path) -> None:
    stage = Path(shutil.copytree(bundled, tmp_path / "stage"))
    edit_manifest(stage, lambda m: m["bundle"]["host"].update(arch="amd64"))
    with pytest.raises(NotNativeError, match="compiled on amd64 are not artifacts"):
        dist.publish(stage, TARGET)


def test_no_image_and_a_garbage_one_name_the_command_that_makes_it(place: Path) -> None:
    folder = dist.image_folder(TARGET, "root")
    with pytest.raises(CheckError, match="no artifacts in") as none:
        dist.load(folder)
    assert none.value.hint == "run `invoke build-image` first"
    folder.mkdir(parents=True)
    (folder / dist.MANIFEST).write_text("{")
    with pytest.raises(CheckError, match="cannot read") as garbage:
        dist.load(folder)
    assert garbage.value.hint == "run `invoke build-image --force` to make it anew"


def test_evidence_is_published_like_an_image(place: Path) -> None:
    publish_image("image")
    for text in ("one", "two"):
        with dist.lock(TARGET), dist.staging(TARGET, part=dist.EVIDENCE) as stage:
            write(stage, {dist.RESULTS: json.dumps({"text": text})})
            published = dist.publish_part(stage, TARGET, dist.EVIDENCE)
        assert published.path == dist.evidence_folder(TARGET)
        assert published.manifest == {"text": text}
    assert tree(place / "linux-riscv64") == {
        "image/root/manifest.json": '{"text": "image"}', "evidence/evidence.json": '{"text": "two"}'
    }  # fmt: skip
    publish("other binaries")
    assert not dist.evidence_folder(TARGET).exists()


def test_no_evidence_and_garbage_name_the_command_that_makes_it(place: Path) -> None:
    folder = dist.evidence_folder(TARGET)
    with pytest.raises(CheckError, match="no evidence in") as none:
        dist.load(folder)
    assert none.value.hint == "run `invoke validate` first"
    folder.mkdir(parents=True)
    (folder / dist.RESULTS).write_text("[]")
    with pytest.raises(CheckError, match="cannot read") as garbage:
        dist.load(folder)
    assert garbage.value.hint == "run `invoke validate` to make it anew"


# Whose it is.


@pytest.mark.parametrize(("us", "owner", "all_given"), [(0, 1000, True), (0, 0, False), (1000, 1000, False)])  # fmt: skip
def test_what_root_makes_is_for_whoever_owns_the_folder(
    place: Path, monkeypatch: pytest.MonkeyPatch, us: int, owner: int, *, all_given: bool
) -> None:
    given: set[Path] = set()

    def chown(path: Path, user: int, group: int, *, follow_symlinks: bool) -> None:
        assert (user, group, follow_symlinks) == (owner, 50, False)
        given.add(path)

    monkeypatch.setattr(os, "geteuid", lambda: us)
    monkeypatch.setattr(os, "chown", chown)
    monkeypatch.setattr(dist, "_owner", lambda _path: (owner, 50))
    dist.folder(TARGET).mkdir()
    final = dist.image_folder(TARGET, "root")
    with dist.lock(TARGET), dist.staging(TARGET, part=f"{dist.IMAGE}/root") as stage:
        write(stage, {dist.MANIFEST: "{}", "layout/one": ""})
        made = {place / ".linux-riscv64.lock", final.parent, stage, *stage.rglob("*")}
        dist.publish_part(stage, TARGET, f"{dist.IMAGE}/root")
    assert given == (made if all_given else set())


# Locks.


def test_a_lock_lets_go(place: Path) -> None:
    for _ in range(2):
        with dist.lock(TARGET):
            assert (place / ".linux-riscv64.lock").read_text() == f"{os.getpid()}\n"


def test_targets_do_not_lock_each_other(place: Path) -> None:
    with dist.lock(TARGET), dist.lock(Target.parse("linux-riscv64-rva22u64")):
        assert len(list(place.glob(".*.lock"))) == 2


HOLDER = """
import sys
from pathlib import Path
from buildkit_riscv64 import dist, storage
from buildkit_riscv64.arch import Target
with dist.lock(Target.parse("linux-riscv64"), Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_another_run_is_named_and_its_end_lets_go(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    real = Path(dist.__file__).parent.parent
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, place],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(real)},
    )  # fmt: skip
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(BusyError, match=rf"another run \(pid {holder.pid}\) is at work on linux-riscv64"):  # fmt: skip
            dist.lock(TARGET).__enter__()
        holder.kill()  # nobody cleans up after kill -9
    with dist.lock(TARGET):
        pass


def test_a_dist_that_cannot_be_made(checkout: Path) -> None:
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
    assert caught.value.hint == f"make {place} writable for you"


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b'"text"', b"[" * 100_000, b"1" * 10_000],
    ids=["empty", "half", "list", "null", "binary", "text", "deep", "number"],
)
def test_garbage_manifests(place: Path, content: bytes) -> None:
    folder = place / "linux-riscv64"
    folder.mkdir()
    (folder / dist.MANIFEST).write_bytes(content)
    with pytest.raises(CheckError, match="cannot read") as caught:
        dist.load(folder)
    assert "--force" in caught.value.hint
    assert dist.find(folder) is None


def test_no_manifest(place: Path) -> None:
    assert dist.find(place / "linux-riscv64") is None
    with pytest.raises(CheckError, match="no artifacts in"):
        dist.load(place / "linux-riscv64")
    (place / "linux-riscv64" / dist.MANIFEST).mkdir(parents=True)
    with pytest.raises(CheckError, match="cannot read"):
        dist.load(place / "linux-riscv64")


@pytest.mark.parametrize("build", [None, [], "text", {}, {"inputs": 5}])
def test_inputs_of_garbage_are_never_ours(build: object) -> None:
    assert not dist.Artifacts(Path(), {"build": build}).inputs.startswith("sha256:")
    assert dist.Artifacts(Path(), {}).inputs == ""


def later(path: Path, than: Path, by: int) -> None:
    stamp = than.stat().st_mtime_ns + by * 10**9
    os.utime(path, ns=(stamp, stamp))


def test_finished_folders_are_unchanged(finished: Path) -> None:
    assert dist.load(finished).unchanged()


def damage(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(b"x" + (folder / name).read_bytes()[1:])


@pytest.mark.parametrize(
    "name", ["bin/buildctl", "bin/buildkitd", dist.PROVENANCE, "buildctl.cdx.json"]
)
def test_another_content_of_the_same_size_is_a_change(finished: Path, name: str) -> None:
    damage(name)(finished)
    later(finished / name, finished / dist.SUMS, 2)
    assert not dist.load(finished).unchanged()


def test_another_size_is_a_change_whatever_the_time(finished: Path) -> None:
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
def test_a_garbage_record_is_a_change(finished: Path, files: object) -> None:
    artifacts = dist.load(finished)
    assert not dist.Artifacts(finished, {**artifacts.manifest, "files": files}).unchanged()


def test_a_missing_record_is_a_change(finished: Path) -> None:
    edit_manifest(finished, lambda manifest: manifest.pop("files"))
    assert not dist.load(finished).unchanged()


def test_sums_are_those_of_sha256sum(finished: Path) -> None:
    text = (finished / dist.SUMS).read_text()
    assert len(text.splitlines()) == len(dist.load(finished).files) + 1
    for line in text.splitlines():
        digest, name = line.split("  ")
        assert storage.sha256(finished / name) == digest


def test_targets_are_folders_by_name(place: Path) -> None:
    for name in ("linux-riscv64", "linux-amd64", ".linux-arm64.staging", "other", "linux-vax"):
        (place / name).mkdir()
    (place / "linux-file").touch()
    assert [target.name for target in dist.targets()] == ["linux-amd64", "linux-riscv64"]
