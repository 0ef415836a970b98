"""The fixtures of the cluster tier, for these tests too."""

from tests.cluster.conftest import fresh_cluster

__all__ = ["fresh_cluster"]
