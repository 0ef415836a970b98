"""The SDK: what applications use to reach a cluster.  Entry points are in :mod:`hcefs`."""
