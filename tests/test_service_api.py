"""The service's addresses: who may ask for what, how each refusal reads, and that no answer waits for what hangs."""

from __future__ import annotations

import hmac
import io
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from service_fakes import FakeBackend, a_hit, a_status, a_sync, serving
from starlette.testclient import TestClient

from connector.errors import BusyError, ConfigError, RejectedError, SinkError, TransientError
from connector.service.api import Wish, create_app
from connector.service.api_security import MAX_BODY_BYTES
from connector.serving.logs import log_to

TOKEN = "the-token-of-the-tests"
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}
ASSETS = {"/": "text/html", "/page.css": "text/css", "/page.js": "text/javascript", "/icon.svg": "image/svg+xml"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(slots=True)
class Asked:
    """A client of an app, what stands behind the app, and what the app has told."""

    http: TestClient
    backend: FakeBackend
    log: io.StringIO
    noted: list[tuple[str, str, int, float]]

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.getvalue().splitlines()]


@contextmanager
def app(
    backend: FakeBackend | None = None, *, token: str | None = TOKEN, loopback_only: bool = True, patience: float = 10
) -> Iterator[Asked]:
    backend = backend or FakeBackend()
    log, noted = io.StringIO(), []
    made = create_app(
        backend,
        token=None if token is None else SecretStr(token),
        loopback_only=loopback_only,
        log=log_to(log),
        note_request=lambda *request: noted.append(request),
        patience_seconds=patience,
    )
    with TestClient(made, base_url="http://127.0.0.1:8090", raise_server_exceptions=False) as http:
        try:
            yield Asked(http, backend, log, noted)
        finally:
            backend.go_on.set()


@pytest.fixture
def asked() -> Iterator[Asked]:
    with app(FakeBackend(a_status(a_sync("docs"), a_sync("wiki"), show="text"))) as made:
        yield made


def refused(answer: httpx.Response, status: int, error: str) -> None:
    assert (answer.status_code, answer.json()) == (status, {"error": error})
    assert answer.headers["content-type"] == "application/json"


# --- reading ----------------------------------------------------------------------------------------


def test_the_status_is_what_the_backend_says(asked: Asked) -> None:
    answer = asked.http.get("/status")
    assert answer.json() == asked.backend.shown
    assert answer.headers["content-type"] == "application/json"


def test_a_name_that_is_no_unicode_is_told_all_the_same(asked: Asked) -> None:
    name = os.fsdecode(b"caf\xe9.md")  # as a source names a file whose name is not UTF-8
    asked.backend.shown["syncs"][0]["why"] = name
    assert asked.http.get("/status").json()["syncs"][0]["why"] == name


def test_metrics_are_as_prometheus_wants_them(asked: Asked) -> None:
    answer = asked.http.get("/metrics")
    assert answer.text == "vsync_runs_total 7\n"
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")


@pytest.mark.parametrize(
    "path, knob", [("/livez", "not_alive"), ("/readyz", "not_ready"), ("/startupz", "not_started")]
)
def test_a_probe_says_ok_or_why_not(asked: Asked, path: str, knob: str) -> None:
    answer = asked.http.get(path)
    assert (answer.status_code, answer.text) == (200, "ok\n")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    setattr(asked.backend, knob, "the thread of docs has ended")
    answer = asked.http.get(path)
    assert (answer.status_code, answer.text) == (503, "the thread of docs has ended\n")


def test_the_probes_answer_while_everything_that_takes_a_thread_hangs(asked: Asked) -> None:
    asked.backend.go_on.clear()
    hanging = ["/status", "/status", "/status", "/metrics", "/search?q=a", "/search?q=b"]
    with ThreadPoolExecutor(len(hanging)) as others:
        waiting = [others.submit(asked.http.get, path) for path in hanging]
        for _ in range(5):  # a third status waits for its turn
            assert asked.backend.entered.acquire(timeout=30)
        assert [asked.http.get(path).text for path in ("/livez", "/readyz", "/startupz")] == ["ok\n"] * 3
        asked.backend.go_on.set()
        assert {answer.result().status_code for answer in waiting} == {200}


def test_who_asks_for_what_hangs_is_told_so_and_hanging_calls_do_not_pile_up() -> None:
    with app(patience=0.05) as made:
        made.backend.go_on.clear()
        for _ in range(4):
            refused(
                made.http.get("/status"), 503, "the status took longer than 0.05 seconds; it may be stuck, see the log"
            )
        assert made.backend.calls == [("status",)] * 2
        assert made.http.get("/livez").status_code == 200


def test_a_time_out_of_the_backends_own_is_a_bug_and_not_impatience(asked: Asked) -> None:
    asked.backend.failures["status"].append(TimeoutError())
    refused(asked.http.get("/status"), 500, "internal error; the log of the service has more")


def test_a_bug_is_told_to_the_log_without_its_words(asked: Asked) -> None:
    asked.backend.failures["status"].append(ValueError("what a document says"))
    refused(asked.http.get("/status"), 500, "internal error; the log of the service has more")
    bug, request = asked.lines()
    assert (bug["event"], bug["route"], bug["level"]) == ("bug", "/status", "error")
    assert "ValueError" in bug["trace"]
    assert "what a document says" not in asked.log.getvalue()
    assert (request["event"], request["status"]) == ("request", 500)


# --- the page ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ASSETS)
def test_the_page_comes_with_a_mark_and_is_not_sent_twice(asked: Asked, path: str) -> None:
    answer = asked.http.get(path)
    assert answer.headers["content-type"].startswith(ASSETS[path])
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.content == files("connector.service").joinpath("page", path[1:] or "index.html").read_bytes()
    etag = answer.headers["etag"]
    for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        again = asked.http.get(path, headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
        assert again.headers["cache-control"] == "no-cache"
    assert asked.http.get(path, headers={"If-None-Match": '"other"'}).status_code == 200


def test_the_page_names_nothing_outside_of_itself() -> None:
    for path in files("connector.service").joinpath("page").iterdir():
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")  # a name, and no address
        assert not [word for word in ("http:", "https:", "//fonts", "url(", "@import", "innerHTML") if word in text]


def test_the_page_is_small() -> None:
    assert sum(len(path.read_bytes()) for path in files("connector.service").joinpath("page").iterdir()) < 40_000


# --- what every answer has --------------------------------------------------------------------------

ANSWERS: dict[str, Callable[[TestClient], httpx.Response]] = {
    "200": lambda http: http.get("/status"),
    "200 page": lambda http: http.get("/"),
    "200 probe": lambda http: http.get("/livez"),
    "202": lambda http: http.post("/run", headers=AUTHORIZED),
    "304": lambda http: http.get("/page.js", headers={"If-None-Match": "*"}),
    "400": lambda http: http.get("/search"),
    "401": lambda http: http.post("/run"),
    "404": lambda http: http.get("/nothing"),
    "405": lambda http: http.get("/run"),
    "413": lambda http: http.post("/run", headers=AUTHORIZED, content=bytes(MAX_BODY_BYTES + 1)),
    "421": lambda http: http.get("/status", headers={"Host": "evil.example"}),
    "500": lambda http: http.get("/metrics"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_every_answer_tells_browsers_to_be_careful(asked: Asked, name: str) -> None:
    if name == "500":
        asked.backend.failures["metrics"].append(ZeroDivisionError())
    answer = ANSWERS[name](asked.http)
    assert answer.status_code == int(name[:3])
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["content-security-policy"] == POLICY
    assert answer.headers["cache-control"] == ("no-cache" if name in ("200 page", "304") else "no-store")
    assert not [header for header in answer.headers if header.startswith("access-control-")]


def test_an_address_that_is_not_there_is_answered_in_json(asked: Asked) -> None:
    refused(
        asked.http.get("/nothing"),
        404,
        "there is nothing at this address; the page is at /, and what it shows at /status",
    )
    for path in ("/status/", "/page/page.js", "/../pyproject.toml", "/%2e%2e/pyproject.toml"):
        assert asked.http.get(path, follow_redirects=False).status_code == 404


@pytest.mark.parametrize(
    "method, path, allowed",
    [
        ("GET", "/run", {"POST"}),
        ("DELETE", "/pause", {"POST"}),
        ("POST", "/status", {"GET", "HEAD"}),
        ("POST", "/", {"GET", "HEAD"}),
        ("OPTIONS", "/run", {"POST"}),
        ("PUT", "/search", {"GET", "HEAD"}),
    ],
)
def test_a_method_that_does_not_fit_is_answered_with_those_that_do(
    asked: Asked, method: str, path: str, allowed: set[str]
) -> None:
    answer = asked.http.request(method, path, headers=AUTHORIZED)
    refused(answer, 405, "this cannot be done here; `allow` in the head of this answer names what can")
    assert set(answer.headers["allow"].split(", ")) == allowed
    assert asked.backend.calls == []


# --- who is meant -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:80", "127.0.0.1", "127.0.0.1:8090", "[::1]", "[::1]:8090", "localhost:1"]
)
def test_this_machine_is_answered_by_its_names(asked: Asked, host: str) -> None:
    assert asked.http.get("/livez", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "evil.example:8090",
        "127.0.0.1.evil.example",
        "127.0.0.1@evil.example",
        "localhost:8090.evil.example",
        "127.0.0.2",
        "0.0.0.0:8090",
        "192.168.0.7:8090",
        "[::2]",
        "localhost:",
        "",
        "localhost, evil.example",
    ],
)
@pytest.mark.parametrize("method, path", [("GET", "/status"), ("GET", "/"), ("POST", "/run"), ("GET", "/nothing")])
def test_a_name_that_is_not_this_machines_is_refused(asked: Asked, host: str, method: str, path: str) -> None:
    refused(
        asked.http.request(method, path, headers={"Host": host, **AUTHORIZED}),
        421,
        "this service answers to localhost, 127.0.0.1 and [::1] alone; ask it by one of these names",
    )
    assert asked.backend.calls == []
    assert [line["status"] for line in asked.lines()] == [421]


def test_a_service_for_others_is_asked_by_any_name() -> None:
    with app(loopback_only=False) as made:
        assert made.http.get("/livez", headers={"Host": "sync.example.com"}).status_code == 200


# --- asking for something to be done ----------------------------------------------------------------

ORDERS = ("/run", "/pause", "/resume")


@pytest.mark.parametrize("path", ORDERS)
@pytest.mark.parametrize(
    "sent",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": TOKEN},
        {"Cookie": f"token={TOKEN}"},
        {"Authorization": "Bearer t\xf6ken"},
    ],
)
def test_without_the_token_nothing_is_done(asked: Asked, path: str, sent: dict[str, str]) -> None:
    answer = asked.http.post(path, headers={name: value.encode("latin-1") for name, value in sent.items()})
    refused(answer, 401, "the token is missing or wrong")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert asked.backend.calls == []


def test_a_token_that_is_sent_twice_or_in_the_address_is_not_the_token(asked: Asked) -> None:
    twice = [("Authorization", "Bearer wrong"), ("Authorization", f"Bearer {TOKEN}")]
    assert asked.http.post("/run", headers=httpx.Headers(twice)).status_code == 401
    assert asked.http.post(f"/run?token={TOKEN}").status_code == 401
    assert asked.backend.calls == []


@pytest.mark.parametrize("path", ORDERS)
def test_where_no_token_is_set_nothing_can_be_asked_for(path: str) -> None:
    with app(token=None) as made:
        for headers in ({}, {"Authorization": "Bearer "}, {"Authorization": "Bearer None"}):
            refused(
                made.http.post(path, headers=headers),
                403,
                "no token is set, so nothing can be asked for; set VECTOR_SYNC_SERVICE__TOKEN",
            )
        assert made.backend.calls == []


@pytest.mark.parametrize("token", ["t\xf6ken-\N{SNOWMAN}", "a b"])
def test_a_token_may_be_any_text(token: str) -> None:
    with app(token=token) as made:
        assert made.http.post("/run", headers={"Authorization": b"bearer " + token.encode()}).status_code == 202


def test_tokens_are_compared_in_constant_time(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[int, int]] = []
    compare = hmac.compare_digest

    def noted(a: bytes, b: bytes) -> bool:
        compared.append((len(a), len(b)))
        return compare(a, b)

    monkeypatch.setattr("connector.service.api_security.hmac.compare_digest", noted)
    sent = ["", "x", TOKEN[:-1], TOKEN, "y" * 5_000]
    for token in sent:
        asked.http.post("/run", headers={"Authorization": f"Bearer {token}"})
    assert compared == [(32, 32)] * len(sent)  # hashes: neither the length nor the first letters can be timed


def test_the_token_is_in_no_answer_and_in_no_log(asked: Asked) -> None:
    asked.backend.failures["run"].append(ValueError(TOKEN))
    answers = [
        *(asked.http.post(path, headers=AUTHORIZED) for path in ORDERS),
        asked.http.post("/run", headers={"Authorization": f"Bearer {TOKEN}x"}),
        asked.http.post(f"/run?token={TOKEN}", headers=AUTHORIZED),
        asked.http.post(f"/run?sync={TOKEN}x", headers={"Authorization": f"Basic {TOKEN}"}),
        asked.http.get("/status"),
        asked.http.get("/"),
    ]
    assert answers[0].status_code == 500
    for answer in answers:
        assert TOKEN not in answer.text + str(answer.headers)
    assert TOKEN not in asked.log.getvalue()
    assert TOKEN not in str(asked.noted)


def test_a_run_is_asked_for_by_name_or_of_all(asked: Asked) -> None:
    answer = asked.http.post("/run", params={"sync": "wiki"}, headers=AUTHORIZED)
    assert (answer.status_code, answer.json()) == (202, {"syncs": ["wiki"]})
    assert asked.http.post("/run", headers=AUTHORIZED).json() == {"syncs": ["docs", "wiki"]}
    assert asked.backend.calls == [("run", "wiki", Wish()), ("run", None, Wish())]


@pytest.mark.parametrize(
    "body, wish",
    [
        (b"", Wish()),
        (b" \n", Wish()),
        (b"{}", Wish()),
        (b'{"confirm_deletes": 12}', Wish(confirm_deletes=12)),
        (b'{"confirm_deletes": 0, "yes": true}', Wish(confirm_deletes=0, confirm_cost=True)),
        (b'{"confirm_deletes": null, "accept_reembed": true}', Wish(accept_reembed=True)),
        (b'{"verify": true, "yes": false}', Wish(verify=True)),
    ],
)
def test_the_body_of_a_run_says_what_it_may_do(asked: Asked, body: bytes, wish: Wish) -> None:
    assert asked.http.post("/run?sync=docs", headers=AUTHORIZED, content=body).status_code == 202
    assert asked.backend.calls == [("run", "docs", wish)]


@pytest.mark.parametrize(
    "body, why",
    [
        (b'{"confirm": 12}', "object contains unknown field `confirm`"),
        (b'{"confirm_deletes": "12"}', "expected `int | null`, got `str` - at `$.confirm_deletes`"),
        (b'{"confirm_deletes": true}', "expected `int | null`, got `bool` - at `$.confirm_deletes`"),
        (b'{"confirm_deletes": 1.5}', "expected `int | null`, got `float` - at `$.confirm_deletes`"),
        (b'{"confirm_deletes": -1}', "expected `int` >= 0 - at `$.confirm_deletes`"),
        (b'{"yes": 1}', "expected `bool`, got `int` - at `$.yes`"),
        (b"[]", "expected `object`, got `array`"),
        (b"null", "expected `object`, got `null`"),
        (b"{", "input data was truncated"),
        (b"confirm_deletes=12", "JSON is malformed: invalid character (byte 0)"),
        (b"\xff", "JSON is malformed: invalid character (byte 0)"),
    ],
)
def test_a_body_that_is_no_wish_is_refused_before_anything_is_done(asked: Asked, body: bytes, why: str) -> None:
    answer = asked.http.post("/run", headers=AUTHORIZED, content=body)
    assert answer.status_code == 400
    assert answer.json()["error"].lower() == f"the body is no wish for a run: {why}".lower()
    assert asked.backend.calls == []


def test_a_body_as_deep_as_it_is_long_is_refused(asked: Asked) -> None:
    body = b'{"yes":' + b"[" * 9_000
    assert asked.http.post("/run", headers=AUTHORIZED, content=body).status_code == 400


@pytest.mark.parametrize("path", ORDERS)
def test_a_body_that_is_too_large_is_refused(asked: Asked, path: str) -> None:
    why = "the body is larger than 10,000 bytes; send a wish for a run, or nothing"
    refused(asked.http.post(path, headers=AUTHORIZED, content=b" " * 10_001), 413, why)
    pieces = (b" " * 1_000 for _ in range(11))  # chunked: its length is not declared
    refused(asked.http.post(path, headers=AUTHORIZED, content=pieces), 413, why)
    assert asked.backend.calls == []
    assert asked.http.post(path, headers=AUTHORIZED, content=b" " * 10_000).status_code == 202


@pytest.mark.parametrize("path", ORDERS)
def test_a_sync_that_is_not_there_is_not_found(asked: Asked, path: str) -> None:
    for name in ("nope", ""):
        answer = asked.http.post(path, params={"sync": name}, headers=AUTHORIZED)
        refused(answer, 404, f'there is no sync "{name}"; there are: docs, wiki')


@pytest.mark.parametrize("path", ORDERS)
def test_a_misspelt_query_does_not_come_to_mean_all_syncs(asked: Asked, path: str) -> None:
    refused(asked.http.post(f"{path}?synk=docs", headers=AUTHORIZED), 400, '"synk" cannot be asked; what can: sync')
    refused(
        asked.http.post(f"{path}?sync=docs&sync=wiki", headers=AUTHORIZED), 400, '"sync" is given twice; give it once'
    )
    assert asked.backend.calls == []


def test_a_paused_sync_is_not_run_until_it_is_resumed(asked: Asked) -> None:
    assert asked.http.post("/pause?sync=docs", headers=AUTHORIZED).json() == {"syncs": ["docs"]}
    refused(asked.http.post("/run?sync=docs", headers=AUTHORIZED), 409, "docs is paused; resume it first")
    assert asked.http.post("/resume?sync=docs", headers=AUTHORIZED).json() == {"syncs": ["docs"]}
    assert asked.http.post("/run?sync=docs", headers=AUTHORIZED).status_code == 202


def test_the_log_tells_what_was_asked_for_and_who_was_refused(asked: Asked) -> None:
    asked.http.post("/pause?sync=docs", headers=AUTHORIZED)
    asked.http.post("/run")
    asked.http.get("/status")
    asked.http.get("/nothing")
    lines = [{name: line[name] for name in ("level", "method", "route", "status")} for line in asked.lines()]
    assert lines == [
        {"level": "info", "method": "POST", "route": "/pause", "status": 202},
        {"level": "warning", "method": "POST", "route": "/run", "status": 401},
    ]
    assert asked.lines()[0]["syncs"] == ["docs"]


def test_each_request_is_noted_by_its_route(asked: Asked) -> None:
    asked.http.get("/status?whatever=1")
    asked.http.get("/nothing/at/all")
    asked.http.request("PROPFIND", "/status")
    assert [request[:3] for request in asked.noted] == [
        ("GET", "/status", 200),
        ("GET", "none", 404),
        ("other", "/status", 405),
    ]
    assert all(seconds >= 0 for *_, seconds in asked.noted)


# --- searching --------------------------------------------------------------------------------------


def test_a_search_tells_the_nearest_passages(asked: Asked) -> None:
    asked.backend.hits = [a_hit("a.md", text="x" * 400, title="Backups"), a_hit("b.md", title=7)]
    answer = asked.http.get("/search", params={"q": " restore ", "sync": "wiki", "sink": "main", "limit": "2"})
    assert answer.json() == {
        "hits": [
            {"score": 0.8123, "document_id": "a.md", "id": "a.md#0", "title": "Backups", "excerpt": "x" * 300},
            {"score": 0.8123, "document_id": "b.md", "id": "b.md#0", "title": None, "excerpt": "Restore it."},
        ]
    }
    asked.http.get("/search?q=restore")
    assert asked.backend.calls == [("search", "wiki", "restore", "main", 2), ("search", None, "restore", None, 5)]


@pytest.mark.parametrize("show", ["counts", "names"])
def test_where_passages_are_not_shown_nobody_searches(show: str) -> None:
    with app(FakeBackend(a_status(show=show))) as made:
        refused(
            made.http.get("/search?q=restore"),
            403,
            'passages are not shown here; set show = "text" under [service] if they may be',
        )
        assert made.backend.calls == []


@pytest.mark.parametrize(
    "query, why",
    [
        ("", "say what to look for: /search?q=..."),
        ("q=", "say what to look for: /search?q=..."),
        ("q=%20", "say what to look for: /search?q=..."),
        (f"q={'x' * 2_001}", "the text is longer than 2,000 characters; shorten it"),
        ("q=a&limit=0", "limit must be a number from 1 to 50"),
        ("q=a&limit=51", "limit must be a number from 1 to 50"),
        ("q=a&limit=-1", "limit must be a number from 1 to 50"),
        ("q=a&limit=five", "limit must be a number from 1 to 50"),
        ("q=a&limit=", "limit must be a number from 1 to 50"),
        (f"q=a&limit={'9' * 5_000}", "limit must be a number from 1 to 50"),
        ("q=a&limit=%C2%B2", "limit must be a number from 1 to 50"),
        ("q=a&top=3", '"top" cannot be asked; what can: limit, q, sink, sync'),
        ("q=a&q=b", '"q" is given twice; give it once'),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(asked: Asked, query: str, why: str) -> None:
    refused(asked.http.get(f"/search?{query}"), 400, why)
    assert asked.backend.calls == []


def test_a_search_of_a_sync_that_is_not_there_is_refused(asked: Asked) -> None:
    refused(asked.http.get("/search?q=a&sync=nope"), 400, 'there is no sync "nope"; there are: docs, wiki')


@pytest.mark.parametrize(
    "failure, status",
    [
        (ConfigError('there is no sink "x" in the settings; there are: main'), 400),
        (RejectedError("the text can never be embedded"), 400),
        (BusyError("the index is open in another process"), 503),
        (TransientError("the index does not answer"), 503),
        (SinkError("the key is revoked"), 503),
    ],
)
def test_a_search_that_fails_says_why(asked: Asked, failure: Exception, status: int) -> None:
    asked.backend.failures["search"].append(failure)
    refused(asked.http.get("/search?q=a&sink=x"), status, str(failure))


def test_two_search_at_once_and_a_third_is_asked_to_come_back(asked: Asked) -> None:
    asked.backend.go_on.clear()
    with ThreadPoolExecutor(2) as others:
        first = [others.submit(asked.http.get, "/search?q=a") for _ in range(2)]
        for _ in first:
            assert asked.backend.entered.acquire(timeout=30)
        third = asked.http.get("/search?q=a")
        refused(third, 429, "2 searches are under way, and there are no more at once; try again in a moment")
        assert third.headers["retry-after"] == "1"
        asked.backend.go_on.set()
        assert [answer.result().status_code for answer in first] == [200, 200]
    assert asked.http.get("/search?q=a").status_code == 200


@pytest.mark.parametrize("site, status", [("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)])
def test_a_page_of_another_site_cannot_have_a_browser_search(asked: Asked, site: str, status: int) -> None:
    assert asked.http.get("/search?q=a", headers={"Sec-Fetch-Site": site}).status_code == status


def test_what_people_look_for_is_not_in_the_log(asked: Asked) -> None:
    asked.backend.failures["search"].append(SinkError("down"))
    asked.http.get("/search?q=a+secret+question")
    assert [line["status"] for line in asked.lines()] == [503]
    assert "secret" not in asked.log.getvalue()


# --- the real server --------------------------------------------------------------------------------


def test_the_real_server_answers_the_same() -> None:
    backend = FakeBackend()
    with serving(backend, token=TOKEN) as service, httpx.Client(base_url=service.url) as http:
        assert http.get("/status").json() == backend.shown
        assert http.head("/").status_code == 200
        refused(
            http.post("/run", headers=AUTHORIZED, content=b" " * 200_000),
            413,
            "the body is larger than 10,000 bytes; send a wish for a run, or nothing",
        )
        assert http.post("/run", headers=AUTHORIZED).status_code == 202
        again = http.get("/page.css", headers={"If-None-Match": http.get("/page.css").headers["etag"]})
        assert (again.status_code, again.headers["content-security-policy"]) == (304, POLICY)


def test_a_status_that_hangs_does_not_keep_the_server_from_stopping() -> None:
    backend = FakeBackend()
    backend.go_on.clear()
    with serving(backend) as service:
        with ThreadPoolExecutor(1) as others:
            asking = others.submit(httpx.get, f"{service.url}/status", timeout=30)
            assert backend.entered.acquire(timeout=30)
            service.stop()
            refused(asking.result(), 503, "the service is stopping")
            assert asking.result().headers["content-security-policy"] == POLICY
        assert "CancelledError" not in service.log.getvalue()
        backend.go_on.set()
