"""What `invoke doctor --phase automation` looks at for packages and their repositories."""

from __future__ import annotations

import functools

from ..console import Status
from ..doctor import CHECKS, Phase, check, share, tool

_CALLED = {
    "apt-ftparchive": "It writes the indexes that apt reads.",
    "createrepo_c": "It writes the indexes that dnf reads.",
    "dpkg-deb": "A finished .deb is looked into with it.",
    "gpg": "It signs releases and repositories.",
    "rpmsign": "It signs .rpm files.",
}

# nfpm, which makes the packages, is compiled by it.
share("go", Phase.AUTOMATION)

for _name, _why in _CALLED.items():
    if all(one.name != _name for one in CHECKS):
        check(_name, _why, Phase.AUTOMATION)(functools.partial(tool, _name, Status.WARN))
