"""`@client.locked("customer:{customer_id}:collect")`: a function that runs under a lock whose key comes from its arguments.

Rules:
* A template is checked when the function is decorated: a name that the function does not have is an error at import, and not at
  the first payment.
* Values are rendered by `str()` and nothing else. What would name two things alike without a word (None, an empty text) or one
  thing differently in each process (an object that prints its address), or cannot be in a key (a control character), is refused at
  the call.
* The body runs while the lock is held, all of it. A function whose body would run later (a generator; a coroutine under the
  blocking face) is refused.
It knows locks only as context managers, of either face.
"""

from __future__ import annotations

import contextvars
import functools
import inspect
import re
import string
import unicodedata
from contextlib import AsyncExitStack, ExitStack
from typing import TYPE_CHECKING, Any, Final, Literal, ParamSpec, TypeAlias, TypeVar

from holdfast.errors import NotAcquired

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence
    from contextlib import AbstractAsyncContextManager, AbstractContextManager

    from holdfast.grant import Grant

P = ParamSpec("P")
R = TypeVar("R")

OnHeld: TypeAlias = Literal["raise", "skip", "wait"]

_FIELD: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z]\w*)*")

_grants: Final[contextvars.ContextVar[Grant]] = contextvars.ContextVar("holdfast grant")


def current_grant() -> Grant:
    """The grant of the innermost `locked` function that is running here, for its fence. Raises `LookupError` outside of one."""
    try:
        return _grants.get()
    except LookupError:
        raise LookupError(
            "current_grant() is for the body of a function that is `locked`"
        ) from None


def wait_of(on_held: OnHeld, wait: float | None) -> float | None:
    """How long to stand in the queue. Raises `ValueError` for a choice that is none."""
    if on_held not in ("raise", "skip", "wait"):
        raise ValueError(f"on_held is 'raise', 'skip' or 'wait', not {on_held!r}")
    if on_held != "wait":
        return wait
    if wait not in (0.0, None):
        raise ValueError(
            "on_held='wait' waits as long as it takes; for a bound use 'raise' or 'skip' with `wait`"
        )
    return None


def locked_async(
    function: Callable[P, Awaitable[R]],
    templates: str | Sequence[str],
    lock_for: Callable[[list[str]], AbstractAsyncContextManager[Grant]],
    on_held: OnHeld,
) -> Callable[P, Coroutine[Any, Any, R | None]]:
    """`function` under the lock that `lock_for(keys)` makes, for the asynchronous face. Raises `TypeError` and `ValueError`."""
    if not inspect.iscoroutinefunction(function):
        raise TypeError(
            f"{_name(function)} is no `async def`: its body would not run inside the lock"
        )
    keys_for = Keys(function, templates)

    @functools.wraps(function)
    async def run(*args: P.args, **kwargs: P.kwargs) -> R | None:
        async with AsyncExitStack() as stack:
            try:
                grant = await stack.enter_async_context(lock_for(keys_for(args, kwargs)))
            except NotAcquired:  # of this lock; one that the body raises is the body's affair
                if on_held == "skip":
                    return None
                raise
            before = _grants.set(grant)
            try:
                return await function(*args, **kwargs)
            finally:
                _grants.reset(before)

    return run


def locked_blocking(
    function: Callable[P, R],
    templates: str | Sequence[str],
    lock_for: Callable[[list[str]], AbstractContextManager[Grant]],
    on_held: OnHeld,
) -> Callable[P, R | None]:
    """The same for the blocking face."""
    for runs_later in (
        inspect.iscoroutinefunction,
        inspect.isgeneratorfunction,
        inspect.isasyncgenfunction,
    ):
        if runs_later(function):
            raise TypeError(
                f"{_name(function)} is a coroutine or a generator: its body would run after the lock was released"
            )
    keys_for = Keys(function, templates)

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R | None:
        with ExitStack() as stack:
            try:
                grant = stack.enter_context(lock_for(keys_for(args, kwargs)))
            except NotAcquired:
                if on_held == "skip":
                    return None
                raise
            before = _grants.set(grant)
            try:
                return function(*args, **kwargs)
            finally:
                _grants.reset(before)

    return run


class Keys:
    """The keys of one call of a function, from templates such as `"customer:{customer_id}:collect"`."""

    def __init__(self, function: Callable[..., object], templates: str | Sequence[str]) -> None:
        self._name = _name(function)
        self._signature = inspect.signature(function)
        self._templates = [
            self._parse(each) for each in ([templates] if isinstance(templates, str) else templates)
        ]
        if not self._templates:
            raise ValueError("no template of a key was given")

    def __call__(self, args: tuple[object, ...], kwargs: dict[str, Any]) -> list[str]:
        """Raises `TypeError` for arguments that the function does not take, and `ValueError` for values that make no key."""
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return [
            "".join(
                text if path is None else text + self._render(path, bound.arguments)
                for text, path in template
            )
            for template in self._templates
        ]

    def _parse(self, template: str) -> list[tuple[str, str | None]]:
        """Pieces of text, each with the path of the value that follows it."""
        pieces: list[tuple[str, str | None]] = []
        for text, path, spec, conversion in string.Formatter().parse(template):
            if path is None:
                pieces.append((text, None))
                continue
            if spec or conversion:
                raise ValueError(
                    f"{template!r}: values are rendered by str(), without !r and :formats"
                )
            if not _FIELD.fullmatch(path):
                raise ValueError(
                    f"{template!r}: {{{path}}} is no argument's name, nor one with attributes behind dots"
                )
            self._check_name(template, path.partition(".")[0])
            pieces.append((text, path))
        return pieces

    def _check_name(self, template: str, name: str) -> None:
        parameter = self._signature.parameters.get(name)
        if parameter is None:
            known = ", ".join(self._signature.parameters) or "none"
            raise ValueError(
                f"{template!r}: {self._name} has no argument {name!r} (it has: {known})"
            )
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise ValueError(f"{template!r}: {name!r} of {self._name} is a collection of arguments")

    def _render(self, path: str, arguments: dict[str, Any]) -> str:
        name, *attributes = path.split(".")
        value = arguments[name]
        for attribute in attributes:
            value = getattr(value, attribute)
        kind: Any = type(value)
        if value is None:
            raise ValueError(f"{path} is None: every such call would share one lock")
        if kind.__str__ is object.__str__ and kind.__repr__ is object.__repr__:
            raise ValueError(
                f"{path} is a {kind.__name__} that has no str() of its own: it would be rendered as its address in memory"
            )
        text = str(value)
        if not text:
            raise ValueError(f"{path} is empty: every such call would share one lock")
        # The value itself may be personal data, so it is not in the message.
        if any(unicodedata.category(each) == "Cc" for each in text):
            raise ValueError(f"{path} has a control character, which no key may have")
        return text


def _name(function: Callable[..., object]) -> str:
    return getattr(function, "__qualname__", type(function).__name__)
