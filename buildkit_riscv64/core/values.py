"""Values of options: one validating function for each kind of value.

Tasks call these functions first, to refuse a wrong value before any slow step.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from .documents import shown
from .errors import UsageError

# Longer than any count, size or time; Python refuses thousands of digits.
_DIGITS = "[0-9]{1,18}"
#: The largest number with that many digits.
MOST = 10**18 - 1
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")
_SIZE = re.compile(f"({_DIGITS})([GM])")
_UNITS = {"G": 30, "M": 20}


def _shown(value: object) -> str:
    """A value for a message: unchanged if it is a short word, else quoted and shortened."""
    return value if isinstance(value, str) and re.fullmatch("[!-~]{1,60}", value) else shown(value)


def number(flag: str, value: int | str, least: int, most: int, hint: str = "") -> int:
    """A whole number in a range.

    Args:
        flag: the option, for messages.
        value: the option's value.
        least: the smallest valid number.
        most: the largest valid number.
        hint: what to do about an invalid value.

    Raises:
        UsageError: the value is not a whole number, or outside the range.
    """
    hint = hint or f"as in {flag} {max(least, 2)}"
    if isinstance(value, str):
        if not re.fullmatch(f"-?{_DIGITS}", value):
            raise UsageError(f"{flag} {_shown(value)}: not a whole number, or too large", hint)
        value = int(value)
    if not least <= value <= most:
        raise UsageError(f"{flag} {_shown(value)}: not between {least} and {most}", hint)
    return value


def revision(flag: str, text: str) -> int:
    """The revision of packages, or of a release of ours, of one version of BuildKit.

    Raises:
        UsageError: the value is not a number from 1.
    """
    return number(flag, text, 1, 999_999, f"count from 1, as in {flag} 2")


def size(flag: str, text: str) -> int:
    """The bytes of a size such as '8G' or '512M'.

    Raises:
        UsageError: the value is not a size.
    """
    found = _SIZE.fullmatch(text)
    if not found:
        raise UsageError(f"{flag} {_shown(text)}: not a size", "give one like 8G or 512M")
    return int(found[1]) << _UNITS[found[2]]


def path(flag: str, text: str, *, secret: bool = False) -> Path:
    """A path that may exist, with `~` expanded.

    Args:
        flag: the option, for messages.
        text: the option's value.
        secret: the value may be a secret, so no message shows it.

    Raises:
        UsageError: the path is invalid or cannot be accessed.
    """
    try:
        found = Path(text).expanduser()
        found.lstat()
    except FileNotFoundError:
        pass
    except (OSError, ValueError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        name = flag if secret else f"{flag} {_shown(text)}"
        raise UsageError(f"{name}: {reason}", "give another path") from None
    return found


def directory(flag: str, text: str) -> Path:
    """A directory to write into, which need not exist.

    Raises:
        UsageError: the path is not a directory, or it is the root directory.
    """
    found = path(flag, text)
    try:
        if not stat.S_ISDIR(found.stat().st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    except FileNotFoundError:
        pass
    except OSError as error:
        raise UsageError(f"{flag} {_shown(text)}: {error.strerror}", "give another path") from error
    # Follow links and `..` first.
    found = Path(os.path.realpath(found))
    if found == found.parent:
        raise UsageError(f"{flag} {_shown(text)}: the root directory", "give a directory below it")
    return found


def content(
    flag: str,
    text: str,
    most: int,
    *,
    secret: bool = False,
    hint: str = "name a file that you can read",
) -> bytes:
    """The content of a file or of a pipe.

    Args:
        flag: the option, for messages.
        text: the file's path.
        most: limit of its size in bytes.
        secret: the value may be a secret instead of a path, so no message shows it.
        hint: what to do about a file that cannot be read.

    Raises:
        UsageError: the file is missing, cannot be read, or is too large.
    """
    name = flag if secret else f"{flag} {_shown(text)}"
    try:
        with path(flag, text, secret=secret).open("rb") as file:
            kind = os.fstat(file.fileno()).st_mode
            if not (stat.S_ISREG(kind) or stat.S_ISFIFO(kind)):
                raise UsageError(f"{name}: not a file", hint)
            found = file.read(most + 1)
    except OSError as error:
        raise UsageError(f"{name}: {error.strerror}", hint) from None
    if len(found) > most:
        raise UsageError(f"{name}: more than {most >> 10} KiB", hint)
    return found


def address(flag: str, text: str) -> SplitResult:
    """The parts of an http:// or https:// address without a password.

    Raises:
        UsageError: the text is not such an address.
    """
    try:
        parts = urlsplit(text)
        # Reading an invalid port raises ValueError.
        good = bool(_HOST.fullmatch(parts.netloc.rpartition("@")[2])) and parts.port != 0
    except ValueError:
        good = False
    if not good or parts.scheme not in {"http", "https"} or not re.fullmatch(r"[!-~]+", text):
        raise UsageError(f"{flag} is {_shown(text)}, not an address", "as in https://example.org")
    if parts.username is not None or parts.query or parts.fragment:
        raise UsageError(
            f"{flag}: not a plain address", "remove the user, password, query and fragment"
        )
    return parts
