"""What `invoke doctor --phase automation` looks at for packages and their repositories."""

from __future__ import annotations

import functools

from ..console import Status
from ..doctor import CHECKS, Phase, check, share, tool
from ..machine import checks as _machine  # noqa: F401 - what machines need is registered first

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

# nfpm, which makes the packages, is compiled by it.
share("go", Phase.AUTOMATION)

for _name, _why in _CALLED.items():
    _taken = any(one.name == _name for one in CHECKS)
    _title = f"{_name} for packages" if _taken else _name
    check(_title, _why, Phase.AUTOMATION)(functools.partial(tool, _name, Status.WARN))
