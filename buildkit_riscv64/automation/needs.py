"""What `invoke doctor --phase automation` looks at for packages and their repositories."""

from __future__ import annotations

import functools

from ..console import Status
from ..doctor import Phase, check, tool

_CALLED = {
    "apt-ftparchive": "It writes the indexes that apt reads.",
    "cpio": "Tests unpack .rpm files with it.",
    "createrepo_c": "It writes the indexes that dnf reads.",
    "dnf": "Tests install .rpm files with it.",
    "dpkg-deb": "A finished .deb is looked into with it.",
    "gpg": "It signs releases and repositories.",
    "lintian": "Tests have it look at .deb files.",
    "mmdebstrap": "Tests install packages in the clean Debian that it unpacks.",
    "rpmlint": "Tests have it look at .rpm files.",
    "rpmsign": "It signs .rpm files.",
}

for _name, _why in _CALLED.items():
    check(_name, _why, Phase.AUTOMATION)(functools.partial(tool, _name, Status.WARN))
