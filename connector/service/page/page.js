// The status page: poll -> ui.status -> render -> patch. What is shown is changed into what is wanted, so that focus and
// selection stay. Whatever the service says becomes text nodes and attributes of fixed names; none of it is read as HTML.
"use strict";

const BUSY_MS = 2000, CALM_MS = 10000, LOST_MS = 5000, PATIENCE_MS = 15000, TOLD_MS = 8000;
const FEW = 6; // of a long list, before "show all"
const TOKEN = "vector-sync token";
const $ = (id) => document.getElementById(id);
const ui = { status: null, ahead: 0, heard: 0, lost: null, open: new Set(), found: {}, told: {} };

// --- drawing

function h(tag, attrs, ...kids) {
  return { tag, attrs: attrs || {}, kids: kids.flat(9).filter(Boolean) };
}

function patch(parent, wanted) {
  const keyed = new Map();
  for (const child of parent.children) if (child.vKey !== undefined) keyed.set(child.vKey, child);
  let at = parent.firstChild;
  for (const want of wanted) {
    if (typeof want !== "object") {
      const text = String(want);
      if (at && at.nodeType === Node.TEXT_NODE) {
        if (at.data !== text) at.data = text;
        at = at.nextSibling;
      } else parent.insertBefore(document.createTextNode(text), at);
      continue;
    }
    const key = want.attrs.key;
    let node = key === undefined ? at : keyed.get(key);
    if (!node || node.vTag !== want.tag || node.vKey !== key) {
      node = Object.assign(document.createElement(want.tag), { vTag: want.tag, vKey: key, vAttrs: {} });
    }
    if (node === at) at = at.nextSibling;
    else parent.insertBefore(node, at);
    dress(node, want.attrs);
    patch(node, want.kids);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

function dress(node, attrs) {
  for (const name of Object.keys(node.vAttrs)) if (!(name in attrs) && !name.startsWith("on")) node.removeAttribute(name);
  for (const [name, value] of Object.entries(attrs)) {
    if (name === "key") continue;
    if (name.startsWith("on")) node[name] = value;
    else if (value === null || value === false) node.removeAttribute(name);
    else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value === true ? "" : value);
  }
  node.vAttrs = attrs;
}

// --- words

const grouped = new Intl.NumberFormat("en");
const number = (n) => ((n ?? null) === null ? "–" : grouped.format(n));
const counted = (n, noun) => `${number(n)} ${noun}${n === 1 ? "" : "s"}`;
const percent = (fraction) => `${Math.floor(fraction * 100)}\u00a0%`;
const now = () => Date.now() + ui.ahead;

function span(seconds, fine = true) {
  const minutes = Math.round(seconds / 60), hours = minutes / 60;
  if (seconds < 60) return `${Math.max(0, Math.floor(seconds))} s`;
  if (minutes < 60) return `${minutes} min`;
  if (hours >= 36) return `${Math.round(hours / 24)} days`;
  return fine && hours < 10 && minutes % 60 ? `${Math.floor(hours)} h ${minutes % 60} min` : `${Math.round(hours)} h`;
}

const took = (seconds) => (seconds < 10 ? `${seconds.toFixed(1)} s` : span(seconds));

function relative(iso) {
  const seconds = (Date.parse(iso) - now()) / 1000;
  if (seconds > 1) return `in ${span(seconds)}`;
  return seconds > -5 ? "now" : `${span(-seconds)} ago`;
}

function exactly(iso) {
  return `${new Date(iso).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "medium" })} here, ${iso} UTC`;
}

const when = (iso, otherwise = "–") => (iso ? h("time", { datetime: iso, title: exactly(iso) }, relative(iso)) : quiet(otherwise));

function money(cost, currency) {
  const digits = { minimumFractionDigits: 2, maximumFractionDigits: cost < 1 ? 4 : 2 };
  return `${cost.toLocaleString("en", digits)} ${currency || ""}`;
}

const WORDS = { jobs: "look at jobs", watch: "a change", request: "on request" };
const because = (word) => WORDS[word] || word;

// --- what it means

const LONG = 600; // seconds behind, whatever the reason
const ORDER = ["bad", "warn", "work", "idle", "ok"];

const isBusy = (sync) => ["starting", "queued", "running", "verifying"].includes(sync.state);
const lastCode = (sync) => sync.last_exit_code ?? (sync.runs.find((run) => run.exit_code !== null) || { exit_code: null }).exit_code;

// One of a few verdicts: its tone (the colour), the word for a row, and how it goes on after "docs ...".
function verdict(sync) {
  const code = lastCode(sync), late = sync.behind_seconds, stopped = sync.sinks.some((sink) => sink.stopped);
  const as = (tone, word, says) => ({ tone, word, says: says || `is ${word.toLowerCase()}` });
  if (sync.question) return as("warn", "Stopped to ask", "has stopped to ask");
  if (sync.in_step === false) {
    if (code === 3 && sync.jobs.length && !stopped) return as("work", "Waiting for jobs");
    if (code === 5) return as("bad", "Altered", "does not hold what was written");
    const isBad = stopped || [2, 3, 70].includes(code) || late > LONG;
    return as(isBad ? "bad" : "warn", late === null ? "Behind" : `${span(late, false)} behind`);
  }
  if (sync.state === "paused") return as("idle", "Paused");
  if (sync.in_step) return as("ok", "In step");
  if (sync.progress) return sync.last_success_at ? as("work", "Checking", "is being checked") : as("work", "First run", "is on its first run");
  return isBusy(sync) ? as("idle", "Starting") : as("idle", "No run yet", "has not run yet");
}

function toDo(sync) {
  const code = lastCode(sync), { tone, word } = verdict(sync);
  const again = sync.next_run_at && sync.state !== "paused" ? ["It tries again ", when(sync.next_run_at), "."] : "";
  if (sync.question) return ["Nothing is lost. Mend what it asks about, or confirm it below."];
  if (word === "Altered") return [h("code", {}, command(sync, "verify --repair")), " puts it right, and embeds nothing anew."];
  if (tone === "bad") {
    const what = { 2: "Mend the settings; nothing was done with them. ", 70: "This is a bug: please report the traceback in the service's log. " };
    return [what[code] || "Mend what it says; what was done is kept. ", again];
  }
  if (word === "Paused") return ["Nothing runs until it is resumed."];
  if (word === "Waiting for jobs") return ["Nothing to do: the jobs go on. It looks again ", when(sync.next_run_at, "later"), "."];
  return tone === "warn" && again;
}

function activity(sync) {
  const fraction = sync.progress && sync.progress.fraction;
  return fraction ? `${sync.state}, ${percent(fraction)}` : sync.state;
}

// The one sentence on top, and a short one for the title; `sync` where it is about one.
function headline(syncs) {
  if (!syncs.length) return { tone: "idle", line: "No sync is set up", short: "no sync" };
  const seen = syncs.map((sync) => ({ sync, ...verdict(sync) }));
  for (const [tones, what] of [["bad warn", "need attention"], ["work", "are not done yet"], ["idle", "are not running"]]) {
    const those = seen.filter((it) => tones.includes(it.tone)), one = those[0];
    if (those.length === 1) return { tone: one.tone, line: `${one.sync.name} ${one.says}`, short: one.word.toLowerCase(), sync: one.sync };
    const short = `${those.length} of ${syncs.length} syncs ${what}`;
    if (one) return { tone: those.some((it) => it.tone === "bad") ? "bad" : one.tone, line: short, short };
  }
  const only = syncs.length === 1 ? syncs[0] : null;
  return { tone: "ok", line: only ? `${only.name} is in step` : `All ${syncs.length} syncs are in step`, short: "in step", sync: only };
}

const quoted = (text) => (/^[\w./@:+-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

function command(sync, rest) {
  const path = ui.status.config.path;
  return `vector-sync --config ${quoted(path.endsWith(".toml") ? path : `${path}/${sync.name}.toml`)} ${rest}`;
}

// What confirms a question: the options that it names itself, and the same for POST /run.
function wishes(question) {
  const wish = {}, options = [];
  const known = { confirm_deletes: /--confirm-deletes[ =](\d+)/, accept_reembed: /--accept-reembed\b/, yes: /--yes\b/ };
  for (const [name, pattern] of Object.entries(known)) {
    const found = pattern.exec(question);
    if (!found) continue;
    wish[name] = found[1] ? Number(found[1]) : true;
    options.push(found[0]);
  }
  return options.length ? { wish, options: options.join(" ") } : null;
}

// --- parts of the page

const dot = (tone, moving) => h("i", { class: `dot ${tone}${moving ? " moving" : ""}`, "aria-hidden": "true" });
const state = (tone, ...text) => h("span", { class: "state" }, dot(tone), text);
const p = (type, ...text) => h("p", { class: type }, ...text);
const quiet = (...text) => h("span", { class: "quiet" }, ...text);
const also = (text) => [" ", quiet(text)];
const none = h("span", { class: "quiet none" }, "–");
const amount = (n) => (n ? number(n) : h("span", { class: "faint" }, number(n)));
const told = (text) => text.split("`").map((part, at) => (at % 2 ? h("code", {}, part) : part)); // what stands in backticks
const button = (text, onclick, attrs) => h("button", { type: "button", key: text, onclick, ...attrs }, text);
const figures = (key, pairs) =>
  h("dl", { key, class: "facts" }, pairs.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
const isSingle = () => ui.status.syncs.length === 1;

function section(name, title, ...content) {
  const id = `head-${name}`;
  return h("section", { key: name, class: "card", "aria-labelledby": id }, h(isSingle() ? "h2" : "h3", { id }, title), content);
}

// Columns are named "Sink, State, #Records"; # is one of numbers. The roles stay when a phone's rows are no table cells.
function table(name, columns, rows) {
  const titles = columns.split(", ").map((title) => [title.replace("#", ""), title[0] === "#" ? "n" : null]);
  const tr = (attrs, ...cells) => h("tr", { role: "row", ...attrs }, cells);
  const td = (attrs, ...content) => h("td", { role: "cell", ...attrs }, content);
  return h("table", { role: "table", "aria-labelledby": `head-${name}` },
    h("thead", { role: "rowgroup" }, tr({}, titles.map(([title, type]) => h("th", { role: "columnheader", scope: "col", class: type }, title)))),
    h("tbody", { role: "rowgroup" }, rows.map((row) => [
      tr({ key: row.key, class: row.class, "aria-current": row.current }, titles.map(([title, type], at) => td({ "data-label": title, class: type }, row.cells[at]))),
      row.below && tr({ key: `${row.key} more`, class: "more" }, td({ colspan: titles.length }, row.below)),
    ])));
}

// A list of which the first few are shown until somebody asks for all.
function some(name, all, few, draw) {
  const isOpen = ui.open.has(name), rest = all.length - few;
  const toggle = () => {
    if (!ui.open.delete(name)) ui.open.add(name);
    render();
  };
  return [
    draw(isOpen || rest <= 1 ? all : all.slice(0, few)),
    rest > 1 && button(isOpen ? "Show fewer" : `Show all ${number(all.length)}`, toggle, { key: "toggle", class: "link", "aria-expanded": isOpen }),
  ];
}

const lines = (texts) => h("ul", { class: "lines" }, texts.map((text) => h("li", {}, told(text))));

function notices(status) {
  const found = [], notice = (key, tone, ...content) => found.push(h("div", { key, class: `card notice ${tone}`, role: "alert" }, content));
  if (ui.lost) {
    const since = new Date(ui.lost.since + ui.ahead).toISOString().replace(/\.\d+Z/, "Z");
    notice("lost", "bad", p(null,
      h("strong", {}, ui.lost.why ? "No status since " : "No answer since ", new Date(ui.lost.since).toLocaleTimeString("en-GB")), " (", when(since), "). ",
      ui.lost.why ? `The service says: ${ui.lost.why}` : "The service has stopped, or cannot be reached from here.",
      status && " What you see is from then."));
  }
  if (status && status.config.error) {
    notice("config", "bad",
      p(null, h("strong", {}, "The settings have errors. "), "The service goes on with those it loaded ", when(status.config.loaded_at), "."),
      lines(status.config.error.split("\n")));
  }
  if (status && status.stopping) notice("stopping", "idle", "The service is stopping.");
  return found;
}

function hero(status, top) {
  const only = isSingle() && status.syncs[0];
  return h("section", { key: "hero", class: `card hero ${top.tone}`, "aria-labelledby": "verdict" },
    h("div", { class: "head" },
      h("h1", { id: "verdict" }, dot(top.tone, status.syncs.some((sync) => sync.progress)), h("span", {}, top.line)),
      only && buttons(only)),
    only ? [explanation(only), made(only), facts(only)] : status.syncs.length > 0 && [p("quiet", total(status.syncs)), overview(status.syncs)]);
}

function total(syncs) {
  const sum = (count) => syncs.map(count).reduce((a, b) => a + b);
  const rejected = sum((sync) => sync.rejected.count);
  return `${counted(sum(documentsOf), "document")}${rejected ? `, ${number(rejected)} rejected` : ""}`;
}

function explanation(sync) {
  const advice = toDo(sync);
  return [sync.why && !sync.question && p("why", told(sync.why)), advice && p("faint", advice)];
}

const made = (sync) => p("quiet", `${sync.source} → ${sync.embedder}`, sync.generation && `, generation ${sync.generation}`);
const documentsOf = (sync) => Math.max(0, ...sync.sinks.map((sink) => sink.documents || 0));

function nextRun(sync) {
  if (sync.state !== "idle") return activity(sync);
  return [when(sync.next_run_at), sync.next_because && also(because(sync.next_because))];
}

function facts(sync) {
  return figures("facts", [
    ["Next run", nextRun(sync)],
    ["Last in step", when(sync.last_success_at, "not yet")],
    ["Documents", number(documentsOf(sync))],
    ["Rejected", sync.rejected.count ? [dot("warn"), number(sync.rejected.count)] : "0"],
    ["Embed jobs", sync.jobs.length ? `${number(sync.jobs.length)} open` : "none open"],
  ]);
}

function overview(syncs) {
  const chosen = chosenSync();
  const why = (sync) => "bad warn".includes(verdict(sync).tone) && (sync.question || sync.why);
  const row = (sync) => ({
    key: sync.name, class: "choice", current: sync === chosen && "true", below: why(sync) && p("faint", told(why(sync))),
    cells: [
      h("a", { href: `#/${encodeURIComponent(sync.name)}` }, sync.name), state(verdict(sync).tone, verdict(sync).word), nextRun(sync),
      amount(documentsOf(sync)), amount(sync.rejected.count), when(sync.last_success_at, "not yet"),
    ],
  });
  return h("div", { key: "overview" }, h("h2", { id: "head-overview", class: "unseen" }, "Syncs"),
    table("overview", "Sync, State, Next run, #Documents, #Rejected, #Last in step", syncs.map(row)));
}

function buttons(sync) {
  if (!ui.status.actions) return null;
  const order = (path, title) => () => ask({ path, sync: sync.name, title });
  const said = ui.told[sync.name];
  return h("div", { key: "buttons", class: "buttons" },
    said && h("span", { key: "said", class: said.tone }, said.text),
    sync.state === "paused" ? button("Resume", order("resume", `Resume ${sync.name}`), { class: "main" })
      : [button("Run now", order("run", `Run ${sync.name} now`), { class: "main" }), button("Pause", order("pause", `Pause ${sync.name}`))]);
}

function question(sync) {
  if (!sync.question) return null;
  const found = wishes(sync.question);
  const confirm = () => ask({
    path: "run", sync: sync.name, title: `Confirm and run ${sync.name}`, what: sync.question, wish: found.wish, sure: true,
  });
  return section("question", "A question for you",
    p(null, told(sync.question)),
    found && p(null, "To confirm, run ", h("code", {}, command(sync, `sync ${found.options}`)), " where the service runs",
      ui.status.actions ? ", or confirm it from here." : "."),
    found && ui.status.actions && p("buttons", button("Confirm and run …", confirm)));
}

function progress(sync) {
  const run = sync.progress;
  if (!run) return null;
  const sinks = [...new Set([...Object.keys(run.records), ...Object.keys(run.deleted)])];
  const deleted = (name) => run.deleted[name] && `, ${number(run.deleted[name])} deleted`;
  const known = typeof run.fraction === "number";
  return section("progress", sync.state === "verifying" ? "Verifying" : "Under way",
    h("div", { class: "bar" },
      h("progress", { max: 1, value: known ? run.fraction : null, "aria-labelledby": "head-progress" }),
      h("span", { class: "share" }, known ? percent(run.fraction) : "…")),
    figures("counts", [
      ["Looked at", counted(run.rows, "row")],
      ["Embedded", counted(run.texts, "text")],
      ...sinks.map((name) => [name, [counted(run.records[name] || 0, "record"), deleted(name) || ""]]),
    ]),
    run.jobs.length > 0 && lines(run.jobs),
    p("quiet", "Began ", when(run.started_at), run.trigger && ` (${because(run.trigger)})`, run.told && [". Latest: ", told(run.told)]));
}

function sinks(sync) {
  if (!sync.sinks.length) return null;
  const standing = (sink) => {
    if (sink.stopped) return ["bad", "stopped"];
    if (sink.drift) return ["bad", `${sink.drift > 0 ? "+" : "−"}${number(Math.abs(sink.drift))} records`];
    if (sink.behind) return [sync.question ? "warn" : "work", `${number(sink.behind)} behind`];
    if (sync.in_step === null) return sync.progress ? ["work", "being filled"] : ["idle", "not filled yet"];
    return ["ok", "in step"];
  };
  const row = (sink) => ({
    key: sink.name,
    cells: [
      [h("strong", {}, sink.name), also(sink.kind)], state(...standing(sink)),
      ...[sink.documents, sink.records, sink.behind, sink.in_doubt, sink.rejected].map(amount),
    ],
    below: sink.stopped ? p("bad", told(sink.stopped)) : sink.drift
      && p("bad", `It holds ${counted(Math.abs(sink.drift), "record")} ${sink.drift > 0 ? "more" : "fewer"} than were written to it.`),
  });
  return section("sinks", sync.sinks.length === 1 ? "Sink" : "Sinks",
    table("sinks", "Sink, State, #Documents, #Records, #Behind, #In doubt, #Rejected", sync.sinks.map(row)));
}

function jobs(sync) {
  if (!sync.jobs.length) return null;
  return section("jobs", "Open embed jobs", table("jobs", "Job, State, #Texts, #Tokens, #Age, #Attempt",
    sync.jobs.map((job, at) => ({
      key: job.id || `at ${at}`,
      cells: [job.id ? h("code", {}, job.id) : quiet("not started"), job.state, number(job.texts), number(job.tokens), span(job.age_seconds), number(job.attempt)],
    }))));
}

const CHANGES = ["added", "changed", "metadata_only", "moved", "deleted", "rejected"];

function changes(run) {
  const found = CHANGES.filter((name) => run[name]).map((name) => `${number(run[name])} ${name.replace("_", " ")}`);
  return [found.join(", "), (run.unchanged || !found.length) && also(`${number(run.unchanged)} unchanged`)];
}

function runTone(run) {
  return { 0: "ok", 1: "warn", 3: "warn", 4: "warn", 2: "bad", 5: "bad", 70: "bad" }[run.exit_code] || "idle";
}

function runs(sync) {
  if (!sync.runs.length) return null;
  const draw = (shown) => table("runs", "Began, Ended, Changes, #Embedded, #Cost, #Took", shown.map((run) => ({
    key: run.id,
    cells: [
      [when(run.started_at), run.trigger && also(because(run.trigger))],
      state(runTone(run), run.ended || (sync.progress && run === sync.runs[0] ? "under way" : "not finished"), run.exit_code ? also(`exit ${run.exit_code}`) : ""),
      changes(run),
      run.texts_embedded ? [counted(run.texts_embedded, "text"), run.tokens_billed && also(counted(run.tokens_billed, "token"))] : none,
      run.cost === null ? none : money(run.cost, run.currency),
      run.seconds === null ? none : took(run.seconds),
    ],
    below: run.problems.length ? some(`run ${sync.name} ${run.id}`, run.problems, 2, lines) : null,
  })));
  return section("runs", "Last runs", some(`runs ${sync.name}`, sync.runs, FEW, draw));
}

function rejected(sync) {
  const { count, shown } = sync.rejected;
  if (!count) return null;
  const draw = (some) => h("ul", { class: "rejected" }, some.map((it) => h("li", {},
    h("strong", {}, it.place), it.sink && also(`in ${it.sink}`), h("div", {}, it.reason))));
  const more = shown.length < count && p("quiet", shown.length ? `The first ${number(shown.length)} of ${number(count)}; all are in ` : "They are told by ",
    h("code", {}, command(sync, "rejected")));
  return section("rejected", counted(count, "rejected document"), shown.length > 0 && some(`rejected ${sync.name}`, shown, FEW, draw), more);
}

function reconcile(sync) {
  const found = sync.reconcile;
  if (!found) return null;
  const code = found.last_exit_code;
  const ended = { 0: state("ok", "every record is as written"), 5: state("bad", "differences were found") };
  return section("reconcile", "Reconcile",
    p(null, "Every record is compared with what was written. Next ", when(found.next_at), "; last ", when(found.last_at, "not yet"),
      code !== null && [": ", ended[code] || state("warn", `exit code ${code}`)], "."),
    found.told && p(null, told(found.told)));
}

// --- search

function searching(sync) {
  if (ui.status.show !== "text") return null;
  const found = ui.found[sync.name] || {};
  const submit = (event) => {
    event.preventDefault();
    search(sync.name, new FormData(event.target));
  };
  return section("search", "Search",
    h("form", { role: "search", class: "search", key: `search ${sync.name}`, onsubmit: submit },
      h("input", { name: "q", type: "search", required: true, maxlength: 2000, placeholder: "What would your readers ask?", "aria-label": "What to look for" }),
      sync.sinks.length > 1
        && h("select", { name: "sink", "aria-label": "Sink" }, sync.sinks.map((sink) => h("option", { value: sink.name }, sink.name))),
      h("button", { type: "submit" }, "Search")),
    h("p", { role: "status", class: found.wrong ? "bad" : "quiet" }, found.wrong || (found.wait && "Searching …")
      || (found.hits && (found.hits.length ? `${counted(found.hits.length, "passage")} nearest to “${found.q}”` : "Nothing was found."))),
    found.hits && h("ol", { class: "hits" }, found.hits.map((hit) => h("li", {},
      h("div", {}, h("strong", {}, hit.title || hit.document_id), also(`${hit.id} · ${hit.score.toFixed(3)}`)),
      p(null, hit.excerpt)))));
}

async function search(sync, form) {
  const mine = (ui.found[sync] = { wait: true });
  render();
  const asked = new URLSearchParams({ q: form.get("q"), sync });
  if (form.get("sink")) asked.set("sink", form.get("sink"));
  try {
    const answer = await fetch(`search?${asked}`, { cache: "no-store" });
    if (answer.ok) Object.assign(mine, { q: form.get("q"), hits: (await answer.json()).hits });
    else mine.wrong = await problem(answer);
  } catch {
    mine.wrong = "The service does not answer.";
  }
  mine.wait = false;
  render();
}

// --- asking the service to do something

let asked = null; // what the dialog is about

// Some browsers forbid the storage; then the token is asked for each time.
function stored(what, ...given) {
  try { return sessionStorage[what](TOKEN, ...given); } catch { return null; }
}

// Do it if the token is known and nothing has to be confirmed, else ask first.
function ask(order) {
  if (stored("getItem") && !order.sure) send(order, stored("getItem"));
  else show(order, "");
}

function show(order, wrong) {
  const known = stored("getItem");
  asked = order;
  $("ask-title").textContent = order.title;
  $("ask-what").textContent = order.what || "";
  $("ask-yes").textContent = order.sure ? "Confirm and run" : order.title.split(" ")[0];
  $("ask-wrong").textContent = wrong;
  $("ask-token").hidden = known;
  $("token").required = !known;
  $("token").value = "";
  if (!$("ask").open) $("ask").showModal();
  $(known ? "ask-no" : "token").focus();
}

async function send(order, token) {
  $("ask-yes").disabled = true;
  try {
    const answer = await fetch(`${order.path}?sync=${encodeURIComponent(order.sync)}`, {
      method: "POST",
      headers: { Authorization: `Bearer ${token}` },
      body: order.wish ? JSON.stringify(order.wish) : undefined,
    });
    if (answer.status === 401) {
      stored("removeItem");
      return show(order, "This is not the token of the service.");
    }
    stored("setItem", token);
    const wrong = answer.ok ? "" : await problem(answer);
    tell(order.sync, wrong ? "bad" : "quiet", wrong || { run: "A run is asked for", pause: "Paused", resume: "Resumed" }[order.path]);
  } catch {
    tell(order.sync, "bad", "The service does not answer.");
  } finally {
    $("ask-yes").disabled = false;
  }
  $("ask").close();
  poll();
}

function tell(sync, tone, text) {
  const said = (ui.told[sync] = { tone, text });
  $("said").textContent = text;
  setTimeout(() => {
    if (ui.told[sync] === said && tone !== "bad") delete ui.told[sync];
    render();
  }, TOLD_MS);
  render();
}

$("ask").querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const token = stored("getItem") || $("token").value.trim();
  if (/^[\x21-\x7e]+$/.test(token)) send(asked, token);
  else $("ask-wrong").textContent = "A token is made of letters, digits and signs, without blanks.";
});
$("ask-no").addEventListener("click", () => $("ask").close());
$("ask").addEventListener("close", () => { $("token").value = ""; });

async function problem(answer) {
  const said = await answer.json().catch(() => ({}));
  return said.error || `The service answers ${answer.status}.`;
}

// --- the whole

function chosenSync() {
  const syncs = ui.status.syncs;
  let name = "";
  try { name = decodeURIComponent(location.hash.slice(2)); } catch { /* nobody's name */ }
  const worst = [...syncs].sort((a, b) => ORDER.indexOf(verdict(a).tone) - ORDER.indexOf(verdict(b).tone))[0];
  return syncs.find((sync) => sync.name === name) || syncs.find((sync) => sync.name === ui.last) || worst;
}

function details(sync) {
  ui.last = sync.name;
  const parts = [question, progress, sinks, jobs, searching, runs, rejected, reconcile].map((part) => part(sync));
  if (isSingle()) return parts;
  return h("section", { key: `sync ${sync.name}`, class: "sync", "aria-labelledby": "name" },
    h("div", { key: "card", class: "card" },
      h("div", { class: "head" }, h("h2", { id: "name", tabindex: -1 }, sync.name, state(verdict(sync).tone, verdict(sync).word)), buttons(sync)),
      explanation(sync), made(sync), facts(sync)),
    parts);
}

function foot(status) {
  const forget = () => {
    stored("removeItem");
    render();
  };
  return [
    p(null, "Settings: ", h("code", {}, status.config.path), ", loaded ", when(status.config.loaded_at), ". Up since ", when(status.started_at),
      ". As JSON: ", h("a", { href: "status" }, "/status"), "; for Prometheus: ", h("a", { href: "metrics" }, "/metrics"), "."),
    !status.actions && p(null, "To run, pause and resume from here, set VECTOR_SYNC_SERVICE__TOKEN."),
    stored("getItem") && p(null, "This tab remembers the token. ", button("Forget it", forget, { class: "link" })),
  ].filter(Boolean);
}

function render() {
  const status = ui.status;
  if (!status && !ui.lost) return;
  const top = ui.lost ? { tone: "bad", line: "No answer", short: "no answer" } : headline(status.syncs);
  document.title = `${top.short} - vector-sync`;
  const icon = ICON.replace("TONE", getComputedStyle(document.documentElement).getPropertyValue(`--${top.tone}`).trim());
  document.querySelector("link[rel=icon]").href = `data:image/svg+xml,${encodeURIComponent(icon)}`;
  $("version").textContent = status ? status.version : "";
  $("live").className = ui.lost ? "bad" : "quiet";
  const spoken = top.line.replace(/\d+ (s|min|h|days) behind$/, "behind") + (top.sync && top.sync.why ? `: ${top.sync.why}` : "");
  if ($("spoken").textContent !== spoken) $("spoken").textContent = spoken; // without times, which change by themselves
  document.body.classList.toggle("lost", Boolean(ui.lost));
  const chosen = status && chosenSync();
  patch($("main"), [notices(status), status && hero(status, top), chosen && details(chosen)].flat(9).filter(Boolean));
  if (status) patch($("foot"), foot(status));
  tick();
}

const ICON = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><circle cx="8" cy="8" r="7" fill="TONE"/></svg>';

function tick() {
  if (document.hidden) return;
  for (const time of document.querySelectorAll("time")) {
    const text = relative(time.dateTime);
    if (time.textContent !== text) time.textContent = text;
  }
  const ago = Math.floor((Date.now() - ui.heard) / 1000);
  if (ui.heard) $("live").textContent = ui.lost ? `last answer ${span(ago)} ago` : ago < 5 ? "up to date" : `as of ${span(ago)} ago`;
}

let timer = 0, isAsking = false, again = false;

async function poll() {
  clearTimeout(timer);
  if (document.hidden) return;
  if (isAsking) {
    again = true;
    return;
  }
  isAsking = true;
  try {
    const answer = await fetch("status", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
    if (!answer.ok) throw new Error(await problem(answer));
    const status = await answer.json();
    Object.assign(ui, { status, heard: Date.now(), ahead: Date.parse(status.now) - Date.now(), lost: null });
  } catch (error) {
    const why = error instanceof TypeError || error.name === "TimeoutError" ? "" : error.message;
    ui.lost = { since: ui.lost ? ui.lost.since : ui.heard || Date.now(), why };
  }
  const pause = ui.lost ? LOST_MS : ui.status.syncs.some(isBusy) ? BUSY_MS : CALM_MS;
  timer = setTimeout(poll, again ? 0 : pause);
  isAsking = again = false;
  render();
}

addEventListener("hashchange", () => {
  if (!ui.status) return;
  render();
  const name = $("name");
  if (!name) return;
  name.focus({ preventScroll: true });
  if (name.getBoundingClientRect().top > innerHeight - 200) name.scrollIntoView();
});
document.addEventListener("visibilitychange", poll);
addEventListener("online", poll);
setInterval(tick, 1000);
$("skeleton").hidden = false;
poll();
