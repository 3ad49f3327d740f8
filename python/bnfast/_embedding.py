"""Where the C and C++ headers, the library and its CMake package are installed."""

from __future__ import annotations

from pathlib import Path

from bnfast import _core

# They are installed beside the extension module. In an editable installation that is not the folder
# of this file.
_INSTALLED = Path(_core.__file__).parent


def get_include() -> str:
    """Return the folder to add to a compiler's include path, for ``#include <bnfast/bnfast.h>``.

    Returns
    -------
    str
        An absolute path.

    See Also
    --------
    get_cmake_dir : for CMake, which then finds headers and library by itself.

    Examples
    --------
    >>> import bnfast
    >>> from pathlib import Path
    >>> (Path(bnfast.get_include()) / "bnfast" / "batch_norm.h").exists()
    True
    """
    return str(_INSTALLED / "include")


def get_cmake_dir() -> str:
    """Return the folder of the CMake package, for ``find_package(bnfast CONFIG REQUIRED)``.

    Give it to CMake as ``-Dbnfast_DIR=$(python -c "import bnfast; print(bnfast.get_cmake_dir())")``
    and link ``bnfast::bnfast``. Builds by scikit-build-core find it by themselves where bnfast is
    among the build's requirements.

    Returns
    -------
    str
        An absolute path.

    Examples
    --------
    >>> import bnfast
    >>> from pathlib import Path
    >>> (Path(bnfast.get_cmake_dir()) / "bnfastConfig.cmake").exists()
    True
    """
    return str(_INSTALLED / "lib" / "cmake" / "bnfast")
