"""The status page in a real browser: what people see, in which state, and that nothing they are shown can act.

Skipped where there is no Chromium with its driver; see `service_browser`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

import pytest
from selenium.webdriver.common.keys import Keys
from service_browser import Browser, browser, find
from service_fakes import (
    FakeBackend,
    Serving,
    a_hit,
    a_progress,
    a_run,
    a_sink,
    a_status,
    a_sync,
    ago,
    serving,
)

from connector.errors import SinkError
from connector.service.api import PausedError, Wish

TOKEN = "the-token-of-the-tests"
INJECTED = "<img src=x onerror=alert(1)>"
LONG = "handbook/" + "a-very-long-name-without-a-blank-" * 5 + "end.md"

no_chromium = "the status page is NOT TESTED: no chromium with its driver; apt-get install chromium chromium-driver"
needs_chromium = pytest.mark.skipif(find() is None, reason=no_chromium)

SPIED = """{
const { setTimeout, fetch } = window;
window.pauses = [];
window.setTimeout = (call, ms, ...rest) => { window.pauses.push(ms); return setTimeout(call, ms, ...rest); };
window.fetches = 0;
window.fetch = (...request) => { window.fetches += 1; return fetch(...request); };
Object.defineProperty(Document.prototype, "hidden", { get: () => Boolean(window.isHidden) });
}"""
"""What each page is given before its own script: what it waits for and asks is noted, and a test may hide the tab."""


@dataclass(slots=True)
class Page:
    """The page of a backend, as somebody sees and uses it."""

    chrome: Browser
    backend: FakeBackend
    service: Serving
    expected: list[str] = field(default_factory=list)
    """What the console may complain of in this test: parts of lines."""

    def show(self, *syncs: dict[str, Any], **given: Any) -> None:
        """Open the page anew, of a service that stands so."""
        self.backend.shown = a_status(*syncs, **given)
        self.chrome.open(self.service.url)

    def turn(self, *syncs: dict[str, Any], **given: Any) -> None:
        """Have the service stand otherwise, and the page look."""
        self.backend.shown = a_status(*syncs, **given)
        self.look()

    def look(self) -> None:
        self.chrome.run("document.dispatchEvent(new Event('visibilitychange'))")

    def text(self, selector: str = "main") -> str:
        text: str = self.chrome.run(
            "const found = document.querySelector(arguments[0]); return found ? found.innerText : ''", selector
        )
        return text.replace("\N{NO-BREAK SPACE}", " ")

    def count(self, selector: str) -> int:
        count: int = self.chrome.run("return document.querySelectorAll(arguments[0]).length", selector)
        return count

    def see(self, text: str, selector: str = "main") -> None:
        """Wait until a text is there."""
        self.chrome.until(lambda: text in self.text(selector), f"there is no {text!r}")

    def press(self, name: str, within: str = "body") -> None:
        """Click a button, or a link, by its text."""
        (found,) = [
            it
            for it in self.chrome.driver.find_elements("css selector", f"{within} button, {within} a")
            if it.is_displayed() and it.text == name
        ]
        found.click()

    def type(self, selector: str, text: str) -> None:
        self.chrome.driver.find_element("css selector", selector).send_keys(text)

    def give_token(self, token: str) -> None:
        self.chrome.until(lambda: self.is_asking)
        self.type("#token", token + Keys.ENTER)

    @property
    def is_asking(self) -> bool:
        return bool(self.chrome.run("return document.getElementById('ask').open"))

    @property
    def title(self) -> str:
        return self.chrome.driver.title

    def style(self, selector: str, name: str) -> str:
        value: str = self.chrome.run(
            "return getComputedStyle(document.querySelector(arguments[0])).getPropertyValue(arguments[1])",
            selector,
            name,
        )
        return value

    def orders(self) -> list[tuple[Any, ...]]:
        """What the backend was asked to do or to find."""
        return [call for call in self.backend.calls if call[0] != "status"]


@pytest.fixture(scope="module")
def chrome() -> Iterator[Browser]:
    with browser() as found:
        found.tell("Page.addScriptToEvaluateOnNewDocument", source=SPIED)
        yield found


@dataclass
class Changing:
    """A backend of one server for all tests: each has its own behind it."""

    backend: FakeBackend

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)


@pytest.fixture(scope="module")
def changing() -> Changing:
    return Changing(FakeBackend())


@pytest.fixture(scope="module")
def service(changing: Changing) -> Iterator[Serving]:
    with serving(changing, token=TOKEN) as served:
        yield served


@pytest.fixture
def page(chrome: Browser, service: Serving, changing: Changing) -> Iterator[Page]:
    """A page; afterwards, that it asked nobody but us, and that the console had nothing to say."""
    changing.backend = FakeBackend()
    chrome.look()
    chrome.tell("Storage.clearDataForOrigin", origin=service.url, storageTypes="all")
    chrome.requested()
    chrome.complaints()
    found = Page(chrome, changing.backend, service)
    yield found
    changing.go_on.set()
    asked = [urlsplit(url) for url in chrome.requested()]
    complaints = [it for it in chrome.complaints() if not any(part in it for part in found.expected)]
    assert not [url for url in asked if url.netloc not in (urlsplit(found.service.url).netloc, "")]
    assert {url.scheme for url in asked} <= {"http", "data", "about", "chrome"}
    assert TOKEN not in "".join(url.geturl() for url in asked)
    assert complaints == []


STATES: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "in step": (a_sync(), "docs is in step", "in step", "ok"),
    "starting": (a_sync(state="starting", in_step=None, runs=[]), "docs is starting", "starting", "idle"),
    "not run": (a_sync(in_step=None, runs=[]), "docs has not run yet", "no run yet", "idle"),
    "first run": (
        a_sync(state="running", in_step=None, last_success_at=None, runs=[], progress=a_progress()),
        "docs is on its first run",
        "first run",
        "work",
    ),
    "running": (a_sync(state="running", progress=a_progress()), "docs is in step", "in step", "ok"),
    "started anew": (
        a_sync(state="running", in_step=None, progress=a_progress()),
        "docs is being checked",
        "checking",
        "work",
    ),
    "waiting for jobs": (
        a_sync(
            in_step=False,
            behind_seconds=900,
            runs=[a_run(exit_code=3, ended="waits for jobs")],
            jobs=[
                {"id": "job-1", "state": "running", "texts": 60_000, "tokens": None, "age_seconds": 900, "attempt": 1}
            ],
        ),
        "docs is waiting for jobs",
        "waiting for jobs",
        "work",
    ),
    "trouble": (
        a_sync(
            in_step=False,
            behind_seconds=7_500,
            why="sink main stopped: the key is refused",
            sinks=[a_sink(stopped="the key is refused", behind=120)],
            runs=[a_run(exit_code=3, ended="behind")],
        ),
        "docs is 2 h behind",
        "2 h behind",
        "bad",
    ),
    "altered": (
        a_sync(in_step=False, behind_seconds=60, sinks=[a_sink(drift=-3)], runs=[a_run(exit_code=5, ended="drift")]),
        "docs does not hold what was written",
        "altered",
        "bad",
    ),
    "behind": (
        a_sync(in_step=False, behind_seconds=300, runs=[a_run(exit_code=75, ended="another run was under way")]),
        "docs is 5 min behind",
        "5 min behind",
        "warn",
    ),
    "long behind": (
        a_sync(in_step=False, behind_seconds=200_000, why="the settings have no source"),
        "docs is 2 days behind",
        "2 days behind",
        "bad",
    ),
    "paused": (a_sync(state="paused", next_run_at=None, next_because=None), "docs is paused", "paused", "idle"),
    "asks": (
        a_sync(in_step=False, behind_seconds=60, question="412 documents would be deleted; --confirm-deletes 412"),
        "docs has stopped to ask",
        "stopped to ask",
        "warn",
    ),
}
CROWDED = a_sync(
    LONG,
    in_step=False,
    behind_seconds=60,
    why=f"sink {LONG} stopped",
    question=f"{LONG}: confirm with --confirm-deletes 412",
    source=LONG,
    embedder=LONG,
    sinks=[a_sink(LONG, kind=LONG, stopped=LONG * 3), a_sink(rejected=480)],
    jobs=[{"id": LONG, "state": "running", "texts": 10**9, "tokens": 10**12, "age_seconds": 10**6, "attempt": 3}],
    progress=a_progress(told=LONG, jobs=[LONG] * 3, records={LONG: 10**9}, deleted={}),
    rejected={"count": 480, "shown": [{"place": f"{at} {LONG}", "sink": LONG, "reason": LONG} for at in range(50)]},
    runs=[
        a_run(
            20 - at, 600 * at, ended=LONG, added=10**9, tokens_billed=10**12, texts_embedded=10**9, problems=[LONG] * 50
        )
        for at in range(20)
    ],
    reconcile={"next_at": ago(-600), "last_at": ago(600), "last_exit_code": 5, "told": LONG},
)
"""Everything there can be, with long names and fifty problems."""


# --- what is seen in which state --------------------------------------------------------------------


@needs_chromium
@pytest.mark.parametrize("state", STATES)
def test_the_state_is_seen_at_a_glance(page: Page, state: str) -> None:
    sync, line, title, tone = STATES[state]
    page.show(sync)
    assert page.text("h1") == line
    assert "0" not in page.text("section[aria-labelledby=head-sinks]").split("\n")  # as a zero that leaked would be
    assert page.title == f"{title} - vector-sync"
    assert page.count(f".hero.{tone} h1 .dot.{tone}") == 1
    icon = page.chrome.run("return document.querySelector('link[rel=icon]').href")
    assert page.style(":root", f"--{tone}").strip().removeprefix("#") in icon
    spoken = page.text("#spoken").split(": ")[0]
    assert spoken == re.sub(r"\d+ \w+ behind", "behind", line)  # a time that changes is not said again and again


@needs_chromium
def test_a_run_under_way_shows_how_far_it_is(page: Page) -> None:
    page.show(
        a_sync(state="running", progress=a_progress(told="embed: `429`; again in 4 s", jobs=["embed job 7f3a 40 %"]))
    )
    section = page.text("section[aria-labelledby=head-progress]")
    for told in ("42 %", "12,400 rows", "310 texts", "295 records, 3 deleted", "embed job 7f3a 40 %", "Began 42 s ago"):
        assert told in section
    assert "again in 4 s" in section
    assert "`" not in section
    assert page.chrome.run("return document.querySelector('progress').value") == 0.42
    runs = [a_run(id, seconds=None, exit_code=None, ended=None) for id in (8, 7)]
    page.turn(a_sync(state="running", generation=None, progress=a_progress(fraction=None), runs=runs))
    page.see("…")
    assert page.count("progress[value]") == 0
    assert [word in page.text() for word in ("under way", "not finished", "generation")] == [True, True, False]
    page.turn(a_sync())
    page.chrome.until(lambda: page.count("progress") == 0)


@needs_chromium
def test_numbers_have_separators_and_times_are_told_both_ways(page: Page) -> None:
    page.show(
        a_sync(
            runs=[
                a_run(
                    3, 5 * 86_400, added=1_234, texts_embedded=5_678, tokens_billed=90_123, cost=0.0123, currency="USD"
                ),
                a_run(2, 6 * 86_400, seconds=None, exit_code=None, ended=None, trigger=None),
            ],
        )
    )
    runs = page.text("section[aria-labelledby=head-runs]")
    for told in ("5 days ago", "1,234 added", "5,678 texts", "90,123 tokens", "0.0123 USD", "1.2 s", "not finished"):
        assert told in runs
    title = page.chrome.run("return document.querySelector('tbody time').title")
    assert "Nov 2026" in title
    assert title.endswith(f"{ago(5 * 86_400)} UTC")
    assert "in 3 min" in page.text(".facts")


@needs_chromium
def test_trouble_says_why_and_what_to_do(page: Page) -> None:
    page.show(STATES["trouble"][0], config={"path": "a.toml", "loaded_at": ago(600), "error": "one is wrong\ntwo is"})
    hero = page.text(".hero")
    assert "sink main stopped: the key is refused" in hero
    assert "Mend what it says; what was done is kept. It tries again in 3 min." in hero
    assert "the key is refused" in page.text("section[aria-labelledby=head-sinks]")
    notice = page.text(".notice")
    assert "The settings have errors. The service goes on with those it loaded 10 min ago." in notice
    assert page.count(".notice li") == 2


@needs_chromium
def test_fifty_problems_are_shown_when_asked_for(page: Page) -> None:
    page.show(CROWDED)
    assert page.count(".rejected li") == 6
    page.press("Show all 50", "section[aria-labelledby=head-rejected]")
    assert page.count(".rejected li") == 50
    page.look()
    page.press("Show fewer", "section[aria-labelledby=head-rejected]")
    assert page.count(".rejected li") == 6
    assert "The first 50 of 480; all are in vector-sync --config vector-sync.toml rejected" in page.text()
    page.press("Show all 20", "section[aria-labelledby=head-runs]")
    assert page.count("table[aria-labelledby=head-runs] tbody tr") == 40  # each with its problems


@needs_chromium
def test_rejected_documents_come_with_reasons_or_are_only_counted(page: Page) -> None:
    shown = [{"place": "a.md", "sink": "main", "reason": "too large"}, {"place": "b.md", "sink": "", "reason": "no id"}]
    page.show(a_sync(rejected={"count": 2, "shown": shown}))
    assert page.text("section[aria-labelledby=head-rejected]").split("\n") == [
        "2 rejected documents",
        "a.md in main",
        "too large",
        "b.md",
        "no id",
    ]
    page.turn(a_sync(rejected={"count": 2, "shown": []}), show="counts")
    page.see("They are told by vector-sync --config vector-sync.toml rejected")


@needs_chromium
def test_open_jobs_and_a_reconcile_are_told(page: Page) -> None:
    page.show(
        STATES["waiting for jobs"][0]
        | {"reconcile": {"next_at": ago(-7_200), "last_at": ago(7_200), "last_exit_code": 0, "told": "18,302 records"}}
    )
    assert "job-1" in page.text("section[aria-labelledby=head-jobs]")
    assert "60,000" in page.text("section[aria-labelledby=head-jobs]")
    assert "15 min" in page.text("section[aria-labelledby=head-jobs]")
    reconcile = page.text("section[aria-labelledby=head-reconcile]")
    assert "Next in 2 h; last 2 h ago: every record is as written." in reconcile
    assert "18,302 records" in reconcile


@needs_chromium
def test_several_syncs_have_a_row_each_and_details(page: Page) -> None:
    page.show(a_sync("blog"), STATES["trouble"][0], a_sync("wiki", state="paused"))
    assert page.text("h1") == "docs is 2 h behind"
    rows = page.text("table[aria-labelledby=head-overview] tbody")
    assert [name for name in ("blog", "docs", "wiki", "In step", "2 h behind", "Paused") if name not in rows] == []
    assert "sink main stopped: the key is refused" in rows
    assert page.text("#name").startswith("docs")  # the one in trouble, unless another is chosen
    page.press("wiki")
    page.see("wiki", "#name")
    assert page.text("tr[aria-current=true] td").strip() == "wiki"
    assert page.chrome.run("return document.activeElement.id") == "name"
    page.turn(a_sync("blog"), a_sync("docs"), a_sync("wiki"))
    page.see("All 3 syncs are in step", "h1")
    assert page.text("#name").startswith("wiki")
    page.turn(STATES["trouble"][0], STATES["asks"][0] | {"name": "ask"}, a_sync("wiki"))
    page.see("2 of 3 syncs need attention", "h1")
    assert page.title == "2 of 3 syncs need attention - vector-sync"
    assert page.count(".hero.bad") == 1


@needs_chromium
def test_no_sync_at_all_is_said(page: Page) -> None:
    page.show()
    page.backend.shown["syncs"] = []
    page.look()
    page.see("No sync is set up", "h1")


# --- before, without and after the service ----------------------------------------------------------


@needs_chromium
def test_before_the_first_answer_there_is_a_quiet_skeleton(page: Page) -> None:
    page.backend.go_on.clear()
    page.chrome.driver.get(page.service.url)
    assert page.text("#skeleton [role=status]") == "Asking the service …"
    assert page.count("#skeleton .bone") > 3
    page.backend.go_on.set()
    page.see("docs is in step", "h1")
    assert page.count(".bone") == 0


@needs_chromium
def test_without_javascript_the_page_names_the_status(page: Page) -> None:
    page.chrome.tell("Emulation.setScriptExecutionDisabled", value=True)
    try:
        page.chrome.driver.get(page.service.url)
        assert "needs JavaScript" in page.chrome.driver.find_element("css selector", "noscript").text
        assert page.chrome.driver.find_element("css selector", "noscript a").get_attribute("href").endswith("/status")
    finally:
        page.chrome.tell("Emulation.setScriptExecutionDisabled", value=False)


@needs_chromium
def test_a_service_that_is_gone_is_said_to_be_gone_until_it_is_back(page: Page) -> None:
    page.expected += ["ERR_CONNECTION_REFUSED"]
    with serving(page.backend, token=TOKEN) as page.service:
        page.show()
    page.look()
    page.see("No answer since", ".notice")
    assert page.title == "no answer - vector-sync"
    assert page.text("h1") == "No answer"
    assert "The service has stopped, or cannot be reached from here. What you see is from then." in page.text(".notice")
    assert page.style("table", "filter") == "none"
    assert page.style("section[aria-labelledby=head-sinks]", "filter") == "grayscale(1)"
    assert page.chrome.run("return window.pauses.at(-1)") == 5_000
    with serving(page.backend, token=TOKEN, port=urlsplit(page.service.url).port or 0):
        page.look()
        page.see("docs is in step", "h1")
        assert page.count(".notice") == 0
        page.chrome.driver.get("about:blank")


@needs_chromium
def test_a_service_that_cannot_tell_its_status_is_quoted(page: Page) -> None:
    page.expected += ["503 (Service Unavailable)", "500 (Internal Server Error)"]
    page.backend.failures["status"].append(ZeroDivisionError())
    page.show()
    page.see("No status since", ".notice")
    page.see("The service says: internal error; the log of the service has more", ".notice")
    page.look()
    page.see("docs is in step", "h1")


@needs_chromium
def test_it_asks_often_while_a_run_is_under_way_and_not_while_the_tab_is_hidden(page: Page) -> None:
    page.show(a_sync())
    pause = "return window.pauses.filter((ms) => ms > 0).at(-1)"
    assert page.chrome.run(pause) == 10_000
    page.turn(a_sync(), a_sync("wiki", state="verifying", progress=a_progress()))
    page.see("verifying")
    assert page.chrome.run(pause) == 2_000
    page.backend.shown = a_status(a_sync(), a_sync("wiki"))
    page.see("All 2 syncs are in step", "h1")  # by itself
    page.chrome.run("window.isHidden = true; window.fetches = 0")
    page.look()
    page.chrome.run("dispatchEvent(new Event('online'))")
    assert page.chrome.run("return window.fetches") == 0
    page.chrome.run("window.isHidden = false")
    page.turn(a_sync(state="paused"))
    page.see("docs is paused", "h1")


@needs_chromium
def test_a_service_that_stops_says_so(page: Page) -> None:
    page.show(stopping=True)
    assert page.text(".notice") == "The service is stopping."


# --- nothing that is shown can act ------------------------------------------------------------------


@needs_chromium
def test_whatever_a_document_is_called_it_is_text(page: Page) -> None:
    evil = a_sync(
        INJECTED,
        why=INJECTED,
        question=f"{INJECTED} --yes",
        source=INJECTED,
        embedder=INJECTED,
        next_because=INJECTED,
        sinks=[a_sink(INJECTED, kind=INJECTED, stopped=INJECTED)],
        progress=a_progress(told=INJECTED, jobs=[INJECTED], records={INJECTED: 1}, trigger=INJECTED),
        jobs=[{"id": INJECTED, "state": INJECTED, "texts": 1, "tokens": 1, "age_seconds": 1, "attempt": 1}],
        rejected={"count": 1, "shown": [{"place": INJECTED, "sink": INJECTED, "reason": INJECTED}]},
        runs=[a_run(ended=INJECTED, trigger=INJECTED, problems=[INJECTED], cost=1.0, currency=INJECTED)],
        reconcile={"next_at": ago(-60), "last_at": None, "last_exit_code": 9, "told": INJECTED},
    )
    page.backend.hits = [a_hit(INJECTED, text=INJECTED, title=INJECTED)]
    config = {"path": INJECTED, "loaded_at": ago(60), "error": INJECTED}
    page.show(evil, a_sync("__proto__"), show="text", version=INJECTED, config=config)
    page.type("input[name=q]", INJECTED + Keys.ENTER)
    page.see("1 passage")
    assert page.count("img") == 1  # the sign of the page itself
    assert page.count("script") == 1
    assert page.chrome.run("return document.documentElement.textContent").count(INJECTED) > 25
    assert not page.is_asking
    page.press("__proto__")
    page.see("__proto__", "#name")


@needs_chromium
def test_a_page_that_carried_a_script_could_not_run_it(page: Page) -> None:
    page.expected += ["Content Security Policy"]
    page.show()
    page.chrome.run(
        "const script = document.createElement('script'); script.textContent = 'window.ran = true';"
        "document.body.append(script); document.body.insertAdjacentHTML('beforeend', arguments[0])",
        "<img src='x' onerror='window.ran = true'>",
    )
    page.expected += ["404 (Not Found)"]
    assert page.chrome.run("return window.ran") is None


# --- search -----------------------------------------------------------------------------------------


@needs_chromium
def test_a_search_shows_passages_and_what_went_wrong(page: Page) -> None:
    page.expected += ["503 (Service Unavailable)"]
    page.show(a_sync(sinks=[a_sink(), a_sink("cloud")]), show="text")
    page.backend.hits = [a_hit("a.md", text="Stop the service first.", title="Restoring"), a_hit("b.md")]
    page.type("input[name=q]", "how do I restore?")
    page.chrome.run("document.querySelector('select[name=sink]').value = 'cloud'")
    page.press("Search")
    page.see("2 passages nearest to “how do I restore?”", "section[aria-labelledby=head-search]")
    assert [line for line in page.text(".hits").split("\n") if line] == [
        "Restoring a.md#0 · 0.812",
        "Stop the service first.",
        "b.md b.md#0 · 0.812",
        "Restore it.",
    ]
    assert page.orders() == [("search", "docs", "how do I restore?", "cloud", 5)]
    page.look()
    page.backend.hits = []
    page.press("Search")
    page.see("Nothing was found.")
    page.backend.failures["search"].append(SinkError("the index is open in another process"))
    page.press("Search")
    page.see("the index is open in another process", "section[aria-labelledby=head-search] .bad")


@needs_chromium
def test_there_is_no_search_where_passages_are_not_shown(page: Page) -> None:
    page.show(show="names")
    assert page.count("form[role=search]") == 0


# --- orders -----------------------------------------------------------------------------------------


@needs_chromium
def test_an_order_needs_the_token_once(page: Page) -> None:
    page.expected += ["401 (Unauthorized)"]
    page.show()
    page.press("Run now")
    assert page.text("#ask-title") == "Run docs now"
    page.give_token("wrong")
    page.see("This is not the token of the service.", "#ask-wrong")
    assert page.is_asking
    assert page.orders() == []
    page.give_token(TOKEN)
    page.see("A run is asked for", ".buttons")
    assert not page.is_asking
    assert page.text("#said") == "A run is asked for"
    assert page.orders() == [("run", "docs", Wish())]
    page.press("Pause")  # the tab remembers the token
    page.see("docs is paused", "h1")
    page.press("Resume")
    page.see("docs is in step", "h1")
    assert page.orders()[1:] == [("pause", "docs"), ("resume", "docs")]
    assert TOKEN not in page.chrome.driver.current_url + page.chrome.run("return document.documentElement.outerHTML")
    assert page.chrome.run("return [localStorage.length, document.cookie]") == [0, ""]
    page.chrome.driver.refresh()
    page.see("This tab remembers the token.", "footer")
    page.press("Forget it")
    assert page.chrome.run("return sessionStorage.length") == 0


@needs_chromium
def test_an_order_that_is_refused_says_why(page: Page) -> None:
    page.expected += ["409 (Conflict)"]
    page.show()
    page.backend.failures["run"].append(PausedError("docs is paused; resume it first"))
    page.press("Run now")
    page.give_token(TOKEN)
    page.see("docs is paused; resume it first", ".buttons .bad")
    assert not page.is_asking


@needs_chromium
def test_a_question_is_confirmed_by_a_command_or_from_here(page: Page) -> None:
    asks = a_sync("wiki's", question="412 documents would be deleted; confirm with --confirm-deletes 412, or --yes")
    page.show(asks, config={"path": "conf d", "loaded_at": ago(60), "error": None})
    section = page.text("section[aria-labelledby=head-question]")
    assert "412 documents would be deleted" in section
    assert "vector-sync --config 'conf d/wiki'\\''s.toml' sync --confirm-deletes 412 --yes" in section
    page.press("Confirm and run …")
    assert "412 documents would be deleted" in page.text("#ask-what")
    page.give_token(TOKEN)
    page.chrome.until(page.orders)
    assert page.orders() == [("run", "wiki's", Wish(confirm_deletes=412, confirm_cost=True))]
    page.chrome.until(lambda: not page.is_asking)
    page.press("Confirm and run …")  # is always asked again, though the token is known
    page.chrome.until(lambda: page.is_asking)
    assert not page.chrome.driver.find_element("id", "token").is_displayed()
    assert page.chrome.run("return document.activeElement.id") == "ask-no"
    page.press("Cancel")
    assert len(page.orders()) == 1


@needs_chromium
def test_where_no_token_is_set_there_are_no_buttons(page: Page) -> None:
    page.show(STATES["asks"][0], actions=False)
    assert page.count("main button") == 0
    assert "sync --confirm-deletes 412" in page.text("section[aria-labelledby=head-question]")
    assert "set VECTOR_SYNC_SERVICE__TOKEN" in page.text("footer")


# --- everybody can use it ---------------------------------------------------------------------------


@needs_chromium
@pytest.mark.parametrize("scheme, is_light", [("light", True), ("dark", False)])
def test_the_page_is_light_or_dark_as_the_system_is(page: Page, scheme: str, is_light: bool) -> None:
    page.chrome.look(scheme=scheme)
    page.show()
    ground, text = (
        sum(map(int, re.findall(r"\d+", page.style("body", name))[:3])) / 3 for name in ("background-color", "color")
    )
    assert (ground > 200) is is_light
    assert (text < 100) is is_light
    assert page.style(":root", "color-scheme") == "light dark"


@needs_chromium
def test_nothing_is_wider_than_the_screen(page: Page) -> None:
    page.show(CROWDED, a_sync("wiki"), show="text", config={"path": LONG, "loaded_at": ago(60), "error": LONG})
    page.press("Pause")
    wide = """
        return [...document.querySelectorAll("body *")]
            .filter((it) => it.getBoundingClientRect().right > arguments[0] + 0.5 && !it.closest(".unseen, thead"))
            .map((it) => it.tagName + "." + it.className + " " + it.textContent.slice(0, 40))
    """
    for width in (1_200, 821, 820, 700, 390, 360):
        page.chrome.look(width=width, is_phone=width <= 820)
        assert page.chrome.run("return innerWidth") == width  # a phone would show more, if something were wider
        assert page.chrome.run(wide, width) == [], width
        assert page.chrome.run("return document.documentElement.scrollWidth") == width
    assert page.is_asking  # so the dialog was looked at, too
    assert page.style("tbody tr", "display") == "flex"  # no table any more, but still one to a screen reader
    assert page.count("tbody td:not([role=cell])") == 0


@needs_chromium
def test_the_page_is_for_keyboards_too(page: Page) -> None:
    page.show(a_sync("docs"), a_sync("wiki"))
    focus = """
        const it = document.activeElement, style = getComputedStyle(it);
        return [it.innerText, style.outlineStyle, style.outlineWidth];
    """
    seen = []
    for _ in range(4):
        page.chrome.driver.switch_to.active_element.send_keys(Keys.TAB)
        seen.append(page.chrome.run(focus))
    assert seen == [[name, "solid", "3px"] for name in ("docs", "wiki", "Run now", "Pause")]
    page.chrome.driver.switch_to.active_element.send_keys(Keys.ENTER)
    assert page.is_asking
    page.chrome.driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    page.chrome.until(lambda: not page.is_asking)
    assert page.chrome.run(focus)[0] == "Pause"


@needs_chromium
def test_what_somebody_does_is_left_alone_while_the_page_looks_again(page: Page) -> None:
    page.show(CROWDED, show="text")
    page.type("input[name=q]", "half a quest")
    page.turn(CROWDED | {"question": "another question"}, show="text")
    page.see("another question")
    page.type("input[name=q]", "ion")
    assert page.chrome.run("return document.activeElement.value") == "half a question"


@needs_chromium
def test_the_page_is_made_of_what_it_says_it_is(page: Page) -> None:
    page.show(CROWDED, a_sync("wiki"), show="text")
    headings = page.chrome.run(
        "return [...document.querySelectorAll('main :is(h1,h2,h3)')].map((it) => Number(it.tagName[1]))"
    )
    assert headings[0] == 1
    assert headings.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(headings))
    named = """
        const unnamed = [];
        for (const it of document.querySelectorAll("button, input, select, a, progress, table, section, dialog")) {
            const by = it.getAttribute("aria-labelledby");
            const label = it.getAttribute("aria-label") || (it.labels && it.labels.length && it.labels[0].textContent);
            const name = by ? (document.getElementById(by) || {}).textContent : label || it.textContent;
            if (!(name || "").trim() && !it.closest("dialog")) unnamed.push(it.outerHTML);
        }
        return unnamed;
    """
    assert page.chrome.run(named) == []
    ids = page.chrome.run("return [...document.querySelectorAll('[id]')].map((it) => it.id)")
    assert len(ids) == len(set(ids))
    assert page.chrome.run("return document.documentElement.lang") == "en"
    assert page.style(".dot.moving", "animation-name") == "none"  # who asked for less motion gets none


def luminance(color: str) -> float:
    """As WCAG 2 has it."""
    color = "#" + "".join(2 * digit for digit in color[1:]) if len(color) == 4 else color
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_text_stands_out_from_what_it_is_on(theme: str) -> None:
    css = files("connector.service").joinpath("page", "page.css").read_text()
    light, dark = (
        dict(re.findall(r"--([\w-]+): (#\w+);", block)) for block in css.split("prefers-color-scheme: dark", 1)
    )
    color = light if theme == "light" else light | dark
    tones = ("ok", "work", "warn", "bad", "idle")
    pairs = [
        *((text, ground, 4.5) for text in ("text", "quiet", "link") for ground in ("back", "card", "sunk")),
        *((text, f"{tone}-soft", 4.5) for text in ("text", "quiet") for tone in tones),
        *((tone, ground, 4.5) for tone in tones for ground in ("card", f"{tone}-soft", "back")),
        ("on-main", "main", 4.5),
        *(("edge", ground, 3.0) for ground in ("card", "warn-soft")),  # of buttons and fields
    ]
    contrast = {}
    for text, ground, least in pairs:
        darker, brighter = sorted((luminance(color[text]), luminance(color[ground])))
        contrast[text, ground] = (brighter + 0.05) / (darker + 0.05) / least
    assert {pair: round(share, 2) for pair, share in contrast.items() if share < 1} == {}
