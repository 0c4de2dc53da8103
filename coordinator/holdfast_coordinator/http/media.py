"""Which encoding a body has, and which one an answer is to have. Pure: header values in, a decision or `Problem` (415) out."""

from __future__ import annotations

from holdfast import wire
from holdfast.wire import Code
from holdfast_coordinator.http.problems import Problem


def body_is_msgpack(header: str | None) -> bool:
    """Whether a body with this Content-Type is msgpack. Without one it is JSON. Raises `Problem` (415) for anything else."""
    if header is None or header == wire.MEDIA_JSON:
        return False
    if header == wire.MEDIA_MSGPACK:
        return True
    media, _, parameters = header.partition(";")
    media = media.strip().lower()
    parameters = parameters.strip().lower().replace('"', "").replace(" ", "")
    if media == wire.MEDIA_JSON and parameters in ("", "charset=utf-8", "charset=utf8"):
        return False
    if media == wire.MEDIA_MSGPACK and not parameters:
        return True
    raise Problem(
        Code.UNSUPPORTED_MEDIA_TYPE,
        f"send Content-Type: {wire.MEDIA_JSON} in UTF-8 (curl: --json), or {wire.MEDIA_MSGPACK}",
        headers={"Accept-Post": f"{wire.MEDIA_JSON}, {wire.MEDIA_MSGPACK}"},
    )


def wants_msgpack(accept: str | None) -> bool:
    """Whether the answer is to be msgpack: only if the caller names it, and does not like JSON better (RFC 9110, 12.5.1)."""
    if accept is None or accept in ("*/*", wire.MEDIA_JSON) or "msgpack" not in accept:
        return False
    if accept == wire.MEDIA_MSGPACK:
        return True
    quality = {"json": 0.0, "msgpack": 0.0}
    for part in accept.split(","):
        media, *parameters = (piece.strip().lower() for piece in part.split(";"))
        if media in (wire.MEDIA_JSON, wire.MEDIA_MSGPACK):
            name = "json" if media == wire.MEDIA_JSON else "msgpack"
            quality[name] = max(quality[name], _quality(parameters))
    return quality["msgpack"] > 0 and quality["msgpack"] >= quality["json"]


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
