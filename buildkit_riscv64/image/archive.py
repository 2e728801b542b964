"""Image archives for `docker load`: compare the commands inside with the verified programs.

The labels, manifests and checksums of an archive describe what its builder claims. This module
reads the layers that docker would run.
"""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

from ..core import dist, documents, filesystem
from ..core.errors import CheckError
from . import check, layout
from .variants import Variant


def require_verified(archive: Path, verified: Mapping[str, str], variant: Variant) -> str:
    """Refuse an archive of other commands, or of another configuration than this checkout's.

    Args:
        archive: as :func:`buildkit_riscv64.image.layout.archive` writes it.
        verified: the sha256 of each program, by its name.
        variant: the variant that it should be.

    Returns:
        The digest of the image.

    Raises:
        CheckError: a file differs or is missing, or the archive cannot be read.
    """
    name = filesystem.display_path(archive)
    with tempfile.TemporaryDirectory(prefix="image-") as directory:
        try:
            with tarfile.open(archive, "r:") as tar:
                filesystem.unpack(tar, Path(directory))
            image = layout.load(Path(directory))
            loaded = documents.parse_json((Path(directory) / layout.DOCKER).read_bytes())
        except (tarfile.TarError, OSError, ValueError, CheckError) as error:
            raise CheckError(f"{name} cannot be read: {error}", check.REMEDY) from error
        if digest := layout.damaged(image):
            raise CheckError(f"{name}: {digest} is missing or damaged", check.REMEDY)
        # docker without containerd's image store reads its own list, not the index of OCI.
        listed = [{**one, "RepoTags": None} for one in loaded] if isinstance(loaded, list) else None
        if listed != [{**layout.docker_manifest(image), "RepoTags": None}]:
            raise CheckError(f"{name}: {layout.DOCKER} names another image than the index", check.REMEDY)  # fmt: skip
        contents = check.read(image)
    for difference in check.differences(image, contents, variant):
        raise CheckError(f"{name}: {difference} differs from this checkout", check.REMEDY)
    for command in dist.COMMANDS:
        place = f"usr/bin/{command}"
        places = [path for path in contents.modes if Path(path).name == command]
        if places != [place] or contents.checksums.get(place) != verified[command]:
            raise CheckError(f"{name}: {command} is not the verified program", check.REMEDY)
    return image.digest
