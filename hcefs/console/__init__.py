"""The console: one page that shows a cluster, and the snapshot that it shows.

:mod:`~hcefs.console.snapshot` makes the snapshot from facts that others collected,
:mod:`~hcefs.console.pages` answers HTTP.  Storage nodes show it read-only;
``hcefs console`` shows the same page with verbs, on the operator's own machine.
"""
