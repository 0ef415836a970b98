"use strict";
// Shows /console/state.json every two seconds.  Whatever comes from the cluster gets into the
// page as text (textContent), never as markup.  History is kept here only, and bounded.

const EVERY_MS = 2000, HISTORY = 90, SVG = "http://www.w3.org/2000/svg";
const rates = { requests: [], put: [], get: [] };
let last = null, staged = null, busy = false;
const token = location.hash.startsWith("#token=") ? location.hash.slice(7) : "";
const $ = (id) => document.getElementById(id);

function el(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === "class") made.className = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value);
  }
  for (const child of children.flat()) if (child !== null && child !== undefined) made.append(child);
  return made;
}
function svg(tag, attributes, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}
// Replaces what is shown only where it changed, so that focus and selection stay.
function put(id, ...children) {
  const at = $(id), fresh = el("div", {}, ...children);
  if (at.innerHTML !== fresh.innerHTML) {
    const held = at.contains(document.activeElement) && document.activeElement.dataset.key;
    at.replaceChildren(...fresh.childNodes);
    if (held) at.querySelector(`[data-key="${CSS.escape(held)}"]`)?.focus();
  }
}
const text = (id, value) => { if ($(id).textContent !== value) $(id).textContent = value; };

function bytes(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let at = 0;
  while (n >= 1024 && at < units.length - 1) { n /= 1024; at++; }
  return `${at && n < 10 ? n.toFixed(1) : Math.round(n)} ${units[at]}`;
}
function duration(seconds) {
  if (seconds < 90) return `${Math.max(0, Math.round(seconds))} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} days`;
}
const number = (n) => n.toLocaleString("en").replaceAll(",", "\u202f");
const many = (n, one, more) => `${number(n)} ${n === 1 ? one : more || one + "s"}`;
const sum = (list, of) => list.reduce((all, each) => all + of(each), 0);
const pill = (tone, label) => el("span", { class: `pill ${tone}` }, label);

function bar(share, label, tone, mark) {
  const at = Math.min(1, Math.max(0, share));
  const made = svg("svg", { class: `bar ${tone || ""}`, role: "img", "aria-label": label,
    viewBox: "0 0 100 6", preserveAspectRatio: "none" });
  made.append(svg("rect", { width: (at * 100).toFixed(2), height: 6 }));
  if (mark) made.append(svg("line", { x1: mark * 100 - 0.5, x2: mark * 100 - 0.5, y1: 0, y2: 6 }));
  return made;
}
function hint(why, command) {
  const said = el("span", { role: "status" });
  const copy = el("button", { type: "button", "data-key": command, "aria-label": `Copy ${command}`,
    onclick: async () => {
      try { await navigator.clipboard.writeText(command); said.textContent = "copied"; }
      catch { said.textContent = "select it and copy"; }
    } }, "Copy");
  return el("p", { class: "hint" }, why ? el("span", {}, why) : null, el("code", {}, command), copy, said);
}

// --- verdict

const gone = (node) => node.state === "out" || node.state === "removed";
const away = (node) => node.answers === false && !gone(node);

function margin(state) {
  const live = state.blobs.by_live_shards;
  if (!live.length) return null;
  return Math.min(...live.map((each) => each.live - each.k));
}

function showVerdict(state) {
  const { read, write, spare_shards: spare } = state.verdict;
  const lost = state.nodes.filter(away), known = read.known && write.known;
  const spares = Object.values(spare), fewest = known && spares.length ? Math.min(...spares) : null;
  const short = sum(state.blobs.by_live_shards.filter((b) => b.live < b.n), (b) => b.blobs);
  let tone = "good", title = "Everything can be read and written", because = "";
  if (!known) {
    [tone, title, because] = ["none", "This node cannot tell yet what works", read.known ? write.reason : read.reason];
  } else if (!read.ok) {
    [tone, title, because] = ["bad", write.ok ? "Some data cannot be read" : "Some data cannot be read or written", read.reason];
  } else if (!write.ok) {
    [tone, title, because] = ["bad", "Everything can be read, puts are refused", write.reason];
  } else if (lost.length) {
    tone = "warn";
    title = `Everything works, ${many(lost.length, "node")} away`;
    because = `${lost.map((n) => `Node ${n.id}`).join(", ")} ${lost.length === 1 ? "does" : "do"} not answer pings. ` +
      "Clients read and write around it; what it lacks is brought back when it returns or is given up.";
  } else if (short) {
    [tone, title] = ["warn", "Everything works, repair is under way"];
    because = `${many(short, "blob")} ${short === 1 ? "has" : "have"} fewer shards than the profile wants.`;
  } else if (state.plan) {
    because = "Seats are moving to where the plan wants them; reads and puts go on meanwhile.";
  } else {
    because = "Every node answers, and every partition has a node for each of its shards.";
  }
  $("verdict").className = `verdict ${tone}`;
  text("headline", title);
  text("because", because);
  document.title = `${tone === "good" ? "" : "! "}${title} - HCE-FS`;
  const yes = (a) => (a.ok ? "yes" : a.known ? "no" : "unknown");
  const mood = (a) => (a.ok ? "good" : a.known ? "bad" : "none");
  const tell = (label, value, note, tone) => el("div", {}, el("dt", {}, label),
    el("dd", { class: tone ? `tone ${tone}` : "" }, value, note ? el("small", {}, note) : null));
  const least = margin(state);
  put("answers",
    tell("Can read", yes(read), null, mood(read)),
    tell("Can write", yes(write), null, mood(write)),
    tell("Spare shards", fewest === null ? "unknown" : String(fewest), "nodes that may still fail, at the thinnest partition",
      fewest === null ? "none" : fewest < 1 ? "bad" : lost.length ? "warn" : "good"),
    tell("Durability margin", least === null ? "not known yet" : `${least < 0 ? "" : "+"}${least}`,
      least === null ? `${state.blobs.passes} of ${state.blobs.of} nodes have counted` : "live shards beyond k, of the worst blob" +
        (state.blobs.passes < state.blobs.of ? ` that ${state.blobs.passes} of ${state.blobs.of} nodes counted` : ""),
      least === null ? "none" : least < 1 ? "bad" : short ? "warn" : "good"),
    tell("Nodes", `${state.nodes.filter((n) => n.answers).length} of ${state.nodes.filter((n) => !gone(n)).length}`, "answer"));
  if (lost.length) {
    put("advice", hint("Start it again, or see what is wrong with it:", "hcefs doctor"),
      hint("Only if its disk is lost for good, then look at the plan:", `hcefs node out ${lost[0].id} --lost`));
  } else if (!known || !read.ok || !write.ok) {
    put("advice", hint("Look at each process:", "hcefs doctor"));
  } else put("advice");
}

// --- map

function showNode(state, node) {
  const facts = node.facts, off = away(node);
  const mood = off ? ["bad", "away"] : gone(node) ? ["none", node.state] :
    node.answers ? ["good", "answers"] : ["none", "not heard yet"];
  const rows = [];
  const ideal = Math.round(node.ideal_seats);
  const wide = Math.max(1, ...state.nodes.map((n) => Math.max(n.seats, n.ideal_seats)));
  rows.push(el("p", { class: "line" }, el("span", {}, `${number(node.seats)} seats`),
    el("span", {}, `${number(ideal)} by weight ${node.weight}`)));
  rows.push(bar(node.seats / wide, `${node.seats} seats, ${ideal} by weight`, "",
    Math.abs(node.seats - ideal) > 1 ? node.ideal_seats / wide : 0));
  if (facts && facts.total_bytes) {
    const used = facts.total_bytes - facts.free_bytes, share = used / facts.total_bytes;
    rows.push(el("p", { class: "line" }, el("span", {}, `${bytes(facts.shard_bytes)} in ${many(facts.shards, "shard")}`),
      el("span", {}, `${bytes(facts.free_bytes)} free`)));
    rows.push(bar(share, `disk ${Math.round(share * 100)} percent full`, share > 0.85 ? "warnbar" : "disk"));
  }
  if (off && facts) rows.push(el("p", { class: "line" }, `last told ${duration((state.time_ms - facts.taken_ms) / 1000)} ago`));
  const extra = [];
  if (node.state !== "up" && !gone(node)) extra.push(pill("warn", node.state));
  if (facts && facts.disk_state && facts.disk_state !== "ok") extra.push(pill("bad", `disk ${facts.disk_state}`));
  if (facts && facts.moving_seats) extra.push(pill("warn", `filling ${number(facts.moving_seats)}`));
  const place = node.rack ? `${node.rack}/${node.host}` : node.host;
  return el("article", { class: `node${off ? " away" : ""}` },
    el("header", {}, el("h4", {}, `Node ${node.id}`, el("small", {}, place)), extra, pill(...mood)), rows);
}

function showMap(state) {
  const zones = new Map();
  for (const node of state.nodes) zones.set(node.zone, [...(zones.get(node.zone) || []), node]);
  put("zones", [...zones].map(([zone, nodes]) => el("div", { class: "card zone" },
    el("h3", {}, zone || "no zone", el("span", {}, many(nodes.length, "node"))),
    nodes.map((node) => showNode(state, node)))));
  text("map-note", `epoch ${number(state.epoch)}, seats as the map in force gives them`);
}

// --- care

function showRepair(state, told) {
  const waits = {};
  for (const f of told) for (const [name, count] of Object.entries(f.backlog)) waits[name] = (waits[name] || 0) + count;
  const backlog = sum(Object.values(waits), (n) => n);
  const pace = sum(told, (f) => f.repair_bytes_second);
  const left = told.filter((f) => sum(Object.values(f.backlog), (n) => n)).map((f) => f.repair_left_seconds);
  const passing = told.filter((f) => f.pass_seats);
  const live = state.blobs.by_live_shards;
  const rows = [el("p", { class: "big" }, backlog ? `${many(backlog, "shard")} to rebuild` : "Nothing to rebuild")];
  if (backlog) {
    const eta = left.some((s) => s < 0) ? "time left not known yet" : `about ${duration(Math.max(...left))} left`;
    rows.push(el("p", {}, `${bytes(pace)}/s, ${eta}`));
    rows.push(el("ul", { class: "counts" }, Object.entries(waits).map(([name, n]) =>
      el("li", {}, el("span", {}, `margin ${name}`), el("span", {}, number(n))))));
  }
  rows.push(el("p", {}, `${state.blobs.passes} of ${state.blobs.of} nodes have looked over all their rows` +
    (passing.length ? `; ${passing.length} are at it` : "")));
  if (passing.length) {
    const done = sum(passing, (f) => f.pass_rows), all = sum(passing, (f) => f.pass_seats);
    rows.push(bar(done / all, `passes: ${done} of ${all} rows`));
  }
  if (live.length) rows.push(el("ul", { class: "counts" }, live.map((b) => el("li", {},
    el("span", {}, `${b.profile}, ${b.live} of ${b.n || "?"} shards`), el("span", {}, many(b.blobs, "blob"))))));
  put("repair", rows, backlog ? hint("", "hcefs repair list") : hint("", "hcefs repair now"));
}

function showScrub(state, told) {
  const share = told.length ? sum(told, (f) => (f.scrub_resting ? 1000 : f.scrub_permille)) / told.length / 1000 : 0;
  const found = sum(told, (f) => f.scrub_damaged), aside = sum(told, (f) => f.quarantined);
  const resting = told.filter((f) => f.scrub_resting).length;
  const never = told.filter((f) => !f.scrub_oldest_ms).length;
  const oldest = told.length && !never ? Math.min(...told.map((f) => f.scrub_oldest_ms)) : 0;
  put("scrub", el("p", { class: "big" }, told.length ? `${Math.floor(share * 100)} % of this cycle` : "Not known yet"),
    bar(share, `scrub: ${Math.floor(share * 100)} percent`),
    el("p", {}, `${many(found, "shard")} damaged in this cycle, ${number(aside)} in quarantine`),
    el("p", {}, oldest ? `everything was read in the last ${duration((state.time_ms - oldest) / 1000)}` :
      `first reading of everything is not complete on ${many(never, "node")}`),
    el("p", {}, `${resting} of ${told.length} nodes rest until the next cycle`),
    hint("", found || aside ? "hcefs scrub status" : "hcefs scrub now"));
}

function showBalance(state) {
  const plan = state.plan, draining = state.nodes.filter((n) => n.state === "draining");
  const empty = draining.find((n) => !n.seats);
  if (!plan && empty) {
    put("rebalance", el("p", { class: "big" }, "Nothing moves"), el("p", {}, `Node ${empty.id} is empty. Ask before it leaves:`),
      hint("", `hcefs safe-to-remove ${empty.id}`), hint("", `hcefs node remove ${empty.id}`));
    return;
  }
  if (!plan) {
    put("rebalance", el("p", { class: "big" }, "Nothing moves"), el("p", {}, "Every seat is where the map wants it."),
      el("p", {}, "To empty a node:"), hint("", `hcefs node drain ${state.nodes.at(-1)?.id ?? 1}`));
    return;
  }
  const left = plan.in_flight - plan.arrived + plan.later;
  const waves = plan.waves ? (plan.wave - 1 + (plan.in_flight ? plan.arrived / plan.in_flight : 0)) / plan.waves : 0;
  put("rebalance", el("p", { class: "big" }, `${many(left, "seat")} to move`),
    bar(waves, `wave ${plan.wave} of ${plan.waves}`),
    el("p", {}, `wave ${plan.wave} of ${plan.waves}: ${plan.arrived} of ${plan.in_flight} arrived, ${number(plan.later)} in later waves`),
    el("p", {}, plan.seconds_left === null ? "time left not known yet" : `about ${duration(plan.seconds_left)} left at this pace`),
    draining.length ? hint("To keep it after all:", `hcefs node drain ${draining[0].id} --cancel`) : null,
    hint("", "hcefs layout status"));
}

// --- load

function spark(values, label) {
  const top = Math.max(1e-9, ...values), step = 100 / (HISTORY - 1);
  const at = (v, i) => `${(100 - (values.length - 1 - i) * step).toFixed(2)},${(42 - (v / top) * 38).toFixed(2)}`;
  const made = svg("svg", { class: "spark", viewBox: "0 0 100 44", preserveAspectRatio: "none", role: "img", "aria-label": label });
  made.append(svg("line", { x1: 0, x2: 100, y1: 42.5, y2: 42.5 }));
  if (values.length > 1) {
    const points = values.map(at);
    const first = points[0].split(",")[0];
    made.append(svg("path", { class: "area", d: `M${first},42 L${points.join(" L")} L100,42 Z` }), svg("path", { d: `M${points.join(" L")}` }));
  }
  return made;
}

// Each node's counts are compared with its own of before, by its own clock.
function learn(state) {
  const now = new Map(state.nodes.filter((n) => n.facts).map((n) => [n.id, n.facts]));
  if (last) {
    const total = { requests: 0, put: 0, get: 0 };
    for (const [id, facts] of now) {
      const was = last.get(id);
      if (!was || was.started_ms !== facts.started_ms) continue;
      if (facts.taken_ms <= was.taken_ms) { now.set(id, was); total.requests += was.r || 0; total.put += was.p || 0; total.get += was.g || 0; continue; }
      const seconds = (facts.taken_ms - was.taken_ms) / 1000;
      facts.r = (facts.requests - was.requests) / seconds;
      facts.p = (facts.put_bytes - was.put_bytes) / seconds;
      facts.g = (facts.get_bytes - was.get_bytes) / seconds;
      total.requests += facts.r; total.put += facts.p; total.get += facts.g;
    }
    for (const [name, value] of Object.entries(total)) {
      rates[name].push(Math.max(0, value));
      if (rates[name].length > HISTORY) rates[name].shift();
    }
  }
  last = now;
}

function showLoad(state, told) {
  const newest = (name) => rates[name].at(-1) || 0;
  put("requests", el("p", { class: "big" }, `${newest("requests").toFixed(newest("requests") < 10 ? 1 : 0)} /s`),
    el("p", {}, `${number(sum(told, (f) => f.requests))} since the nodes started, of clients and of nodes`),
    spark(rates.requests, "requests a second, last minutes"));
  const flow = rates.put.map((value, i) => value + rates.get[i]);
  put("bytes", el("p", { class: "big" }, `${bytes(newest("put") + newest("get"))}/s`),
    el("p", {}, `${bytes(newest("put"))}/s in, ${bytes(newest("get"))}/s out through nodes; direct reads are not counted`),
    spark(flow, "bytes a second of puts and gets, last minutes"));
  const denials = Object.entries(state.denials);
  put("denials", el("p", { class: "big" }, denials.length ? number(sum(denials, (d) => d[1])) : "None"),
    denials.length ? el("ul", { class: "counts" }, denials.slice(0, 8).map(([reason, n]) =>
      el("li", {}, el("span", {}, reason), el("span", {}, number(n))))) : el("p", {}, "No request was denied since the nodes started."),
    el("p", {}, "Each one is in its record's receipts, for the record's owner to list."));
}

function showLedger(state) {
  put("ledger", state.nodes.filter((n) => !gone(n)).map((node) => {
    const f = node.facts, off = away(node);
    if (!f || off) return el("tr", {}, el("th", { scope: "row" }, `Node ${node.id}`),
      el("td", { colspan: 5, class: `tone ${off ? "bad" : "none"}` }, off ? "away" : "nothing heard yet"));
    const late = f.lease_age_ms < 0 || (state.lease_max_ms && f.lease_age_ms > state.lease_max_ms / 2);
    return el("tr", {}, el("th", { scope: "row" }, `Node ${node.id}`), el("td", { class: "n" }, number(f.height)),
      el("td", { class: `n${f.lag_blocks ? " tone warn" : ""}` }, f.lag_blocks ? many(f.lag_blocks, "block") : "none"),
      el("td", { class: `n${late ? " tone warn" : ""}` }, f.lease_age_ms < 0 ? "none" : `${(f.lease_age_ms / 1000).toFixed(1)} s`),
      el("td", { class: "v" }, f.version), el("td", { class: "n" }, `${duration((state.time_ms - f.taken_ms) / 1000)} ago`));
  }));
  text("ledger-note", `protocol ${state.protocol}; nodes refuse when a lease is older than ${duration(state.lease_max_ms / 1000)}`);
}

function show(state) {
  const told = state.nodes.filter((n) => n.facts && !away(n) && !gone(n)).map((n) => n.facts);
  learn(state);
  showVerdict(state);
  showMap(state);
  showRepair(state, told);
  showScrub(state, told);
  showBalance(state);
  showLoad(state, told);
  showLedger(state);
  $("warn-section").hidden = !state.warnings.length;
  put("warnings", state.warnings.map((each) => el("li", {}, each)));
  const at = new Date(state.time_ms).toLocaleTimeString("en-GB");
  text("seen", `${state.seen_by ? `seen by node ${state.seen_by}` : "seen by the operators"} at ${at}`);
  if (state.verbs) showVerbs(state);
  document.body.dataset.ready = "1";
}

// --- verbs, of `hcefs console` only

async function act(verb, body) {
  busy = true;
  say("asking");
  try {
    const answer = await fetch(`/console/verbs/${verb}`, { method: "POST", body: JSON.stringify(body || {}),
      headers: { "Content-Type": "application/json", "X-Hcefs-Token": token } });
    const data = await answer.json();
    say(answer.ok ? data.said : `${data.reason}: ${data.said}`);
    staged = answer.ok && data.digest ? data.digest : null;
  } catch { say("hcefs console does not answer: is it still running?"); }
  busy = false;
  $("apply").hidden = !staged;
}
function say(what) { text("verb-said", what); }

function showVerbs(state) {
  $("verbs").hidden = false;
  text("foot", "Verbs are signed with the operators' keys of this machine; the keys never leave it.");
  if ($("verb-said")) return;
  const pick = el("select", { id: "verb-node" }, state.nodes.filter((n) => !gone(n)).map((n) => el("option", { value: n.id }, `node ${n.id}`)));
  const weight = el("input", { id: "verb-weight", type: "number", min: 1, value: 100 });
  const button = (label, verb, body) => el("button", { type: "button", onclick: () => { if (!busy) act(verb, body && body()); } }, label);
  const apply = el("button", { type: "button", id: "apply", class: "act", onclick: () => { if (!busy) act("apply", { digest: staged }); } }, "Apply this plan");
  apply.hidden = true;
  $("verbs-body").replaceChildren(
    el("div", { class: "verb-row" }, button("Repair now", "repair-now"), button("Scrub now", "scrub-now")),
    el("div", { class: "verb-row" }, el("label", {}, "Node", pick), button("Stage drain", "drain", () => ({ node: pick.value })),
      button("Stage out", "out", () => ({ node: pick.value })),
      el("label", {}, "Weight", weight), button("Stage weight", "reweight", () => ({ node: pick.value, weight: Number(weight.value) }))),
    el("div", { class: "verb-row" }, button("Show the plan", "plan"), apply, button("Forget what is staged", "revert")),
    el("pre", { id: "verb-said", role: "status" }, "Nothing moves before a plan was shown and applied."));
}

// --- the loop

async function turn() {
  try {
    const answer = await fetch("/console/state.json", { cache: "no-store", headers: token ? { "X-Hcefs-Token": token } : {} });
    if (!answer.ok) throw new Error(String(answer.status));
    show(await answer.json());
  } catch {
    $("verdict").className = "verdict bad";
    text("headline", "This node does not answer");
    text("because", "What is shown below is the last that it told. Open the console of another node.");
  }
  setTimeout(turn, EVERY_MS);
}
turn();
