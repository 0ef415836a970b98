"""What a process measures about itself, for Prometheus.

Owns one registry (never the library's global one) and :data:`FAMILIES`, the one
table of everything that is measured; the documentation is made from it.

Invariants: label values are words that the program chooses, never user input: a
value that does not look like one, or one more than ``LABEL_SETS_MAX`` different
sets of a family, is counted as ``other``, so memory is bounded whatever a peer
sends.  No metric names a record, a blob, an account or a grant.

Names are those of the table, without the ``hcefs_`` that they carry outside.
Counting is thread-safe.

Source: https://prometheus.io/docs/practices/naming/
"""

from __future__ import annotations

import logging
import math
import re
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder

from hcefs.errors import Invalid, Unavailable

_logger = logging.getLogger(__name__)

# The library adds to every counter and histogram the time of its making, which says no more
# than the start of the process and takes a third of the page.
disable_created_metrics()  # type: ignore[no-untyped-call]

PREFIX: Final = "hcefs_"
LABEL_SETS_MAX = 256
OTHER: Final = "other"

SECONDS: Final = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    60.0,
)
"""Histogram bounds: from a small call on an idle node to a put that ran into its deadline."""


PAYLOADS: Final = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0)
"""Histogram bounds: from a lonely payload to a full pack."""


@dataclass(frozen=True)
class Family:
    """One row of the table: a name, what kind of number it is, and its meaning."""

    name: str
    type: str  # "counter", "gauge" or "histogram"
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


def _counter(name: str, help: str, *labels: str) -> Family:
    return Family(name, "counter", help, labels)


def _gauge(name: str, help: str, *labels: str) -> Family:
    return Family(name, "gauge", help, labels)


def _histogram(name: str, help: str, *labels: str) -> Family:
    return Family(name, "histogram", help, labels, SECONDS)


def _histogram_of(name: str, help: str, buckets: tuple[float, ...]) -> Family:
    return Family(name, "histogram", help, (), buckets)


FAMILIES: Final[tuple[Family, ...]] = (
    # Requests
    _counter("requests_total", "Requests answered, by method and outcome.", "method", "outcome"),
    _histogram("request_seconds", "Seconds from a request's start to its end.", "method"),
    _gauge("open_streams", "Puts and gets in progress."),
    _gauge("stream_memory_bytes", "Bytes that open streams hold."),
    _counter("busy_total", "Requests refused because a limit was reached.", "limit"),
    _counter(
        "rate_limited_total", "Requests refused because their account asked too often.", "limit"
    ),
    _counter(
        "trace_spans_total",
        "Spans sent to the collector of traces, or dropped.",
        "outcome",
    ),
    _counter("denials_total", "Authenticated requests denied, by reason.", "reason"),
    _counter(
        "cut_streams_total", "Requests cut in their course because their right ended.", "reason"
    ),
    _counter("receipts_total", "Receipts written, by kind and decision.", "kind", "decision"),
    _counter("receipt_writes_total", "Synchronised writes of receipts: groups of them."),
    _counter(
        "receipt_failures_total", "Times that receipts could not be written, by reason.", "reason"
    ),
    _counter(
        "denials_limited_total",
        "Denials that a holder refused unseen, because an account had too many.",
    ),
    _counter("receipt_anchors_total", "Batches of receipts anchored, by outcome.", "outcome"),
    _gauge("receipts_unanchored", "Receipts here that the ledger does not have yet."),
    _gauge(
        "receipt_anchor_age_seconds", "Age of the oldest receipt that is not anchored; 0: none."
    ),
    _gauge("receipt_bytes", "Bytes of all receipts on this disk."),
    _gauge("receipts_forked", "1 while the receipts here contradict those that are anchored."),
    _counter("unauthenticated_total", "Requests whose caller did not prove who it is."),
    # Puts and gets
    _counter("puts_total", "Puts by outcome.", "outcome"),
    _counter("gets_total", "Gets by outcome.", "outcome"),
    _counter("put_bytes_total", "Plaintext bytes accepted by puts."),
    _counter("get_bytes_total", "Plaintext bytes sent by gets."),
    _counter("seal_seconds_total", "Seconds of sealing segments."),
    _counter("open_seconds_total", "Seconds of opening segments."),
    _counter("encode_seconds_total", "Seconds of computing parity pieces."),
    _counter("decode_seconds_total", "Seconds of recomputing missing pieces."),
    _counter("store_seconds_total", "Seconds of writing shards to the disk, durably."),
    _counter("load_seconds_total", "Seconds of reading shards from the disk."),
    _counter("packs_total", "Packs put through this node, by outcome.", "outcome"),
    _histogram_of(
        "pack_payloads", "Payloads of each pack that was put through this node.", PAYLOADS
    ),
    _counter("packs_stored_total", "Shards of packs stored on this node."),
    _counter("packed_payloads_stored_total", "Payloads whose rows came with those shards."),
    _counter("degraded_puts_total", "Puts acknowledged with fewer than n durable shards."),
    _counter("degraded_reads_total", "Reads that had to recompute a missing piece."),
    _counter("hedged_loads_total", "Loads asked of a further shard because one was slow."),
    # What is on the disk
    _gauge("shards", "Shards on the disk."),
    _gauge("shard_bytes", "Bytes of shards on the disk."),
    _gauge("disk_free_bytes", "Bytes free on the disk of the data folder."),
    _gauge("disk_total_bytes", "Bytes that the disk of the data folder has."),
    _gauge("disk_reserve_bytes", "Bytes of that disk that shards never use."),
    _counter("corrupt_shards_total", "Shards found damaged, by a read or by the scrub."),
    _counter("scrub_bytes_total", "Bytes that the scrub has read."),
    _counter("scrub_shards_total", "Shards that the scrub has read."),
    _counter("scrub_rows_total", "Rows that the scrub has read, of all tables."),
    _counter("scrub_cycles_total", "Cycles of the scrub that ended: everything was read."),
    _counter("scrub_found_total", "What the scrub found that is not as it should be.", "kind"),
    _counter(
        "scrub_disagreements_total",
        "Bases of which another holder had another layout or core, by what came of it.",
        "outcome",
    ),
    _gauge(
        "scrub_superfluous_shards",
        "Shards that no seat, move or stand-in gives a reason to be here, in the last cycle.",
    ),
    _gauge("scrub_progress", "Share of the present cycle that is done, 0 to 1."),
    _gauge(
        "scrub_oldest_unverified_seconds", "Age of the reading that lies longest ago, of any shard."
    ),
    _gauge("scrub_cycle_seconds", "Seconds in which the scrub is to read everything."),
    _gauge("restoring_rows", "Rows of seats that are still to be restored after a lost database."),
    _gauge("disk_state", "1 for what the disk is fit for: ok, full or failing.", "state"),
    _histogram("disk_call_seconds", "Seconds of one call of the shards' disk.", "call"),
    _counter("disk_failures_total", "Failed calls of the disk: read or write.", "call"),
    _gauge("quarantined_shards", "Shards that were set aside and are kept."),
    _gauge("pending_blobs", "Blobs that wait for their append on the ledger."),
    _counter("collected_blobs_total", "Blobs deleted because their append never came."),
    _counter(
        "rebalanced_shards_total", "Shards brought here for a seat: copied or rebuilt.", "how"
    ),
    _counter("rebalanced_bytes_total", "Bytes of those shards."),
    _counter("upkeep_served_bytes_total", "Bytes of shards given to other nodes for copies."),
    _counter("backup_rows_total", "Rows that operators copied from this node for backups."),
    _counter("unrecovered_shards_total", "Shards that no k intact others could rebuild."),
    _counter(
        "reprofiled_blobs_total",
        "Blobs and packs that this node moved to another profile, or tried to: moved, waiting, "
        "refused.",
        "outcome",
    ),
    _gauge(
        "reprofile_waiting", "Blobs and packs that are this node's to re-profile and still wait."
    ),
    _counter("replaced_shards_total", "Shards deleted here after a new layout came into force."),
    _counter(
        "disputed_shards_total",
        "Old shards that differed from a new layout, and were kept: somebody lied, or erred.",
    ),
    _gauge("erasures_waiting", "Erased records of which something may still be on this disk."),
    _counter("erased_records_total", "Erased records of which nothing is left here."),
    _counter(
        "erased_keys_total",
        "Keys of erased records that were deleted: boxes, links, key rows.",
        "kind",
    ),
    _counter("erased_openings_total", "Openings of erased records that were deleted."),
    _counter("erased_shards_total", "Shards of erased records that were deleted."),
    _gauge("replaced_bases", "Blobs and packs with shards of a former layout here."),
    _counter("reclaimed_keys_total", "Key rows deleted here that nothing led to."),
    _counter("retired_shards_total", "Shards deleted here after their seat had moved."),
    _gauge("repair_waiting_rows", "Rows that the last round for lacking shards could not list."),
    _gauge(
        "blobs_by_live_shards",
        "Blobs and packs by how many of their shards are alive, by the last pass; each is counted "
        "by one node of a cluster.",
        "profile",
        "n",
    ),
    _gauge(
        "blobs_by_margin",
        "The same blobs and packs by their live shards beyond k: below-k, or 0 to m.",
        "margin",
    ),
    _gauge("blobs_short", "Those of them that have fewer than n live shards."),
    _gauge(
        "repair_backlog", "Shards that this node is to rebuild, by live shards beyond k.", "margin"
    ),
    _gauge("repair_oldest_seconds", "Age of the oldest shard that this node is to rebuild."),
    _gauge("repair_pace_bytes", "Bytes a second that repair brought back in the last minute."),
    _gauge("repair_left_seconds", "Seconds until the backlog is gone at that pace; -1: unknown."),
    _gauge("repair_pass_seconds", "Seconds that the last pass over this node's rows took."),
    _gauge("repair_whole_age_seconds", "Seconds since a pass found all blobs whole; -1: never."),
    _counter("repaired_shards_total", "Shards that repair has brought back to this node."),
    _counter("repaired_bytes_total", "Bytes of those shards."),
    _counter(
        "repair_failures_total", "Attempts to rebuild a shard that failed, by reason.", "reason"
    ),
    _counter(
        "repair_hints_total", "Hints about shards of this node, by what became of them.", "outcome"
    ),
    _counter(
        "repair_hints_sent_total", "Hints that this node gave to others, by outcome.", "outcome"
    ),
    _gauge("moving_seats", "Seats of this node that are being filled."),
    _gauge("retiring_shards", "Shards here whose seat has moved, not deleted yet."),
    _counter("stand_in_shards_total", "Shards stored here in the place of a node that was away."),
    _counter(
        "brought_home_total", "What stood in for others here and was brought home, by kind.", "kind"
    ),
    _gauge(
        "stand_ins_waiting", "Shards, and records with rows, that wait here to be brought home."
    ),
    _gauge("upkeep_rate_bytes", "Bytes a second that copies may take now."),
    _gauge("unreachable_nodes", "Other nodes of the map that this one cannot reach."),
    _gauge(
        "automatic_out_blocked",
        "1 while nodes are away that the others may not, or cannot, give up by themselves.",
    ),
    # Emergencies
    _gauge("emergency_openings", "Openings in an emergency since the genesis."),
    _gauge("emergency_open", "Openings in an emergency that are open now."),
    _gauge("emergency_unreviewed", "Openings in an emergency that nobody has reviewed yet."),
    _gauge("emergency_unjustified", "Openings in an emergency that a review found unjustified."),
    _gauge("emergency_overdue", "Openings that nobody reviewed in time; above 0 is an alarm."),
    _counter("emergency_key_releases_total", "Requests for keys served here under an opening."),
    # Ledger
    _gauge("ledger_height", "Highest ledger height applied."),
    _gauge("ledger_snapshot_height", "Height of the newest snapshot made here; 0: none."),
    _gauge("ledger_term", "Term of the ledger that is followed: 1, and one more a recovery."),
    _gauge("ledger_fork_proofs", "Proofs kept here that a writer signed two histories."),
    _gauge("ledger_lease_age_seconds", "Age of the newest signed head: the node's lease."),
    _gauge("ledger_lease_max_seconds", "Age of the lease at which nodes refuse, by the genesis."),
    _gauge("ledger_lag_blocks", "Blocks that signed heads tell of and that are not applied here."),
    _counter("ledger_transactions_total", "Transactions applied, by outcome.", "outcome"),
    _histogram("ledger_commit_seconds", "Seconds from a submit to its answer."),
    _gauge("ledger_snapshot_seconds", "How long the last ledger snapshot took to make."),
    _gauge(
        "ledger_snapshot_unchecked_roots",
        "Snapshot roots named since the start that no snapshot made here could be compared with.",
    ),
    _counter("ledger_snapshot_parts_total", "Parts of ledger snapshots served."),
    _gauge("ledger_followers", "Followers connected to the writer."),
    _gauge("cluster_map_epoch", "Epoch of the cluster map in force."),
    _gauge("cluster_map_nodes", "Nodes in the map, by their state.", "state"),
    _gauge("cluster_map_warnings", "What the map cannot keep: caps of zones, racks and hosts."),
    _gauge("seats", "Seats that the map gives this node, by profile.", "profile"),
    _gauge("node_weight", "Weight of this node in the map; 0: it is in none."),
    # The process
    _gauge("serving", "1 while this process does its work: a node serves, the ledger writes."),
    _gauge("clock_timestamp_seconds", "This process's clock: seconds since 1970."),
    _gauge("clock_skew_max_seconds", "Distance of two clocks that the genesis permits."),
    _gauge(
        "certificate_expiry_timestamp_seconds",
        "When the TLS certificate in use expires: own, or authority; seconds since 1970.",
        "certificate",
    ),
    _gauge(
        "tls_files_refused",
        "1 while the TLS files of the configuration are not used, because they are wrong.",
    ),
    _counter("tls_files_changes_total", "Sets of TLS files taken into use since the start."),
    _gauge("erasure_kernel_info", "1 for the erasure kernel in use.", "kernel"),
    _counter(
        "version_refused_total",
        "Times that this process refused another one for its version: a peer or a follower.",
        "what",
    ),
    _gauge("outdated", "1 while the ledger follows rules that this software does not know."),
    _gauge("build_info", "1 for the version of the software.", "version"),
)
"""Everything that is measured."""

SERIES_MAX: Final = sum(
    (LABEL_SETS_MAX + 1 if family.labels else 1)
    * (len(family.buckets) + 3 if family.type == "histogram" else 1)
    for family in FAMILIES
)
"""Time series that one process can ever show, whatever its peers send; those of the library's
process collector come to it."""

_LABEL_VALUE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+/-]{0,63}")


class Metrics:
    """The measurements of one process.

    Raises:
        KeyError: (every method) a name that is not in :data:`FAMILIES`.
        ValueError: (every method) the family is of another type, or the labels
            are not exactly the family's.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self._families = {family.name: family for family in FAMILIES}
        self._collectors: dict[str, Any] = {}
        self._label_sets: dict[str, set[tuple[str, ...]]] = {name: set() for name in self._families}
        self._lock = threading.Lock()
        for family in FAMILIES:
            self._collectors[family.name] = self._collector(family)
        ProcessCollector(namespace=PREFIX.rstrip("_"), registry=self.registry)

    def _collector(self, family: Family) -> Counter | Gauge | Histogram:
        name, labels = PREFIX + family.name, family.labels
        if family.type == "counter":
            return Counter(name, family.help, labels, registry=self.registry)
        if family.type == "gauge":
            return Gauge(name, family.help, labels, registry=self.registry)
        return Histogram(name, family.help, labels, registry=self.registry, buckets=family.buckets)

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        """Add to a counter; ``amount`` is not negative."""
        self._child(name, "counter", labels).inc(amount)

    def set(self, name: str, value: float | Callable[[], float], **labels: str) -> None:
        """Set a gauge, or give the function that tells it whenever metrics are read.

        The function runs in the metrics server's threads: it must be quick and
        safe there.  One that raises shows as NaN and is logged.
        """
        child = self._child(name, "gauge", labels)
        if callable(value):
            child.set_function(_guarded(name, value))
        else:
            child.set(value)

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Enter one value into a histogram."""
        self._child(name, "histogram", labels).observe(value)

    def value(self, name: str, **labels: str) -> float:
        """The present value (of a histogram: how many were observed); 0 if there is none yet."""
        family = self._families[name]
        _check_labels(family, labels)
        sample = PREFIX + name + ("_count" if family.type == "histogram" else "")
        found = self.registry.get_sample_value(sample, labels)
        return 0.0 if found is None else found

    def values(self, name: str) -> dict[tuple[str, ...], float]:
        """The present values of a counter or gauge by its labels' values; cheap, one family."""
        family = self._families[name]
        if family.type == "histogram":
            raise ValueError(f"{name} is a histogram")
        return {
            tuple(sample.labels[label] for label in family.labels): sample.value
            for metric in self._collectors[name].collect()
            for sample in metric.samples
        }

    def serve(
        self,
        address: str,
        pages: Mapping[str, Page] | None = None,
        sites: Mapping[str, Site] | None = None,
    ) -> MetricsServer:
        """Serve ``/metrics`` on ``host:port`` (port 0: any free one) in a daemon thread.

        ``pages`` are others by their path, ``sites`` by the beginning of it.  Their functions
        run in the server's threads: they must be quick and safe there; one that raises is
        answered with 500 and logged.

        Raises:
            Invalid: not an address.
            Unavailable: it cannot be listened on (``address-in-use``).
        """
        return MetricsServer(self.registry, address, pages, sites)

    def _child(self, name: str, kind: str, labels: dict[str, str]) -> Any:
        family = self._families[name]
        if family.type != kind:
            raise ValueError(f"{name} is a {family.type}, not a {kind}")
        _check_labels(family, labels)
        collector = self._collectors[name]
        if not labels:
            return collector
        values = tuple(_label_value(labels[label]) for label in family.labels)
        known = self._label_sets[name]
        if values not in known:
            with self._lock:
                if len(known) >= LABEL_SETS_MAX:
                    values = (OTHER,) * len(values)
                known.add(values)
        return collector.labels(*values)


@dataclass(frozen=True)
class Body:
    """An answer of a page: its HTTP status and its JSON."""

    status: int
    json: bytes


Page = Callable[[], Body]


@dataclass(frozen=True)
class SiteAnswer:
    """An answer of a site: its HTTP status, its headers and its bytes."""

    status: int
    headers: Mapping[str, str]
    data: bytes


Site = Callable[[str, str], SiteAnswer]
"""Answers for a path and the request's ``Host``."""


class MetricsServer:
    """A small HTTP server; ``close`` it, or use it as a context manager."""

    def __init__(
        self,
        registry: CollectorRegistry,
        address: str,
        pages: Mapping[str, Page] | None = None,
        sites: Mapping[str, Site] | None = None,
    ) -> None:
        host, port = _split_address(address)
        try:
            self._server = _Server(registry, host, port, pages or {}, sites or {})
        except OSError as error:
            raise Unavailable(
                f"metrics cannot be served on {address}: {error.strerror or 'unknown host'}; "
                "choose another metrics_address",
                reason="address-in-use",
            ) from None
        self.port: int = self._server.server_address[1]
        shown = f"[{host}]" if ":" in host else host
        self.address = f"{shown}:{self.port}"
        self._closed = False
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.1},
            name="hcefs-metrics",
            daemon=True,
        )
        self._thread.start()

    def close(self) -> None:
        """Stop and free the port; open connections are cut.  Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def __enter__(self) -> MetricsServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


CONNECTIONS_MAX = 8
CONNECTION_SECONDS = 5.0


class _Server(HTTPServer):
    """A few threads at most; each connection serves one request."""

    def __init__(
        self,
        registry: CollectorRegistry,
        host: str,
        port: int,
        pages: Mapping[str, Page],
        sites: Mapping[str, Site],
    ) -> None:
        self.registry = registry
        self.pages = pages
        self.sites = sites
        self._connections: dict[threading.Thread, socket.socket] = {}
        self._lock = threading.Lock()
        family, *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        self.address_family = family
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        # HTTPServer asks the DNS for its own name here, which can take long and is not needed.
        if self.allow_reuse_address:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            full = len(self._connections) >= CONNECTIONS_MAX
            if not full:
                thread = threading.Thread(
                    target=self._serve, args=(request, client_address), daemon=True
                )
                self._connections[thread] = request
        if full:
            self.shutdown_request(request)
        else:
            thread.start()

    def _serve(self, request: Any, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except OSError:
            _logger.debug("a connection to the metrics port broke")
        finally:
            self.shutdown_request(request)
            with self._lock:
                self._connections.pop(threading.current_thread(), None)

    def server_close(self) -> None:
        super().server_close()
        with self._lock:
            connections = dict(self._connections)
        for thread, connection in connections.items():
            try:
                connection.shutdown(socket.SHUT_RDWR)  # wakes its thread
            except OSError:
                _logger.debug("a connection to the metrics port was closed already")
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = CONNECTION_SECONDS
    server_version = "hcefs"
    sys_version = ""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        for prefix, site in self.server.sites.items():
            if path == prefix or path.startswith(prefix + "/"):
                self._answer_site(path, site)
                return
        page = self.server.pages.get(path)
        if page is not None:
            self._answer_page(path, page)
            return
        if path != "/metrics":
            known = ", ".join(("/metrics", *self.server.pages, *self.server.sites))
            self.send_error(404, explain=f"There are: {known}")
            return
        encode, content_type = choose_encoder(self.headers.get("Accept", ""))
        self._send(200, content_type, encode(self.server.registry))

    def do_HEAD(self) -> None:
        self.do_GET()

    def _answer_site(self, path: str, site: Site) -> None:
        try:
            answer = site(path, self.headers.get("Host", ""))
        except Exception:  # the edge: whoever asks gets an answer, the log gets the trace
            _logger.warning("the site of %s cannot answer", path[:80], exc_info=True)
            answer = SiteAnswer(500, {"Content-Type": "text/plain"}, b"a fault; the log has it\n")
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.data)))
        self.end_headers()
        self._write(answer.data)

    def _answer_page(self, path: str, page: Page) -> None:
        try:
            body = page()
        except Exception:  # the edge: whoever asks gets an answer, the log gets the trace
            _logger.warning("the page %s cannot be made", path, exc_info=True)
            body = Body(500, b'{"ok":false,"reason":"a fault of the process; its log has it"}\n')
        self._send(body.status, "application/json", body.json)

    def _send(self, status: int, content_type: str, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self._write(data)

    def _write(self, data: bytes) -> None:
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a scrape every few seconds is no news."""


def _guarded(name: str, function: Callable[[], float]) -> Callable[[], float]:
    def call() -> float:
        try:
            return float(function())
        except Exception:  # one broken gauge must not take the whole page down
            _logger.warning("the gauge %s cannot be read", name, exc_info=True)
            return math.nan

    return call


def _check_labels(family: Family, labels: dict[str, str]) -> None:
    if labels.keys() != set(family.labels):
        raise ValueError(f"{family.name} takes the labels {family.labels}, not {tuple(labels)}")


def _label_value(value: str) -> str:
    return value if _LABEL_VALUE.fullmatch(value) else OTHER


def _split_address(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdigit() or len(port) > 5 or int(port) > 65535:
        raise Invalid(f"{address[:80]!r} is not host:port", reason="bad-address")
    return host, int(port)
