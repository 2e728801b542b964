"""Debian's docker engine, unpacked aside: tests that need one install nothing on the machine."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from buildkit_riscv64 import debian, process, project
from buildkit_riscv64.arch import Architecture

#: Of this machine's own release. docker-cli is a package of its own since Debian 13.
OWN = ("docker.io", "docker-cli", "containerd", "runc", "libdevmapper1.02.1")
#: Debian 12 has no buildx; Debian 13's is static enough to run there.
FROM_TRIXIE = ("docker-buildx",)


def _apt(folder: Path, *args: str) -> None:
    subprocess.run(["apt-get", "--quiet", *args], cwd=folder, check=True, capture_output=True)


def _download(folder: Path) -> None:
    known = [p for p in OWN if process.probe(["apt-cache", "show", p]).ok]
    _apt(folder, "download", *known)
    lists = folder / "apt"
    (lists / "lists" / "partial").mkdir(parents=True)
    (lists / "cache" / "archives" / "partial").mkdir(parents=True)
    (lists / "sources.list").write_text(debian.release(Architecture.here()).source() + "\n")
    options = {
        "Dir::State::Lists": lists / "lists",
        "Dir::Cache": lists / "cache",
        "Dir::Etc::sourcelist": lists / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::status": "/dev/null",
    }
    private = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
    _apt(folder, *private, "update")
    _apt(folder, *private, "download", *FROM_TRIXIE)


def engine_from_debian() -> dict[str, str]:
    """The environment in which `dockerd`, `docker` and `docker buildx` are Debian's."""
    root = project.cache() / "test-engine"
    if not root.is_dir():
        aside = root.with_name(f".test-engine.{os.getpid()}")
        (aside / "debs").mkdir(parents=True)
        try:
            # Without lists there is nothing to download from.
            _apt(aside, "update")
            _download(aside / "debs")
            for deb in (aside / "debs").glob("*.deb"):
                subprocess.run(["dpkg-deb", "--extract", deb, aside / "root"], check=True)
            plugins = aside / "root" / "config" / "cli-plugins"
            plugins.mkdir(parents=True)
            buildx = next((aside / "root").rglob("cli-plugins/docker-buildx"))
            shutil.copy(buildx, plugins)
            (aside / "root").rename(root)
        finally:
            shutil.rmtree(aside)
    libraries = [str(p) for p in root.glob("*lib/*-linux-gnu")] + [
        str(p) for p in root.glob("usr/lib/*-linux-gnu")
    ]
    return {
        "PATH": f"{root}/usr/bin:{root}/usr/sbin:{root}/sbin:{os.environ['PATH']}",
        "DOCKER_CONFIG": f"{root}/config",
        "LD_LIBRARY_PATH": ":".join(libraries),
    }
