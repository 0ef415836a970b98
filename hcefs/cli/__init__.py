"""The command line: one file per verb group."""

from hcefs.cli.process import prepare

# Before anything of this package imports gRPC.
prepare()
