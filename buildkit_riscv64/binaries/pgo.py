"""Profiles for `--pgo`: what Go's compiler takes, looked at before it is started.

A profile is pprof's: a gzip'd protobuf, https://github.com/google/pprof/tree/main/proto.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UsageError

#: Far more than any daemon's profile; a small file can unpack to anything.
MOST_BYTES = 64 << 20
#: Of the kinds of samples that a profile may have, those that Go's compiler takes.
KINDS = {("samples", "count"), ("cpu", "nanoseconds")}
_HINT = "record one with `invoke benchmark --profile FILE`"


@dataclass(frozen=True)
class Profile:
    """A CPU profile, looked at.

    Args:
        content: the file.
    """

    content: bytes

    @property
    def sha256(self) -> str:
        """Its digest, in hexadecimal."""
        return hashlib.sha256(self.content).hexdigest()


@functools.cache
def _message() -> Any:
    """The class of the messages, with only the fields that are looked at."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="profile.proto", package="profile")
    value = file.message_type.add(name="ValueType")
    for number, name in enumerate(("type", "unit"), start=1):
        value.field.add(name=name, number=number, type=kinds.TYPE_INT64, label=kinds.LABEL_OPTIONAL)
    profile = file.message_type.add(name="Profile")
    profile.field.add(
        name="sample_type", number=1, label=kinds.LABEL_REPEATED,
        type=kinds.TYPE_MESSAGE, type_name=".profile.ValueType",
    )  # fmt: skip
    profile.field.add(name="sample", number=2, label=kinds.LABEL_REPEATED, type=kinds.TYPE_BYTES)
    profile.field.add(
        name="string_table", number=6, label=kinds.LABEL_REPEATED, type=kinds.TYPE_BYTES
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("profile.Profile"))


def objection(content: bytes) -> str:
    """What speaks against a file as a profile; nothing when it is good."""
    from google.protobuf.message import DecodeError

    try:
        with gzip.open(io.BytesIO(content)) as file:
            unpacked = file.read(MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error):
        return "it is not gzip'd"
    if len(unpacked) > MOST_BYTES:
        return f"it unpacks to more than {MOST_BYTES >> 20} MiB"
    profile = _message()()
    try:
        profile.ParseFromString(unpacked)
        strings = [text.decode() for text in profile.string_table]
        kinds = {(strings[kind.type], strings[kind.unit]) for kind in profile.sample_type}
    except (DecodeError, UnicodeDecodeError, IndexError):
        return "it is no protobuf of pprof's"
    if not kinds & KINDS:
        return "it has no samples of CPU time"
    return "" if profile.sample else "it has no samples"


def read(path: Path) -> Profile:
    """A profile, looked at.

    Raises:
        UsageError: there is no such file, or it is no CPU profile.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UsageError(f"--pgo {path}: more than {MOST_BYTES >> 20} MiB", _HINT)
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"--pgo {path}: {reason}", _HINT) from error
    if wrong := objection(content):
        raise UsageError(f"--pgo {path} is no CPU profile of pprof's: {wrong}", _HINT)
    return Profile(content)
