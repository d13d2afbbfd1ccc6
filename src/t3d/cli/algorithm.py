"""A changed algorithm on a command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from t3d.td3 import TD3

_FLAG = "--algorithm"


def own_in(arguments: list[str]) -> tuple[type[TD3] | None, list[str]]:
    """Take a class of the caller's out of a command's words.

    Returns:
        The class, None if there is none; and the words with the name of what it is derived from in its place.

    Raises:
        Refused: there is no such class, or it is no algorithm.
    """
    words = list(arguments)
    for at, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if flag != _FLAG or not (equals or at + 1 < len(words)):
            continue
        address = value if equals else words[at + 1]
        if ":" in address:
            # PyTorch takes seconds to import, and `t3d train --help` needs none of it.
            from t3d.variants.contract import kind_of
            from t3d.variants.sources import class_at

            own = class_at(address)
            words[at : at + (1 if equals else 2)] = [_FLAG, kind_of(own)]
            return own, words
    return None, words


def class_given(address: str | None) -> type[TD3] | None:
    """Return the class that a command names; None if it names none.

    Raises:
        Refused: as `own_in`.
    """
    if address is None:
        return None
    from t3d.variants.sources import class_at

    return class_at(address)
