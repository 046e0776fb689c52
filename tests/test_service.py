"""The sync service: when it runs, what it tells, how it is ordered about, and how it ends."""

from __future__ import annotations

import gc
import threading
import weakref
from contextlib import closing
from typing import Any

import pytest
from service_rig import HashSettings, KeptSettings, ServiceRig, job_service
from service_rig import rig as rig  # noqa: PLC0414 - a fixture

from connector import job_control
from connector.checkpoint import Checkpoints
from connector.composition import sync
from connector.config import Settings
from connector.errors import ConfigError, LeaseError, SinkError, TransientError
from connector.lease import os_lock
from connector.service.api import Wish
from connector.service.server import Service
from connector.stopping import Stop
from connector.testing.fake_jobs import Fault

HOUR = 3600.0
HANGS_SECONDS = 30.0


# --- when it runs ------------------------------------------------------------------------------------


def test_it_begins_with_a_run_and_then_runs_after_each_interval(rig: ServiceRig) -> None:
    with rig.serving() as service:
        service.wait_for("run_ended", trigger="start", exit_code=0)
        assert rig.held() == {f"All there is to know about {name}." for name in ("cats", "dogs", "owls")}
        rig.write("owls.md", "Owls fly by night.")
        service.advance(1.2 * HOUR)
        service.wait_for("run_ended", trigger="interval", exit_code=0)
        assert "Owls fly by night." in rig.held()
        told = service.until(lambda it: it["state"] == "idle" and len(it["runs"]) == 2)
        assert (told["in_step"], told["next_because"], told["runs"][0]["changed"]) == (True, "interval", 1)
        assert [run["trigger"] for run in told["runs"]] == ["interval", "start"]


def test_a_changed_file_is_in_the_index_soon_though_the_interval_is_long(rig: ServiceRig) -> None:
    rig.configure('interval = "1d"')
    with rig.serving() as service:
        service.wait_for("run_ended", trigger="start")
        watching = service.service.watches["docs"]
        assert watching.is_watching.wait(HANGS_SECONDS)
        rig.write("new.md", "A new one.")
        service.wait_for("run_ended", trigger="watch", exit_code=0)
        assert "A new one." in rig.held()


def test_by_a_crontab_a_service_that_is_started_again_waits_for_its_time(rig: ServiceRig) -> None:
    rig.configure('cron = "0 3 1 1 *"\nwatch = false')
    with rig.serving() as service:
        service.wait_for("run_ended", trigger="start", exit_code=0)
    with rig.serving() as service:
        told = service.until(lambda it: it["state"] == "idle")
        assert (told["next_because"], told["in_step"], len(told["runs"])) == ("cron", True, 1)
        service.advance(366 * 24 * HOUR)
        service.wait_for("run_ended", trigger="cron", exit_code=0)


def test_a_run_that_fails_is_tried_again_before_the_interval_is_over(rig: ServiceRig) -> None:
    with rig.serving() as service:
        service.wait_for("run_ended", trigger="start")
        sink = KeptSettings.sinks["docs", "main"]
        upsert, sink.upsert = sink.upsert, down  # type: ignore[method-assign]
        rig.write("new.md", "A new one.")
        service.post("/run")
        service.wait_for("run_ended", trigger="request", exit_code=3)
        told = service.until(lambda it: it["state"] == "idle" and it["in_step"] is False)
        assert told["next_because"] == "retry"
        assert "the sink is down" in told["why"]
        assert service.get("/readyz").status_code == 200, "a restart would not help"
        sink.upsert = upsert  # type: ignore[method-assign]
        service.advance(60)
        service.wait_for("run_ended", trigger="retry", exit_code=0)
        assert service.until(lambda it: it["in_step"])["behind_seconds"] is None


def down(records: object) -> None:
    raise SinkError("the sink is down")


def test_while_another_run_holds_the_state_it_waits_and_says_who_has_it(rig: ServiceRig) -> None:
    with rig.serving() as service:
        service.wait_for("run_ended", trigger="start")
        service.until(lambda it: it["state"] == "idle")
        with closing(Checkpoints.open(rig.folder / "state-docs")):
            service.post("/run")
            service.wait_for("run_failed", exit_code=75)
            told = service.until(lambda it: it["in_step"] is False)
            assert "another run holds" in told["why"]
        service.advance(61)
        service.wait_for("run_ended", trigger="retry", exit_code=0)


@pytest.mark.parametrize("times", ['interval = "1h"', 'cron = "0 * * * *"'], ids=["interval", "cron"])
def test_a_clock_that_is_put_back_makes_no_run_wait_until_it_is_there_again(rig: ServiceRig, times: str) -> None:
    rig.configure(f"{times}\nwatch = false")
    with rig.serving() as service:
        service.wait_for("run_ended", trigger="start")
        service.until(lambda it: it["state"] == "idle")
        service.advance(-7 * 24 * HOUR)

        def has_run(told: dict[str, Any]) -> bool:
            service.advance(60)
            return len(told["runs"]) == 2

        service.until(has_run)
        assert service.clock.ahead_seconds < 0


def test_a_comparison_comes_though_the_clock_was_put_back(rig: ServiceRig) -> None:
    rig.configure('interval = "30d"\nwatch = false\nreconcile = "0 * * * *"')
    with rig.serving() as service:
        service.post("/run", {"verify": True})
        service.wait_for("compared")
        before = service.until(lambda it: it["state"] == "idle" and it["reconcile"]["last_at"] is not None)["reconcile"]
        service.advance(-7 * 24 * HOUR)

        def is_compared(_told: dict[str, Any]) -> bool:
            service.advance(60)
            return len(service.log.of("compared")) > 1

        service.until(is_compared)
        told = service.until(lambda it: it["state"] == "idle")["reconcile"]
        assert told["last_at"] < before["last_at"]


def test_two_syncs_never_run_at_once(rig: ServiceRig) -> None:
    rig.configure(name="more")
    rig.write("bees.md", "All there is to know about bees.", sync="more")
    hanging, released = threading.Event(), threading.Event()

    def hang(text: str) -> bool:
        if not hanging.is_set():
            hanging.set()
            assert released.wait(HANGS_SECONDS)
        return False

    HashSettings.made.reject = hang
    with rig.serving(rig.folder) as service:
        assert hanging.wait(HANGS_SECONDS)
        states = {
            name: service.until(lambda it: it["state"] in ("running", "queued"), name)["state"]
            for name in ("docs", "more")
        }
        assert sorted(states.values()) == ["queued", "running"]
        released.set()
        for name in ("docs", "more"):
            service.wait_for("run_ended", sync=name, exit_code=0)
        order = [(it["event"], it["sync"]) for it in service.log.lines if it["event"] in ("run_started", "run_ended")]
        assert order[0][1] == order[1][1]
        assert order[2][1] == order[3][1]


def test_a_sync_that_is_paused_while_it_is_queued_begins_when_it_is_resumed(rig: ServiceRig) -> None:
    rig.configure(name="more")
    rig.write("bees.md", "All there is to know about bees.", sync="more")
    hanging, released = threading.Event(), threading.Event()

    def hang(_text: str) -> bool:
        hanging.set()
        assert released.wait(HANGS_SECONDS)
        return False

    HashSettings.made.reject = hang
    with rig.serving(rig.folder) as service:
        assert hanging.wait(HANGS_SECONDS)
        first = service.wait_for("run_started")["sync"]
        queued = "more" if first == "docs" else "docs"
        service.until(lambda it: it["state"] == "queued", queued)
        service.post(f"/pause?sync={queued}")
        released.set()
        service.wait_for("run_ended", sync=first)
        service.until(lambda it: it["state"] == "paused", queued)
        assert [it["sync"] for it in service.log.of("run_started")] == [first]
        service.post(f"/resume?sync={queued}")
        service.wait_for("run_ended", sync=queued, exit_code=0)


# --- embed jobs --------------------------------------------------------------------------------------


def test_an_open_embed_job_holds_nothing_up_and_is_taken_in_when_it_is_done(rig: ServiceRig) -> None:
    HashSettings.made = jobs = job_service()
    jobs.job_looks = 4
    rig.configure('interval = "30d"\nwatch = false')
    for number in range(10):
        rig.write(f"{number}.md", f"Document number {number}.")
    with rig.serving() as service:
        service.wait_for("run_ended", trigger="start", exit_code=3, open_jobs=1)
        told = service.until(lambda it: it["state"] == "idle" and bool(it["jobs"]))
        assert "1 embed job runs at the service" in told["why"]
        assert (told["next_because"], told["jobs"][0]["texts"]) == ("jobs", 13)
        rig.write("small.md", "A small change.")
        service.post("/run")
        service.wait_for("run_ended", trigger="request", exit_code=3, open_jobs=1)
        assert rig.held() >= {"A small change."}
        while (told := service.until(lambda it: it["state"] == "idle"))["jobs"]:
            due = told["next_run_at"]
            service.advance(31)
            service.until(lambda it, due=due: it["state"] != "idle" or it["next_run_at"] != due)  # type: ignore[misc]
        service.wait_for("run_ended", trigger="jobs", exit_code=0)
        told = service.until(lambda it: it["in_step"])
        assert len(told["runs"]) == 3, "a look at a job is no run"
        assert len(rig.held()) == 14
        assert set(jobs.billed.values()) == {1}


def test_a_service_that_is_started_again_counts_no_run_that_waited_for_a_job_as_failed(rig: ServiceRig) -> None:
    HashSettings.made = jobs = job_service()
    jobs.job_looks = 1000
    rig.configure('cron = "0 3 1 1 *"\nwatch = false')
    for number in range(10):
        rig.write(f"{number}.md", f"Document number {number}.")
    with rig.serving() as service:
        service.wait_for("run_ended", trigger="start", exit_code=3)
        for count in (1, 2, 3):
            service.post("/run")
            service.wait_for("run_ended", count, trigger="request", exit_code=3)
    with rig.serving() as service:
        assert service.until(lambda it: it["state"] == "idle")["next_because"] == "jobs"


def test_a_bug_in_a_look_at_jobs_costs_that_look(rig: ServiceRig, monkeypatch: pytest.MonkeyPatch) -> None:
    HashSettings.made = jobs = job_service()
    jobs.job_looks = 3
    rig.configure('interval = "30d"\nwatch = false')
    for number in range(10):
        rig.write(f"{number}.md", f"Document number {number}.")
    with rig.serving() as service:
        service.wait_for("run_ended", trigger="start", exit_code=3)
        service.until(lambda it: it["state"] == "idle")
        with monkeypatch.context() as patched:
            patched.setattr(job_control, "look", a_bug)
            service.advance(31)
            assert "RuntimeError" in service.wait_for("bug")["trace"]
            service.until(lambda it: it["state"] == "idle")
        assert service.get("/livez").status_code == 200
        service.post("/run")
        service.wait_for("run_ended", trigger="request")


def test_a_look_at_jobs_waits_for_nothing_once_it_is_asked_to_end(rig: ServiceRig) -> None:
    HashSettings.made = jobs = job_service()
    for number in range(10):
        rig.write(f"{number}.md", f"Document number {number}.")
    settings, stop = Settings.load(rig.path), Stop()
    assert sync(settings, wait_for_jobs=False).open_jobs == 1
    before = jobs.called["job"]
    jobs.faults["job"].extend([Fault.BUSY] * 10)
    with pytest.raises(TransientError):
        job_control.look(settings, emit=lambda _event: stop.ask(), stop=stop)
    assert jobs.called["job"] == before + 1


def a_bug(*_args: object, **_named: object) -> None:
    raise RuntimeError


# --- what it is told to do ---------------------------------------------------------------------------


def test_a_paused_sync_begins_nothing_and_stays_paused_when_the_service_is_started_again(rig: ServiceRig) -> None:
    with rig.serving() as service:
        service.wait_for("run_ended", trigger="start")
        assert service.post("/pause").json() == {"syncs": ["docs"]}
        refused = service.post("/run")
        assert (refused.status_code, "docs is paused" in refused.json()["error"]) == (409, True)
    rig.write("new.md", "A new one.")
    with rig.serving() as service:
        told = service.until(lambda it: it["state"] == "paused")
        assert (told["next_run_at"], told["in_step"]) == (None, True)
        service.advance(24 * HOUR)
        assert service.post("/resume").status_code == 202
        service.wait_for("run_ended", exit_code=0)
        assert "A new one." in rig.held()


def test_a_run_that_stops_to_ask_says_so_and_is_confirmed_by_a_request(rig: ServiceRig) -> None:
    with rig.serving() as service:
        service.wait_for("run_ended", trigger="start")
        for name in ("cats", "dogs"):
            (rig.folder / "docs" / f"{name}.md").unlink()
        service.post("/run")
        service.wait_for("run_ended", exit_code=4)
        told = service.until(lambda it: it["question"] is not None)
        assert "--confirm-deletes" in told["question"]
        assert len(rig.held()) == 3
        service.post("/run", {"confirm_deletes": 2})
        service.wait_for("run_ended", exit_code=0, deleted=2)
        assert service.until(lambda it: it["in_step"])["question"] is None


def test_of_two_requests_before_a_run_neither_is_lost() -> None:
    assert Wish(confirm_deletes=5) | Wish() | Wish(verify=True) == Wish(confirm_deletes=5, verify=True)
    assert Wish(confirm_deletes=2) | Wish(confirm_deletes=7, confirm_cost=True) == Wish(7, confirm_cost=True)


def test_records_that_vanish_behind_our_back_are_found_and_mended_on_schedule(rig: ServiceRig) -> None:
    rig.configure('interval = "30d"\nwatch = false\nreconcile = "0 3 * * *"')
    with rig.serving() as service:
        service.wait_for("run_ended", trigger="start")
        service.until(lambda it: it["state"] == "idle")
        sink = KeptSettings.sinks["docs", "main"]
        sink.delete([next(iter(sink.records))])
        embedded = len(HashSettings.made.texts_seen)
        service.advance(25 * HOUR)
        service.wait_for("compared")
        told = service.until(lambda it: it["state"] == "idle" and it["reconcile"]["last_at"] is not None)
        assert told["reconcile"]["told"] == "1 records were not as written, and are mended"
        assert (len(rig.held()), len(HashSettings.made.texts_seen)) == (3, embedded)
        assert 'vsync_verified_drift_points_total{kind="missing"' in service.get("/metrics").text


def test_who_asks_for_a_comparison_gets_one_and_a_run(rig: ServiceRig) -> None:
    with rig.serving() as service:
        service.wait_for("run_ended", trigger="start")
        rig.write("new.md", "A new one.")
        service.post("/run", {"verify": True})
        service.wait_for("compared", exit_code=0)
        service.wait_for("run_ended", trigger="request", exit_code=0, added=1)


def test_a_comparison_that_another_run_keeps_from_being_made_is_made_up_soon(rig: ServiceRig) -> None:
    rig.configure('interval = "30d"\nwatch = false\nreconcile = "0 3 * * *"')
    with rig.serving() as service:
        service.wait_for("run_ended", trigger="start")
        service.until(lambda it: it["state"] == "idle")
        with closing(Checkpoints.open(rig.folder / "state-docs")):
            service.advance(25 * HOUR)
            service.wait_for("run_failed", exit_code=75)
            service.until(lambda it: it["state"] == "idle")
        service.advance(61)
        service.wait_for("compared", exit_code=0)


# --- settings ----------------------------------------------------------------------------------------


def test_settings_that_are_read_again_count_from_the_next_run(rig: ServiceRig) -> None:
    with rig.serving() as service:
        service.wait_for("run_ended", trigger="start")
        rig.configure('interval = "1m"\nwatch = false')
        service.service.reload()
        service.wait_for("reloaded")
        service.advance(67)
        service.wait_for("run_ended", trigger="interval", exit_code=0)


def test_wrong_settings_are_refused_and_the_old_ones_stay(rig: ServiceRig) -> None:
    with rig.serving() as service:
        service.wait_for("run_ended", trigger="start")
        rig.configure('intervall = "1m"')
        service.service.reload()
        service.wait_for("reload_refused")
        config = service.get("/status").json()["config"]
        assert 'unknown setting; did you mean "interval"?' in config["error"]
        rig.write("new.md", "A new one.")
        service.post("/run")
        service.wait_for("run_ended", trigger="request", exit_code=0)
        assert "A new one." in rig.held()


def test_a_sync_that_is_added_begins_and_one_that_is_removed_ends(rig: ServiceRig) -> None:
    with rig.serving(rig.folder) as service:
        service.wait_for("run_ended", sync="docs")
        rig.configure(name="more")
        rig.write("bees.md", "All there is to know about bees.", sync="more")
        service.service.reload()
        service.wait_for("run_ended", sync="more", exit_code=0)
        assert 'sync="more"' in service.get("/metrics").text
        (rig.folder / "docs.toml").unlink()
        service.service.reload()
        service.wait_for("left", sync="docs")
        assert [it["name"] for it in service.get("/status").json()["syncs"]] == ["more"]
        assert 'sync="docs"' not in service.get("/metrics").text
        assert rig.held("docs"), "what it has written stays"


def test_a_reload_that_is_refused_holds_nothing_of_the_syncs_that_it_would_have_added(rig: ServiceRig) -> None:
    with rig.serving(rig.folder) as service:
        rig.configure(name="first")
        rig.configure(name="second")
        with os_lock(rig.folder / "state-second" / "service"):
            service.service.reload()
            assert "another service has the sync second" in service.wait_for("reload_refused")["error"]
        service.service.reload()
        assert service.wait_for("reloaded")["syncs"] == ["docs", "first", "second"]


def test_a_sync_whose_file_got_another_name_asks_for_a_restart(rig: ServiceRig) -> None:
    with rig.serving(rig.folder) as service:
        rig.path.rename(rig.folder / "renamed.toml")
        service.service.reload()
        told = service.wait_for("reload_refused")["error"]
        assert told.endswith('renamed.toml: [state] path is that of the sync "docs" until the service is restarted')


def test_a_service_that_is_ending_reads_no_settings_again(rig: ServiceRig) -> None:
    with rig.serving() as service:
        service.wait_for("run_ended")
        service.service.stop()
        service.service.reload()
        assert not service.log.of("reloaded")


def test_a_second_service_on_the_same_state_is_refused(rig: ServiceRig) -> None:
    with rig.serving() as service:
        service.wait_for("run_ended")
        with pytest.raises(LeaseError, match="another service has the sync docs"), Service.open(rig.path):
            pass


def test_a_state_of_another_folder_asks_for_a_restart(rig: ServiceRig) -> None:
    with rig.serving() as service:
        service.wait_for("run_ended")
        rig.path.write_text(rig.path.read_text().replace("state-docs", "elsewhere"))
        service.service.reload()
        assert "restart the service for that" in service.wait_for("reload_refused")["error"]


def test_wrong_settings_at_the_start_end_it(rig: ServiceRig) -> None:
    rig.configure("intervall = 7")
    with pytest.raises(ConfigError, match="did you mean"), Service.open(rig.path):
        pass


def test_what_a_run_beside_it_has_done_is_told_too(rig: ServiceRig) -> None:
    with rig.serving() as service:
        service.wait_for("run_ended", trigger="start")
        service.until(lambda it: it["state"] == "idle")
        rig.write("new.md", "A new one.")
        sync(Settings.load(rig.path))
        service.post("/run")
        service.wait_for("run_ended", trigger="request", unchanged=4)
        assert service.until(lambda it: it["state"] == "idle")["sinks"][0]["documents"] == 4


@pytest.mark.parametrize("repair", ["true", "false"])
def test_a_comparison_that_finds_nothing_makes_a_sync_that_is_behind_no_better(rig: ServiceRig, repair: str) -> None:
    rig.configure(f'interval = "30d"\nwatch = false\nreconcile = "0 3 * * *"\nrepair = {repair}')
    with rig.serving() as service:
        service.wait_for("run_ended", trigger="start")
        for name in ("cats", "dogs"):
            (rig.folder / "docs" / f"{name}.md").unlink()
        service.post("/run")
        service.wait_for("run_ended", exit_code=4)
        service.until(lambda it: it["state"] == "idle")
        service.advance(25 * HOUR)
        service.wait_for("compared", exit_code=0)
        assert service.until(lambda it: it["state"] == "idle")["question"]
        told = service.get("/metrics").text
        assert 'vsync_last_run_exit_code{sync="docs"} 4.0' in told
        assert 'vsync_guard_blocked{sync="docs"} 1.0' in told


# --- what it tells -----------------------------------------------------------------------------------


def test_a_bug_costs_one_run_and_its_words_are_told_to_nobody(rig: ServiceRig) -> None:
    def bug(text: str) -> bool:
        raise RuntimeError(f"cannot embed {text}")

    HashSettings.made.reject = bug
    with rig.serving() as service:
        line = service.wait_for("run_failed", exit_code=70)
        assert "RuntimeError" in line["trace"]
        told = service.until(lambda it: it["in_step"] is False)
        assert "a bug in vector-sync (RuntimeError)" in told["why"]
        assert "met a bug" in service.get("/readyz").text
        assert service.get("/livez").status_code == 200
        HashSettings.made.reject = lambda _text: False
        service.post("/run")
        service.wait_for("run_ended", exit_code=0)
        service.until(lambda it: it["in_step"])
        assert service.get("/readyz").status_code == 200
        assert "All there is" not in service.log.getvalue()


@pytest.mark.parametrize("show", ["counts", "names", "text"])
def test_no_more_of_documents_is_told_than_the_settings_allow(rig: ServiceRig, show: str) -> None:
    rig.configure(f'interval = "1h"\nwatch = false\nshow = "{show}"')
    rig.write("canary.md", "\x00the canary sings")
    rig.write("secret-name.md", "")
    with rig.serving() as service:
        service.wait_for("run_ended", trigger="start")
        told = service.until(lambda it: it["state"] == "idle")
        sink = KeptSettings.sinks["docs", "main"]
        sink.upsert = refuse  # type: ignore[method-assign]
        rig.write("new.md", "A new one.")
        service.post("/run")
        service.wait_for("run_ended", trigger="request")
        told = service.until(lambda it: it["state"] == "idle")
        pages = [service.get(path).text for path in ("/status", "/metrics", "/")]
        assert ("it would not have record 7" in pages[0]) is (show != "counts")
        assert told["rejected"]["count"] == 2
        assert ("secret-name" in "".join(pages)) is (show != "counts")
        assert "sings" not in "".join(pages)
        assert "secret-name" not in service.log.getvalue()
        found = service.get("/search")
        assert found.status_code == (400 if show == "text" else 403)


def test_the_token_is_told_to_nobody(rig: ServiceRig) -> None:
    with rig.serving() as service:
        service.wait_for("run_ended")
        service.post("/run")
        service.wait_for("run_ended", 2)
        pages = "".join(service.get(path).text for path in ("/status", "/metrics", "/", "/readyz"))
        assert "the-token-of-the-tests" not in pages + service.log.getvalue() + repr(service.service.config)


def refuse(records: object) -> None:
    raise SinkError("it would not have record 7")


def test_what_a_run_leaves_behind_is_gone_when_it_has_ended(rig: ServiceRig) -> None:
    left: list[weakref.ref[set[object]]] = []

    class Node(set[object]):
        """Can be referred to, and refers to itself."""

    def leave_a_cycle(text: str) -> bool:
        node = Node()
        node.self = node  # type: ignore[attr-defined]
        left.append(weakref.ref(node))
        return False

    HashSettings.made.reject = leave_a_cycle
    gc.disable()
    try:
        with rig.serving() as service:
            service.wait_for("run_ended", trigger="start")
            service.until(lambda it: it["state"] == "idle")
            assert left
            assert all(node() is None for node in left)
    finally:
        gc.enable()


# --- how it ends -------------------------------------------------------------------------------------


def test_a_run_under_way_ends_in_order_and_the_next_start_goes_on_for_nothing(rig: ServiceRig) -> None:
    for number in range(500):
        rig.write(f"{number}.md", f"Document number {number}.")
    begun, stopping = threading.Event(), threading.Event()

    def wait_for_the_stop(text: str) -> bool:
        begun.set()
        assert stopping.wait(HANGS_SECONDS)
        return False

    HashSettings.made.reject = wait_for_the_stop
    with rig.serving() as service:
        assert begun.wait(HANGS_SECONDS)
        service.service.stop()
        stopping.set()
    HashSettings.made.reject = lambda _text: False
    first = len(HashSettings.made.texts_seen)
    assert 0 < first < 500
    with rig.serving() as service:
        service.wait_for("run_ended", trigger="start", exit_code=0)
    assert len(HashSettings.made.texts_seen) == 503, "no text is embedded twice"
    assert len(rig.held()) == 503
