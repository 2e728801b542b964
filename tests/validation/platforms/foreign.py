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

from buildkit_riscv64 import binfmt, process
from buildkit_riscv64.arch import Platform
from buildkit_riscv64.image import container, layout
from buildkit_riscv64.image.layout import Image

from ...processes import eventually
from ..daemon import BOUND, run
from ..scenario import not_proven

#: Before that, all user namespaces had the same register of program formats.
OWN_REGISTER = Version("6.7")

# Puts an empty register in the place of the machine's, and goes on with what it is given.
_REGISTER = f'mount -t binfmt_misc binfmt_misc {binfmt.REGISTRY} && exec "$@"'


def runs(platform: Platform) -> bool:
    """True when programs of a platform run here; a failed test if they only are not set up."""
    if binfmt.runs(platform):
        return True
    installed = [one for one in Platform if binfmt.is_installed(one)]
    # Debian's package has none on some architectures, as for 32-bit Arm on arm64.
    if not installed or platform in installed:
        pytest.fail(f"no emulator for {platform}: `invoke doctor --fix --phase validation`")
    return False


def require(platform: Platform) -> None:
    """End a scenario for a platform whose emulator Debian does not have here."""
    if not runs(platform):
        not_proven(f"Debian packages no emulator for {platform} on {Platform.here()}")


def images(oci: Path) -> dict[str, Image]:
    """The images of an index that is alone in a layout, by platform, in its order."""
    (top,) = json.loads((oci / "index.json").read_text())["manifests"]
    found = {}
    for descriptor in json.loads(layout.blob(oci, top["digest"]).read_bytes())["manifests"]:
        manifest = json.loads(layout.blob(oci, descriptor["digest"]).read_bytes())
        config = json.loads(layout.blob(oci, manifest["config"]["digest"]).read_bytes())
        image = Image(oci, descriptor, manifest, config)
        # Whoever pulls goes by the index; whoever runs it goes by the configuration.
        assert descriptor["platform"] == image.platform
        found["/".join(image.platform.values())] = image
    return found


def start(image: Image, *words: str) -> str:
    """What a command says in an image, under runc."""
    with tempfile.TemporaryDirectory(prefix="validation-", dir=image.layout.parent) as folder:
        alone = Path(folder) / "layout"
        layout.gather({"one": [image]}, alone)
        with container.unpacked(alone) as unpacked:
            done = unpacked.run(words)
    assert done.ok, f"{process.show(words)} ended with {done.code}: {done.stderr}"
    return done.stdout + done.stderr


@contextlib.contextmanager
def no_emulators() -> Iterator[list[str]]:
    """What is put before a command that is to find no emulators; the machine keeps its own.

    It runs in a user namespace, which has a register of program formats of its own as
    soon as one is mounted there. The same users are in it as outside.
    """
    with process.guarded(["unshare", "--user", "sleep", "infinity"]) as holder:
        space = Path(f"/proc/{holder.pid}/ns/user")
        ours = Path("/proc/self/ns/user").readlink()
        assert eventually(lambda: space.readlink() != ours, BOUND)
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{holder.pid}/{name}").write_text("0 0 65536\n")
        prefix = ["nsenter", f"--user={space}", "unshare", "--mount", "sh", "-c", _REGISTER, "sh"]
        kernel = machine.release()
        if Version(".".join(kernel.split(".")[:2])) < OWN_REGISTER:
            not_proven(f"Linux {kernel} has one register of program formats for all; {OWN_REGISTER} has more")  # fmt: skip
        assert run(*prefix, "ls", binfmt.REGISTRY).good().stdout.split() == ["register", "status"]
        yield prefix
