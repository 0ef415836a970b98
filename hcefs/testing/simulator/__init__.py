"""A whole cluster on one virtual clock, from one seed, over a fake network and fake disks.

Nodes, ledger and clients are the production code from the SDK down to the store
interfaces; :mod:`.clock`, :mod:`.machine`, :mod:`.network`, :mod:`.files` and
:mod:`.database` stand in for the machine below it, and fail on command.  What goes
wrong when is drawn from the seed (:mod:`.faults`), what clients do as well
(:mod:`.workload`); :mod:`.checkers` watch from outside and believe nobody.
"""
