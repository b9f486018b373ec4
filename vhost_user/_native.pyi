# The compiled extension, made by cffi: see native/native.h for what is in `lib`.

from typing import Any

ffi: Any
lib: Any
