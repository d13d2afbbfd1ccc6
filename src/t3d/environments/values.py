"""What an environment hands back, looked at before it is taken: numbers that are none are never converted to some."""

from __future__ import annotations

import functools
import logging
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t3d.errors import EnvFailed, shortened
from t3d.spaces import ObsPart, part_of

_log = logging.getLogger("t3d")
_LARGEST = float(np.finfo(np.float32).max)
_ONE_NUMBER = ((), (1,), (1, 1))
_DO = "fix the environment's spaces, or what its reset and step return"


def reward_of(given: Any, name: str) -> float:
    """Return a reward as a number.

    Args:
        given: what the environment handed back.
        name: the environment's, for the warning about a shape that is no number's but holds one.

    Raises:
        EnvFailed: it is no real number, of a shape that holds more or fewer than one, or beyond float32. What is not
            finite is handed on: whoever steps the environment knows where that was.
    """
    number = given
    if type(given) not in (float, int):
        array = _array_of(given, "reward", name)
        if array is None or array.dtype.kind not in "iuf" or array.shape not in _ONE_NUMBER:
            raise _wrong("reward", given, "one real number")
        if array.shape:
            _warn(name, f"its reward has the shape {array.shape}; the number in it is taken")
        number = array.item()
    if _LARGEST < abs(number) < math.inf:
        raise _wrong("reward", given, f"a number of float32, at most {_LARGEST:.3g}")
    return float(number)


def flag_of(given: Any, field: str, name: str) -> bool:
    """Return terminated or truncated as a bool.

    Args:
        given: what the environment handed back.
        field: which of the two.
        name: the environment's, for the warning about a shape that is no flag's but holds one.

    Raises:
        EnvFailed: it is neither a bool nor 0 nor 1.
    """
    if type(given) is bool or type(given) is np.bool_:
        return bool(given)
    array = None if isinstance(given, dict) else _array_of(given, field, name)
    if array is None or array.dtype.kind not in "biuf" or array.shape not in ((), (1,)) or array.item() not in (0, 1):
        swapped = isinstance(given, dict) and field == "truncated"
        raise _wrong(field, given, "a bool", "return info behind truncated: the two are swapped" if swapped else _DO)
    if array.shape:
        _warn(name, f"its {field} has the shape {array.shape}; the flag in it is taken")
    return bool(array.item())


def numbers_of(given: Any, part: ObsPart, name: str) -> NDArray[Any]:
    """Return a part of an observation as an array of its space's shape.

    Args:
        given: what the environment handed back.
        part: which, and what it is: numbers, or an image.
        name: the environment's, for warnings.

    Raises:
        EnvFailed: it is no array of numbers, of another shape, or there is no such part.
    """
    try:
        chosen = part_of(given, part.name)
    except (LookupError, TypeError, ValueError):
        raise _wrong("observation", given, f"one with the part {part.name}, as its space says") from None
    array = _array_of(chosen, "observation", name)
    is_image = part.dtype == "uint8"
    kinds = array is not None and (array.dtype == np.uint8 if is_image else array.dtype.kind in "biuf")
    if array is None or not kinds or array.shape != part.shape:
        of_part = "" if part.name == "obs" else f" in the part {part.name}"
        what = "an image of uint8 and" if is_image else "numbers of"
        raise _wrong("observation", chosen, f"{what} shape {part.shape}{of_part}")
    with np.errstate(over="ignore"):  # becomes infinite, which is refused with its place in the run
        return array.astype(part.dtype, copy=False)


def five_of(given: Any) -> tuple[Any, Any, Any, Any]:
    """Return obs, reward, terminated and truncated of what step handed back.

    Raises:
        EnvFailed: it is not five values.
    """
    if not isinstance(given, tuple | list) or len(given) != 5:
        old = isinstance(given, tuple) and len(given) == 4
        raise EnvFailed(
            "the environment's step is of the old gym, with one flag for both ends"
            if old
            else "the environment's step is of the wrong kind",
            got=f"{type(given).__name__}" + (f" of {len(given)} values" if isinstance(given, tuple | list) else ""),
            expected="obs, reward, terminated, truncated, info",
            do="return terminated and truncated apart; shimmy's GymV21CompatibilityV0 does so for environments of gym",
        )
    obs, reward, terminated, truncated, _ = given
    return obs, reward, terminated, truncated


def first_of(given: Any) -> Any:
    """Return the observation of what reset handed back.

    Raises:
        EnvFailed: it is not an observation and its info.
    """
    if isinstance(given, tuple) and len(given) == 2:
        return given[0]
    raise EnvFailed(
        "the environment's reset is of the wrong kind",
        got=_in_words(given),
        expected="obs, info",
        do="return an info, {} if there is nothing to say; reset of the old gym returned obs alone",
    )


def _array_of(given: Any, field: str, name: str) -> NDArray[Any] | None:
    """Return what was handed back as an array, without a change of type; None if it is none, or is masked."""
    if getattr(given, "requires_grad", False):
        _warn(name, f"its {field} needs a gradient; the number alone is taken")
        given = given.detach()
    if isinstance(given, np.ma.MaskedArray):
        return None
    try:
        return np.asarray(given)
    except Exception:  # noqa: BLE001 - whatever an unknown object raises when it is asked for numbers
        return None


def _wrong(field: str, given: Any, expected: str, do: str = _DO) -> EnvFailed:
    return EnvFailed(f"the environment's {field} is of the wrong kind", got=_in_words(given), expected=expected, do=do)


def _in_words(given: Any) -> str:
    """Return type, shape and value, of which an unknown object may refuse any."""
    shape = getattr(given, "shape", None)
    try:
        value = repr(given)
    except Exception as error:  # noqa: BLE001 - as above
        value = f"(its repr raises {type(error).__name__})"
    return f"{type(given).__name__}{f' of shape {shape}' if shape else ''}: {shortened(' '.join(value.split()), 200)}"


@functools.cache
def _warn(name: str, what: str) -> None:
    """Say something of an environment once in this process."""
    _log.warning("%s: %s", name, what)
