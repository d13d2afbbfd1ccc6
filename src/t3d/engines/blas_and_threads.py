"""What the compiled functions take from outside: matrix products, random numbers, threads, and the compiler itself.

Symbols are bound by name, so that compiled code can lie in a cache while addresses change with every process.
"""

from __future__ import annotations

import ctypes
import hashlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import CellType, FunctionType
from typing import Any, TypeVar

import llvmlite.binding as llvm
import numba
import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core import event as numba_events
from numba.extending import get_cython_function_address, intrinsic
from numpy.random import _bounded_integers, _generator
from threadpoolctl import threadpool_limits

F = TypeVar("F", bound=Callable[..., object])

# Nothing that assumes finite numbers: NaN and infinity must reach the losses.
FASTMATH = {"reassoc", "contract", "arcp", "nsz", "afn"}

# Numba's cache looks at the function that is called and at its file alone; its key is made to cover all of these.
_SOURCES = (
    *("blas_and_threads.py", "layers.py", "kernels.py", "draw.py", "entries.py"),
    *("sale_layers.py", "sale_kernels.py", "sale_entries.py"),
)

# Why compiled code is not kept on disk; empty where it is.
no_cache_because = ""


def compiled(function: F) -> F:
    """Compile a function that only compiled functions call: it is merged into each of them."""
    # Not kept on disk, and no symbol of its own: a process that has just compiled would else call this function's
    # first copy, one that has read the cache the copy in there, and the two may differ in the last bit.
    result: F = numba.njit(nogil=True, fastmath=FASTMATH, error_model="numpy", forceinline=True)(function)
    return result


def compiled_exactly(function: F) -> F:
    """Compile as `compiled` does, a function whose every rounding is to be NumPy's."""
    result: F = numba.njit(nogil=True, error_model="numpy", forceinline=True)(function)
    return result


def entry(function: F) -> F:
    """Compile a function that Python calls, and keep it on disk with all it calls where that is possible."""
    global no_cache_because
    function = _with_sources(function)
    try:
        result: F = numba.njit(nogil=True, fastmath=FASTMATH, error_model="numpy", cache=True)(function)
    except RuntimeError as error:
        # Numba has no exception of its own for this; it is raised where no cache folder can be written.
        if "cannot cache function" not in str(error):
            raise
        no_cache_because = str(error)
        result = numba.njit(nogil=True, fastmath=FASTMATH, error_model="numpy")(function)
    return result


def _with_sources(function: F) -> F:
    """Return a function that closes over a checksum of all sources: closures are part of the cache's key."""
    folder = Path(function.__code__.co_filename).parent
    sources = b"".join((folder / name).read_bytes() for name in _SOURCES if (folder / name).is_file())
    code = function.__code__.replace(co_freevars=("sources",))
    closure = (CellType(hashlib.sha256(sources).hexdigest()),)
    result: F = FunctionType(code, function.__globals__, function.__name__, None, closure)  # type: ignore[assignment]
    return result


def get_ready(
    say: Callable[[str], None], calls: Sequence[tuple[Any, tuple[object, ...]]]
) -> list[Callable[..., object]]:
    """Compile functions, or read them from the cache, before they are first called.

    Args:
        say: called with a line if compiling begins, as it takes some seconds.
        calls: functions that `entry` returned, each with arguments of the types it will be called with.

    Returns:
        Each function for arguments of those types alone: no call of it looks at types to find the right version.
    """
    where = f"not kept, as {no_cache_because}" if no_cache_because else "kept for later runs"
    line = f"compiling the update for this machine, half a minute, {where}"
    with numba_events.install_listener("numba:compile", _listener(lambda: say(line))):
        return [function.compile(tuple(map(numba.typeof, arguments))) for function, arguments in calls]


def _listener(call: Callable[[], None]) -> Any:
    """Return what calls once, when the first of nested compilations begins."""
    waiting = [call]

    def start(_: object, event: object) -> None:
        if waiting:
            waiting.pop()()

    def end(_: object, event: object) -> None:
        pass

    return type("Listener", (numba_events.Listener,), {"on_start": start, "on_end": end})()


def _torch_library() -> ctypes.CDLL | None:
    """Return PyTorch's own library if it hands out its matrix product (MKL), with its switch to one thread."""
    names = {"win32": "torch_cpu.dll", "darwin": "libtorch_cpu.dylib"}
    path = Path(torch.__file__).parent / "lib" / names.get(sys.platform, "libtorch_cpu.so")
    if not path.exists():
        return None
    library = ctypes.CDLL(str(path))
    needed = ("sgemm_", "dgemm_", "MKL_Set_Num_Threads_Local")
    return library if all(hasattr(library, name) for name in needed) else None


def _address(function: object) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0  # type: ignore[arg-type]


def _bind() -> tuple[str, bool]:
    library = _torch_library()
    if library is not None:
        llvm.add_symbol("t3d_sgemm", _address(library.sgemm_))
        llvm.add_symbol("t3d_dgemm", _address(library.dgemm_))
    else:
        for letter in "sd":
            address = get_cython_function_address("scipy.linalg.cython_blas", f"{letter}gemm")
            llvm.add_symbol(f"t3d_{letter}gemm", address)
    system = ctypes.CDLL("kernel32") if sys.platform == "win32" else ctypes.CDLL(None)
    llvm.add_symbol("t3d_yield", _address(system.SwitchToThread if sys.platform == "win32" else system.sched_yield))
    llvm.add_symbol("t3d_acquire", _address(ctypes.pythonapi.PyThread_acquire_lock))
    llvm.add_symbol("t3d_release", _address(ctypes.pythonapi.PyThread_release_lock))
    # OpenBLAS cannot be set for one thread alone: there the call goes to something that changes nothing.
    setter = ctypes.pythonapi.Py_IsInitialized if library is None else library.MKL_Set_Num_Threads_Local
    llvm.add_symbol("t3d_set_blas_threads", _address(setter))
    return ("OpenBLAS of scipy", False) if library is None else ("MKL of PyTorch", True)


def _bind_random_numbers() -> bool:
    """Bind what NumPy's own generators call. Return whether NumPy lets others call it, as it does but on Windows."""
    integers, normals = ctypes.CDLL(_bounded_integers.__file__), ctypes.CDLL(_generator.__file__)
    found = hasattr(integers, "random_bounded_uint64_fill") and hasattr(normals, "random_standard_normal_fill_f")
    nothing = ctypes.pythonapi.Py_IsInitialized  # a symbol that is never called, but must be there
    llvm.add_symbol("t3d_draw_integers", _address(integers.random_bounded_uint64_fill if found else nothing))
    llvm.add_symbol("t3d_draw_normals", _address(normals.random_standard_normal_fill_f if found else nothing))
    return found


# Whether compiled code can draw from NumPy's generators.
can_draw = _bind_random_numbers()
# Whose matrix product is used, and whether `set_blas_threads` keeps it to the thread that calls it.
blas, _settable = _bind()


def run(function: Callable[..., object], *args: object) -> None:
    """Call an entry with matrix products kept to its thread: the engine splits the work, not the library."""
    if _settable:  # entries do it themselves
        function(*args)
        return
    with threadpool_limits(1, user_api="blas"):
        function(*args)


def new_lock() -> int:
    """Return the address of a taken lock that threads without the interpreter can wait for."""
    allocate = ctypes.pythonapi.PyThread_allocate_lock
    allocate.restype = ctypes.c_void_p
    lock = int(allocate())
    acquire = ctypes.pythonapi.PyThread_acquire_lock
    acquire.argtypes = [ctypes.c_void_p, ctypes.c_int]
    acquire(lock, 1)
    return lock


def let_go(lock: int) -> None:
    """Let the thread go that waits for the lock, or will."""
    function = ctypes.pythonapi.PyThread_release_lock
    function.argtypes = [ctypes.c_void_p]
    function(lock)


# What compiled functions call.
acquire: Any = types.ExternalFunction("t3d_acquire", types.intc(types.intp, types.intc))
release: Any = types.ExternalFunction("t3d_release", types.void(types.intp))
# Takes the number of threads that this thread's products may use, 0 for the library's own; returns what held before.
set_blas_threads: Any = types.ExternalFunction("t3d_set_blas_threads", types.intc(types.intc))
# (bit generator, 0, largest, count, 0, to) as `Generator.integers` fills int64; 0: not the older way by masks.
draw_integers: Any = types.ExternalFunction(
    "t3d_draw_integers",
    types.void(types.intp, types.uint64, types.uint64, types.intp, types.intc, types.intp),
)
# (bit generator, count, to) as `Generator.standard_normal` fills float32.
draw_normals: Any = types.ExternalFunction("t3d_draw_normals", types.void(types.intp, types.intp, types.intp))
yield_core: Any = types.ExternalFunction("t3d_yield", types.intc())


def _gemm(
    _: Any, ta: Any, tb: Any, m: Any, n: Any, k: Any, a: Any, lda: Any, b: Any, ldb: Any, c: Any, ldc: Any
) -> Any:
    """Call the column-major BLAS product c (m, n) = op(a) (m, k) @ op(b) (k, n); ta, tb: transpose."""
    size = types.intp
    signature = types.void(types.boolean, types.boolean, size, size, size, a, size, b, size, c, size)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        ta, tb, m, n, k, a, lda, b, ldb, c, ldc = args
        kinds = dict(zip("abc", (signature.args[i] for i in (5, 7, 9)), strict=True))
        real = context.get_value_type(kinds["a"].dtype)

        def char(flag: Any) -> Any:
            byte = ir.IntType(8)
            chosen = builder.select(builder.trunc(flag, ir.IntType(1)), byte(ord("T")), byte(ord("N")))
            return cgutils.alloca_once_value(builder, chosen)

        def integer(value: Any) -> Any:
            return cgutils.alloca_once_value(builder, builder.trunc(value, ir.IntType(32)))

        def data(name: str, value: Any) -> Any:
            return context.make_array(kinds[name])(context, builder, value).data

        one, zero = (cgutils.alloca_once_value(builder, real(x)) for x in (1.0, 0.0))
        pointers = [char(ta), char(tb), integer(m), integer(n), integer(k), one, data("a", a), integer(lda)]
        pointers += [data("b", b), integer(ldb), zero, data("c", c), integer(ldc)]
        function_type = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t] * len(pointers))
        name = {types.float32: "t3d_sgemm", types.float64: "t3d_dgemm"}[kinds["a"].dtype]
        function = cgutils.get_or_insert_function(builder.module, function_type, name)
        builder.call(function, [builder.bitcast(p, cgutils.voidptr_t) for p in pointers])
        return context.get_dummy_value()

    return signature, generate


def _add_and_get(_: Any, array: Any, index: Any, value: Any) -> Any:
    """Add to an entry of an int64 array in one indivisible step; return the sum."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        old = builder.atomic_rmw("add", builder.gep(data, [args[1]]), args[2], "seq_cst")
        return builder.add(old, args[2])

    return types.int64(array, types.intp, types.int64), generate


def _get(_: Any, array: Any, index: Any) -> Any:
    """Read an entry of an int64 array, past the processor's and the compiler's memory of it."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.load_atomic(builder.gep(data, [args[1]]), "acquire", 8)

    return types.int64(array, types.intp), generate


gemm: Any = intrinsic(_gemm)
add_and_get: Any = intrinsic(_add_and_get)
get: Any = intrinsic(_get)
