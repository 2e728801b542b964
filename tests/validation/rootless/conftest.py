"""What the rootless scenarios share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ..daemon import NewDaemon
from .user import RootlessDaemon, User, existing, invented

#: Makes a daemon of an ordinary user's, not started: with the options of :class:`RootlessDaemon`.
NewRootless = Callable[..., RootlessDaemon]


@pytest.fixture(scope="session")
def user() -> User:
    """One of this machine's users, or one who exists only where their daemon runs."""
    return existing() or invented()


@pytest.fixture
def new_rootless(new_daemon: NewDaemon, user: User) -> NewRootless:
    """Makes daemons of an ordinary user's, which end with the test."""

    def new(**options: object) -> RootlessDaemon:
        return RootlessDaemon(new_daemon, user, **options)  # type: ignore[arg-type]

    return new
