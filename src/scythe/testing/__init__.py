"""Conformance suites: what every store and every engine must do, as pytest classes to subclass.

    from scythe.testing import StoreSuite

    class TestMyStore(StoreSuite):
        def make_store(self, tmp_path):
            return MyStore(tmp_path / "store")

They need pytest. A test that an adapter cannot pass is marked `xfail(strict=True, reason="…")` in the subclass.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scythe.testing.engines import EngineSuite
    from scythe.testing.stores import StoreSuite

__all__ = ["EngineSuite", "StoreSuite"]


def __getattr__(name: str) -> Any:
    """Load a suite when it is asked for: worker processes import the simulations beside it, without pytest."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        import pytest
    except ImportError as error:
        raise ImportError("scythe.testing needs pytest; install it with: pip install pytest") from error
    module = "scythe.testing.engines" if name == "EngineSuite" else "scythe.testing.stores"
    pytest.register_assert_rewrite(module)
    return getattr(importlib.import_module(module), name)
