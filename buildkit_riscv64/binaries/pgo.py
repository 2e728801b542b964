"""CPU profiles for `--pgo`, validated before the compiler starts.

The format is pprof's: a gzip'd protobuf, https://github.com/google/pprof/tree/main/proto.
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

from ..core import values
from ..core.errors import UsageError

#: Much more than a daemon's profile; limits what a small file can unpack to.
MOST_BYTES = 64 << 20
#: Kinds of samples that Go's compiler accepts.
KINDS = {("samples", "count"), ("cpu", "nanoseconds")}
_HINT = "record one with `invoke benchmark --profile FILE`"


@dataclass(frozen=True)
class Profile:
    """A validated CPU profile.

    Args:
        content: the file.
    """

    content: bytes

    @property
    def sha256(self) -> str:
        """SHA-256 of the content, in hexadecimal."""
        return hashlib.sha256(self.content).hexdigest()


@functools.cache
def _message() -> Any:
    """The message class, with only the fields that are validated."""
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


def validation_error(content: bytes) -> str:
    """The validation error of a profile, or an empty string."""
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
    """Read and validate a profile.

    Raises:
        UsageError: no such file, or not a CPU profile.
    """
    content = values.content("--pgo", str(path), MOST_BYTES, hint=_HINT)
    if wrong := validation_error(content):
        raise UsageError(f"--pgo {path} is not a CPU profile of pprof: {wrong}", _HINT)
    return Profile(content)
