"""Six holders in this process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hcefs.runtime import SystemRuntime
from hcefs.testing.local_cluster import LocalCluster
from hcefs.testing.local_packs import LocalPacks


@pytest.fixture
def packs() -> Iterator[LocalPacks]:
    runtime = SystemRuntime()
    yield LocalPacks(LocalCluster(runtime))
    runtime.close()
