"""Programs and images of other platforms."""

from __future__ import annotations

import contextlib
import json
import platform as machine
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.version import Version

from buildkit_riscv64.core import process
from buildkit_riscv64.core.arch import Platform
from buildkit_riscv64.image import container, layout
from buildkit_riscv64.image.layout import Image
from buildkit_riscv64.system import binfmt
from buildkit_riscv64.validation.environment.waiting import eventually

from ..daemon import run
from ..scenario import not_proven

#: Before this version, all user namespaces shared one binfmt_misc register.
OWN_REGISTER = Version("6.7")

# Mounts an empty register over the machine's, then runs its arguments.
_REGISTER = f'mount -t binfmt_misc binfmt_misc {binfmt.REGISTRY} && exec "$@"'


def runs(platform: Platform) -> bool:
    """Whether programs of a platform run here; fails the test if an installed emulator is disabled."""
    if binfmt.runs(platform):
        return True
    installed = [one for one in Platform if binfmt.is_installed(one)]
    # On some architectures Debian's package lacks emulators, as for 32-bit Arm on arm64.
    if not installed or platform in installed:
        pytest.fail(f"no emulator for {platform}: `invoke doctor --fix --phase validation`")
    return False


def require(platform: Platform) -> None:
    """End a scenario as not proven if Debian has no emulator for a platform here."""
    if not runs(platform):
        not_proven(f"Debian packages no emulator for {platform} on {Platform.here()}")


def images(oci: Path) -> dict[str, Image]:
    """The images of the only index in a layout, by platform, in its order."""
    (top,) = json.loads((oci / "index.json").read_text())["manifests"]
    found = {}
    for descriptor in json.loads(layout.blob(oci, top["digest"]).read_bytes())["manifests"]:
        manifest = json.loads(layout.blob(oci, descriptor["digest"]).read_bytes())
        config = json.loads(layout.blob(oci, manifest["config"]["digest"]).read_bytes())
        image = Image(oci, descriptor, manifest, config)
        # A pull uses the index, a container uses the configuration.
        assert descriptor["platform"] == image.platform
        found["/".join(image.platform.values())] = image
    return found


def start(image: Image, *words: str) -> str:
    """Run a command in an image with runc; return its output."""
    with tempfile.TemporaryDirectory(prefix="validation-", dir=image.layout.parent) as directory:
        alone = Path(directory) / "layout"
        layout.gather({"one": [image]}, alone)
        with container.unpacked(alone) as unpacked:
            done = unpacked.run(words)
    assert done.ok, f"{process.show(words)} ended with {done.code}: {done.stderr}"
    return done.stdout + done.stderr


@contextlib.contextmanager
def no_emulators() -> Iterator[list[str]]:
    """The prefix of a command that finds no emulators; the machine keeps its own.

    The command runs in a user namespace, which gets its own binfmt_misc register by a
    mount. Users have the same ids in it as outside.
    """
    with process.child_process(["unshare", "--user", "sleep", "infinity"]) as holder:
        space = Path(f"/proc/{holder.pid}/ns/user")
        ours = Path("/proc/self/ns/user").readlink()
        assert eventually(lambda: space.readlink() != ours)
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{holder.pid}/{name}").write_text("0 0 65536\n")
        prefix = ["nsenter", f"--user={space}", "unshare", "--mount", "sh", "-c", _REGISTER, "sh"]
        kernel = machine.release()
        if Version(".".join(kernel.split(".")[:2])) < OWN_REGISTER:
            not_proven(f"Linux {kernel} shares one binfmt_misc register; {OWN_REGISTER} has one per user namespace")  # fmt: skip
        assert run(*prefix, "ls", binfmt.REGISTRY).good().stdout.split() == ["register", "status"]
        yield prefix
