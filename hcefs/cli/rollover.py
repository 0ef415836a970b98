"""Another authority for a running cluster, in three steps, without an outage.

``begin``: both authorities are trusted by all.  ``switch``: the new one signs, and every
certificate is of it.  ``finish``: the old one is trusted by nobody.  In between the cluster
serves; operators may wait as long as they like.

Invariants: what a step rests on is asked of every process before it: nobody shows a
certificate that somebody cannot check.  Each step may be repeated, and one that was
interrupted goes on where it was: ``ca/rollover.json`` says which step was begun, and every
file is written whole.  The old key is kept until the end, and no longer.

Not guaranteed: that clients on other machines have the bundle; nobody knows them.
Source: docs/decisions/0043-certificates-that-rotate.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hcefs.cli.arrival import all_have, shows_its_file, shows_one_of, takes, takes_no_more
from hcefs.cli.authority import (
    Member,
    members,
    read_certificate,
    renew_certificate,
    signing_pair,
    trust,
)
from hcefs.cli.cluster_files import ClusterFolder
from hcefs.durable_files import replace_file, sync_folder, write_private
from hcefs.errors import Conflict, HcefsError, Invalid
from hcefs.runtime import Runtime
from hcefs.transport.tls import Identity, check_pair, is_issued_by, issue, new_authority
from hcefs.transport.tls_identity import common_name, fingerprint

BEGUN, SWITCHED = "begun", "switched"
FILE_BYTES_MAX = 4096
PROBE = "rollover-probe"
_COUNTED = re.compile(r"(.*?) ([0-9]{1,6})", re.DOTALL)

Report = Callable[[str], None]


@dataclass(frozen=True)
class Rollover:
    """The files of a rollover, and what a step needs to know."""

    layout: ClusterFolder
    runtime: Runtime
    report: Report
    without: Sequence[str] = ()
    seconds: float = 20.0

    @property
    def _folder(self) -> Path:
        return self.layout.authority.parent

    @property
    def _stage_file(self) -> Path:
        return self._folder / "rollover.json"

    @property
    def _new(self) -> Path:
        return self._folder / "next.crt"

    @property
    def _new_key(self) -> Path:
        return self._folder / "next.key"

    @property
    def _old(self) -> Path:
        return self._folder / "old.crt"

    @property
    def _old_key(self) -> Path:
        return self._folder / "old.key"

    # -- where it is

    def stage(self) -> str:
        """The step that was begun last; empty: there is no rollover.

        Raises:
            Invalid: its file is damaged.
        """
        try:
            with self._stage_file.open("rb") as file:
                data = file.read(FILE_BYTES_MAX + 1)
        except FileNotFoundError:
            return ""
        try:
            found = json.loads(data) if len(data) <= FILE_BYTES_MAX else None
        except ValueError:
            found = None
        if not isinstance(found, dict) or found.get("version") != 1:
            found = {}
        stage = found.get("stage")
        if stage not in (BEGUN, SWITCHED):
            raise Invalid(
                f"{self._stage_file} is not as `hcefs ca rollover` writes it: put it back from "
                "your copy of the folder",
                reason="bad-rollover",
            )
        return str(stage)

    def _set_stage(self, stage: str) -> None:
        shown = {
            "version": 1,
            "stage": stage,
            "old": fingerprint(self._old.read_bytes()).hex(),
            "new": fingerprint(self._new.read_bytes()).hex(),
        }
        replace_file(self._stage_file, json.dumps(shown, indent=1).encode() + b"\n")

    def _require(self, wanted: tuple[str, ...], step: str) -> None:
        stage = self.stage()
        if stage not in wanted:
            what = {
                "": "no rollover has begun: run `hcefs ca rollover begin` first",
                BEGUN: "the certificates are still the old ones: run `hcefs ca rollover switch` "
                "first",
                SWITCHED: "the new authority signs already: run `hcefs ca rollover finish`",
            }[stage]
            raise Conflict(f"this is not the time to {step}: {what}", reason="wrong-step")

    def _asked(self) -> list[Member]:
        known = members(self.layout)
        unknown = set(self.without) - {each.name for each in known}
        if unknown:
            raise Invalid(
                f"{sorted(unknown)[0]!r} is no process of this folder", reason="unknown-process"
            )
        return [each for each in known if each.name not in self.without]

    def _probe(self, authority: Path, key: Path) -> Identity:
        """A certificate that is good for a handshake, and for nothing else: nobody pins it."""
        pem = authority.read_bytes()
        certificate, secret = issue(
            pem, key.read_bytes(), PROBE, ["localhost"], now_ms=self.runtime.now_ms()
        )
        return Identity(pem, certificate, secret)

    # -- the steps

    async def begin(self) -> None:
        """Make the new authority, and have all trust both.

        Raises:
            Conflict: the rollover is past that.
            Unavailable: some process does not trust the new one yet.
        """
        self._require(("", BEGUN), "begin")
        if not self.stage():
            self._make()
            self._set_stage(BEGUN)
        self._trust_both()
        await self._all_trust_the_new("hcefs ca rollover begin")

    def _make(self) -> None:
        authority, _ = signing_pair(self.layout)
        replace_file(self._old, authority)
        made, key = new_authority(_next_name(common_name(authority)), now_ms=self.runtime.now_ms())
        write_private(self._new_key, key, replace=True)
        replace_file(self._new, made)
        self.report(f"the new authority is {common_name(made)}")

    def _trust_both(self) -> None:
        both = (self._old.read_bytes(), self._new.read_bytes())
        for path in trust(self.layout, both):
            self.report(f"{path} holds both authorities")

    async def _all_trust_the_new(self, again: str) -> None:
        probe = self._probe(self._new, self._new_key)
        await all_have(
            self.runtime, self._asked(), takes(self.runtime, probe),
            copied="ca.crt", again=again, seconds=self.seconds,
        )  # fmt: skip

    async def switch(self) -> None:
        """Let the new authority sign, and give every process a certificate of it.

        Raises:
            Conflict: the rollover has not begun.
            Unavailable: some process does not trust the new one, or shows its old certificate.
        """
        self._require((BEGUN, SWITCHED), "switch")
        again = "hcefs ca rollover switch"
        check_pair(self._new.read_bytes(), self._new_key.read_bytes())
        self._trust_both()
        await self._all_trust_the_new(again)
        if self.stage() == BEGUN:
            authority, key = signing_pair(self.layout)
            if authority.strip() == self._old.read_bytes().strip():
                write_private(self._old_key, key, replace=True)
            write_private(self.layout.authority_key, self._new_key.read_bytes(), replace=True)
            self._set_stage(SWITCHED)
        new = self._new.read_bytes()
        for each in members(self.layout):
            if not is_issued_by(read_certificate(each.certificate), new):
                renew_certificate(self.layout, each.name, self.runtime)
                self.report(f"{each.name} has a certificate of the new authority")
        await all_have(
            self.runtime, self._asked(), shows_its_file(self.runtime),
            copied="tls.crt", again=again, seconds=self.seconds,
        )  # fmt: skip

    async def finish(self) -> None:
        """Trust the old authority no more, and forget its key.

        Raises:
            Conflict: the certificates are not of the new one yet.
            Unavailable: some process shows an old certificate, or trusts the old authority.
        """
        self._require((SWITCHED,), "finish")
        again, new = "hcefs ca rollover finish", self._new.read_bytes()
        await all_have(
            self.runtime, self._asked(), shows_one_of(self.runtime, new),
            copied="tls.crt", again="hcefs ca rollover switch", seconds=self.seconds,
        )  # fmt: skip
        for path in trust(self.layout, (new,)):
            self.report(f"{path} holds the new authority alone")
        try:
            probe = self._probe(self._old, self._old_key)
        except (Invalid, FileNotFoundError) as error:
            # Nobody trusts one that has expired; without its key it cannot be tried.
            self.report(f"the old authority cannot be tried any more: {_why(error)}")
        else:
            await all_have(
                self.runtime, self._asked(), takes_no_more(self.runtime, probe),
                copied="ca.crt", again=again, seconds=self.seconds,
            )  # fmt: skip
        # What a repeat needs goes last.
        for path in (self._old_key, self._new_key, self._old, self._stage_file, self._new):
            path.unlink(missing_ok=True)
            sync_folder(self._folder)


def _why(error: Exception) -> str:
    return error.message if isinstance(error, HcefsError) else "its key is not here"


def _next_name(name: str) -> str:
    """Another name, so that a chain's issuer is never in doubt: ``hcefs``, ``hcefs 2``, ..."""
    match = _COUNTED.fullmatch(name)
    base, number = (match[1], int(match[2])) if match else (name, 1)
    return f"{base[:56] or 'hcefs'} {number + 1}"
