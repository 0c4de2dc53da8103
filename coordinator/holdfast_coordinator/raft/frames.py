"""The bytes of a connection between two nodes: hello, proof, verdict, frame. The form, and no socket.

Rule: whatever a stranger or a peer sends is understood exactly, or `Rejected` for one of a few fixed reasons. A number is a number:
`true` and `1.0`, which Python takes for 1, are not. Nothing is ever unpickled.

Not known here: when which of them may come, and what a message means (`messages` has the schema of its fields).
"""

from __future__ import annotations

import functools
import hmac
import struct
from typing import TYPE_CHECKING, Any

import msgpack

from holdfast_coordinator.raft.messages import NUMBER_MAX, MessageError, decode
from holdfast_coordinator.raft.peers import (
    DIGEST_BYTES,
    ID_BYTES,
    MEMBER,
    VERDICTS,
    Introduction,
    Verdict,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

MAGIC = b"HFraft2\n"
NONCE_BYTES = 32
PROOF_BYTES = 32
CODE_BYTES = 16
"""Of each frame's HMAC-SHA256; half of it is as long as a forger could ever need to guess."""
NAME_BYTES_MAX = 255
INTRODUCTION_BYTES = 1 + ID_BYTES + DIGEST_BYTES
HELLO_BYTES_MAX = (
    len(MAGIC) + 3 * (1 + NAME_BYTES_MAX) + INTRODUCTION_BYTES + NONCE_BYTES + PROOF_BYTES
)
KIND_RAFT, KIND_APPLICATION, KIND_VERDICT = 0, 1, 2
VERDICT_SEQUENCE = 2**64 - 1
"""The place of a verdict in the stream: before all frames, which are counted from 0."""
LENGTH = struct.Struct("<I")
_SEQUENCE = struct.Struct("<Q")
_KEYS_KNOWN_MAX = 64
"""Two for each connection."""


class Rejected(Exception):  # the connection is closed, and the reason counted
    """`args[0]` is one of a few fixed reasons."""


def hello(
    cluster: str,
    sender: str,
    receiver: str,
    nonce: bytes,
    introduction: Introduction = Introduction(),  # noqa: B008 - frozen
) -> bytes:
    """The first thing either side says."""
    parts = [name.encode() for name in (cluster, sender, receiver)]
    names = b"".join(bytes([len(part)]) + part for part in parts)
    about = bytes([introduction.state]) + introduction.directory + introduction.limits
    return MAGIC + names + about + nonce


def parse_hello(data: bytes) -> tuple[str, str, str, Introduction]:
    """(cluster, sender, receiver, introduction). Raises `Rejected`."""
    if not data.startswith(MAGIC):
        raise Rejected("not a peer")
    names, position = [], len(MAGIC)
    for _ in range(3):
        length = data[position] if position < len(data) else 0
        part = data[position + 1 : position + 1 + length]
        if not part or len(part) != length:
            raise Rejected("malformed hello")
        try:
            names.append(part.decode())
        except UnicodeDecodeError:
            raise Rejected("malformed hello") from None
        position += 1 + length
    about = data[position : position + INTRODUCTION_BYTES]
    if len(data) != position + INTRODUCTION_BYTES + NONCE_BYTES or about[0] > MEMBER:
        raise Rejected("malformed hello")
    introduction = Introduction(about[1 : 1 + ID_BYTES], about[1 + ID_BYTES :], about[0])
    return names[0], names[1], names[2], introduction


def decode_verdict(body: bytes) -> Verdict:
    """The first frame of a peer. Raises `Rejected`."""
    fields = _unpack(body)
    if fields is None or len(fields) != 3 or fields[0] != KIND_VERDICT:
        raise Rejected("malformed verdict")
    _, code, admission = fields
    if type(code) is not str or code not in VERDICTS:
        raise Rejected("malformed verdict")
    if type(admission) is not int or not 0 <= admission < NUMBER_MAX:
        raise Rejected("malformed verdict")
    return Verdict(code, admission)


def proof(secret: bytes, role: bytes, dialer: bytes, acceptor: bytes) -> bytes:
    """That whoever plays `role` knows the secret, for exactly these two hellos."""
    text = b"".join(LENGTH.pack(len(part)) + part for part in (role, dialer, acceptor))
    return hmac.digest(secret, text, "sha256")


def pack_frame(key: bytes, sequence: int, body: bytes) -> bytes:
    """Length, code, body."""
    return LENGTH.pack(CODE_BYTES + len(body)) + _code(key, sequence, body) + body


def open_frame(key: bytes, sequence: int, frame: bytes) -> bytes:
    """The body of a frame (without its length). Raises `Rejected`."""
    code, body = frame[:CODE_BYTES], frame[CODE_BYTES:]
    if not hmac.compare_digest(code, _code(key, sequence, body)):
        raise Rejected("frame code")
    return body


def _code(key: bytes, sequence: int, body: bytes) -> bytes:
    keyed = _keyed(key).copy()
    keyed.update(_SEQUENCE.pack(sequence))
    keyed.update(body)
    return keyed.digest()[:CODE_BYTES]


@functools.lru_cache(maxsize=_KEYS_KNOWN_MAX)
def _keyed(key: bytes) -> hmac.HMAC:
    """The key is taken in once, and not for each frame: to look the hash up in the library costs more than a small frame does."""
    return hmac.new(key, digestmod="sha256")


def decode_body(body: bytes, entry_bytes_max: int) -> tuple[int, list[Any]]:
    """(kind, messages or payloads) of an authenticated frame. Raises `Rejected`."""
    fields = _unpack(body)
    if fields is None or len(fields) != 2 or type(fields[1]) is not list:
        raise Rejected("malformed frame")
    kind, items = fields
    if kind == KIND_RAFT:
        try:
            return KIND_RAFT, [decode(item, entry_bytes_max=entry_bytes_max) for item in items]
        except MessageError:
            raise Rejected("malformed message") from None
    if kind == KIND_APPLICATION and all(type(item) is bytes for item in items):
        return KIND_APPLICATION, items
    raise Rejected("malformed frame")


def _unpack(body: bytes) -> list[Any] | None:
    """An array that begins with a kind, which is an int: `False == 0` and `1.0 == 1` must not open a door. None: something else."""
    try:
        fields = msgpack.unpackb(body, raw=False, strict_map_key=True, max_map_len=0, max_ext_len=0)
    except (ValueError, msgpack.UnpackException, UnicodeDecodeError, RecursionError):
        return None
    if type(fields) is not list or not fields or type(fields[0]) is not int:
        return None
    return fields


def pack_body(kind: int, packed: Sequence[bytes]) -> bytes:
    """[kind, [message, ...]] out of messages that are packed already."""
    packer = msgpack.Packer()
    head: bytes = packer.pack_array_header(2) + packer.pack(kind)
    return b"".join([head, packer.pack_array_header(len(packed)), *packed])
