"""``hcefs console``: the console with verbs, for one operator, on the operator's own machine.

Listens on the loopback interface only.  Verbs act through the functions of the command
line, with the operators' keys of this folder; keys reach neither a node nor the browser.

Invariants: everything but the page's own files needs the session's token, which is drawn at
the start, printed once in the fragment of the address (browsers send no fragment to anybody)
and compared in constant time; ``Host`` must be this server's own, and so must the
``Origin`` of a verb.  One verb runs at a time.  Nothing moves without the digest of a plan
that was shown.

Not guaranteed: anything against somebody who is the same user on this machine.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import hmac
import json
import logging
import threading
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from hcefs.cli.cluster_files import ClusterFolder
from hcefs.cli.layout import apply_staged, planned
from hcefs.cli.operators import forget_stage, load_stage, node_id_of, operators_of, run, stage
from hcefs.cli.options import DEFAULT_FOLDER, FolderOption, folder
from hcefs.cli.output import duration_text, size_text, verb
from hcefs.client.layout import ASKED, LayoutClient
from hcefs.console.pace import PlanPace
from hcefs.console.pages import PREFIX, STATE_PATH, refusal, state_answer, static_answer
from hcefs.console.snapshot import Facts, snapshot
from hcefs.errors import Denied, HcefsError, Invalid, NotFound, Unavailable
from hcefs.metrics import SiteAnswer
from hcefs.node.servers import until_signal
from hcefs.placement.cluster_map import ClusterMap, Node
from hcefs.placement.staging import Change, Stage, Verb
from hcefs.transport.node_facts import NodeFacts

LOOPBACK: Final = "127.0.0.1"
VERBS: Final = PREFIX + "/verbs/"
GIVEN_BY: Final = "x-hcefs-token"
TOKEN_BYTES = 32
BODY_MAX = 4096
VERB_SECONDS = 300.0
CONNECTION_SECONDS = 10.0
log = logging.getLogger(__name__)


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command("console")(console)


@verb
def console(
    port: Annotated[
        int, typer.Option("--port", metavar="N", min=0, max=65535, help="Port; 0: any free one.")
    ] = 0,
    directory: FolderOption = Path(DEFAULT_FOLDER),
) -> None:
    """Show the cluster in a browser on this machine, with the operators' verbs; Ctrl-C ends it."""
    layout = folder(directory)

    async def work() -> None:
        async with operators_of(layout) as operators:
            desk = OperatorDesk(layout, operators)
            token = operators.client.runtime.random(TOKEN_BYTES).hex()
            with OperatorServer(desk, token, port) as server:
                typer.echo(f"http://{server.host}{PREFIX}#token={token}")
                typer.echo("open this address in a browser here; whoever has it can use the verbs")
                await until_signal()

    run(work())


@dataclass(frozen=True)
class Said:
    """What came of a verb, for the reader; ``digest`` is of the plan that was shown."""

    text: str
    digest: str = ""


class OperatorDesk:
    """The snapshot and the verbs, over the operators' client."""

    def __init__(self, layout: ClusterFolder, operators: LayoutClient) -> None:
        self._layout = layout
        self._operators = operators
        self._pace = PlanPace()
        self._acting = asyncio.Lock()

    async def state(self) -> dict[str, Any]:
        """The snapshot, from the ledger and from what each node answers.

        Raises:
            HcefsError: the ledger does not answer.
        """
        operators, client = self._operators, self._operators.client
        current = await operators.current()
        progress = await client.map_progress()
        arrived = progress.names if progress.epoch == current.epoch else frozenset()
        statuses = await operators.statuses(current)
        protocol = await client.protocol_version()
        genesis = await client.genesis()
        found = Facts(
            client.runtime.now_ms(),
            current,
            arrived,
            {n.node_id: n.node_id in statuses for n in current.nodes if n.state in ASKED},
            {
                node_id: NodeFacts.of(status.facts)
                for node_id, status in statuses.items()
                if status.HasField("facts")
            },
            protocol.height,
            protocol.version,
            genesis.lease_ms,
            0,
            (),
            tuple(text for status in statuses.values() for text in status.warnings),
            self._pace.enter(current, arrived, client.runtime.monotonic()),
        )
        return snapshot(found) | {"verbs": True}

    async def act(self, name: str, body: Mapping[str, Any]) -> Said:
        """Do a verb.

        Raises:
            NotFound: there is no such verb, or no such node.
            HcefsError: what is wrong, and the cure.
        """
        async with self._acting:
            match name:
                case "repair-now":
                    return await self._everywhere("repair", self._operators.client.repair_now)
                case "scrub-now":
                    return await self._everywhere("scrub", self._scrub_now)
                case "drain" | "out" | "reweight":
                    return await self._stage(name, body)
                case "plan":
                    return await self._plan()
                case "apply":
                    return await self._apply(body)
                case "revert":
                    return await self._revert()
                case _:
                    raise NotFound("there is no such verb", reason="unknown-verb")

    async def _scrub_now(self, address: str) -> object:
        return await self._operators.client.scrub(address, now=True)

    async def _everywhere(
        self, what: str, ask: Callable[[str], Coroutine[Any, Any, object]]
    ) -> Said:
        current = await self._operators.current()
        nodes = [node for node in current.nodes if node.state in ASKED]

        async def one(node: Node) -> str:
            try:
                await ask(node.address)
            except HcefsError as error:
                return f"node {node.node_id}: {error.reason}"
            return f"node {node.node_id}: begins"

        lines = await asyncio.gather(*(one(node) for node in nodes))
        return Said("\n".join((f"{what} now", *lines)))

    async def _stage(self, name: str, body: Mapping[str, Any]) -> Said:
        current = await self._operators.current()
        node_id = node_id_of(current, str(body.get("node", "")))
        weight = body.get("weight", 0)
        if type(weight) is not int:
            raise Invalid("a weight is a whole number", reason="bad-weight")
        change = Change(Verb[name.upper()], node_id, weight=weight if name == "reweight" else 0)
        staged = await stage(self._layout, self._operators, change)
        return Said(_staged_text(staged) + "\nnothing has moved: show the plan next")

    async def _plan(self) -> Said:
        data = await planned(self._layout, self._operators)
        if not data["staged"]:
            return Said("nothing is staged")
        lines = [
            *(f"staged  {line}" for line in data["staged"]),
            f"moves   {data['moves']} seats, {size_text(data['bytes'])}, about "
            f"{duration_text(int(data['seconds'] * 1000))} at {data['rate_mib']:g} MiB/s a node",
            f"plan    {data['digest'][:16]}, epoch {data['epoch']} to {data['next_epoch']}",
            *(f"warning {line}" for line in data["warnings"]),
            "nothing has moved; apply it if this is what is meant",
        ]
        return Said("\n".join(lines), data["digest"])

    async def _apply(self, body: Mapping[str, Any]) -> Said:
        digest = body.get("digest")
        if not isinstance(digest, str) or len(digest) != 64:
            raise Invalid("show the plan first: apply needs its digest", reason="no-plan")
        data = await apply_staged(self._layout, self._operators, digest, quiet=True)
        state = "seats are moving" if data["moving"] else "nothing is left to move"
        lines = [f"applied {line}" for line in data["applied"]]
        return Said("\n".join((*lines, f"epoch {data['epoch']}: {state}")))

    async def _revert(self) -> Said:
        current: ClusterMap = await self._operators.current()
        staged = load_stage(self._layout, current)
        forget_stage(self._layout)
        return Said("nothing was staged" if not staged.changes else "what was staged is forgotten")


def _staged_text(staged: Stage) -> str:
    return "\n".join(f"staged  {change.text()}" for change in staged.changes)


class OperatorServer:
    """The HTTP side; a context manager inside of the event loop that the desk belongs to."""

    def __init__(self, desk: OperatorDesk, token: str, port: int) -> None:
        self._desk = desk
        self._token = token.encode()
        self._loop = asyncio.get_running_loop()
        self._waiting: set[concurrent.futures.Future[Any]] = set()
        try:
            self._server = _Server((LOOPBACK, port), self.answer)
        except OSError as error:
            raise Unavailable(
                f"port {port} cannot be listened on: {error.strerror}; choose another --port",
                reason="address-in-use",
            ) from None
        self.host = f"{LOOPBACK}:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.1},
            name="hcefs-console",
            daemon=True,
        )

    def __enter__(self) -> OperatorServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for each in tuple(self._waiting):
            each.cancel()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> SiteAnswer:
        """The answer to a request, with names of headers in small letters; called in threads."""
        own = (self.host, self.host.replace(LOOPBACK, "localhost"))
        if headers.get("host", "") not in own:
            return refusal(421, "this server has no such name")
        static = static_answer(path) if method == "GET" else None
        if static is not None:
            return static
        try:
            return self._admitted(method, path, headers, body)
        except HcefsError as error:
            status = 403 if isinstance(error, Denied) else 400
            return _failed(status, error.reason, error.message)
        except Exception:  # the edge: the page is told, the trace is for whoever reports it
            log.exception("a request of the console failed")
            return _failed(500, "fault", "hcefs console itself failed; see where it runs")

    def _admitted(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> SiteAnswer:
        given = headers.get(GIVEN_BY, "").encode("utf-8", "replace")
        if not hmac.compare_digest(given, self._token):
            raise Denied("open the address that `hcefs console` printed", reason="no-token")
        if method == "GET" and path == STATE_PATH:
            return state_answer(self._wait(self._desk.state()))
        if method == "POST" and path.startswith(VERBS):
            if headers.get("origin", "") != f"http://{headers['host']}":
                raise Denied("only this page may use the verbs", reason="foreign-origin")
            said = self._wait(self._desk.act(path.removeprefix(VERBS), _body(body)))
            return state_answer({"said": said.text, "digest": said.digest})
        return refusal(404, f"there are {PREFIX}, {STATE_PATH}")

    def _wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        self._waiting.add(future)
        try:
            return future.result(VERB_SECONDS)
        except (TimeoutError, concurrent.futures.CancelledError):
            future.cancel()
            raise Unavailable("that takes too long: look at its state", reason="slow") from None
        finally:
            self._waiting.discard(future)


def _failed(status: int, reason: str, said: str) -> SiteAnswer:
    found = state_answer({"reason": reason, "said": said})
    return SiteAnswer(status, found.headers, found.data)


def _body(data: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(data or b"{}")
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Invalid("the body of a verb is a JSON object", reason="bad-body")
    return found


Answering = Callable[[str, str, Mapping[str, str], bytes], SiteAnswer]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], answering: Answering) -> None:
        self.answering = answering
        super().__init__(address, _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that went away in the middle of an answer is no news."""
        log.debug("a connection to the console broke", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = CONNECTION_SECONDS
    server_version = "hcefs"
    sys_version = ""

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()) or int(length) > BODY_MAX:
            self._send(refusal(413, f"a verb's body has at most {BODY_MAX} bytes"))
            return
        self._answer(self.rfile.read(int(length)))

    def _answer(self, body: bytes) -> None:
        path = self.path.partition("?")[0]
        headers = {name.lower(): value for name, value in self.headers.items()}
        self._send(self.server.answering(self.command, path, headers, body))

    def _send(self, answer: SiteAnswer) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.data)))
        self.end_headers()
        self.wfile.write(answer.data)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: what is asked may hold nothing secret, and is no news."""
