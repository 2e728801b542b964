"""Fixtures of the rootless suite."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ..daemon import NewDaemon
from .user import RootlessDaemon, User, existing, invented

#: Creates a user's daemon with the options of :class:`RootlessDaemon`; does not start it.
NewRootless = Callable[..., RootlessDaemon]


@pytest.fixture(scope="session")
def user() -> User:
    """A user of this machine, or one who exists only in the daemon's namespace."""
    return existing() or invented()


@pytest.fixture
def new_rootless(new_daemon: NewDaemon, user: User) -> NewRootless:
    """Creates daemons of an ordinary user, which end with the test."""

    def new(**options: object) -> RootlessDaemon:
        return RootlessDaemon(new_daemon, user, **options)  # type: ignore[arg-type]

    return new
