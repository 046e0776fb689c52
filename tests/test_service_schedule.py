"""When a sync is due: tables in, times out; and what holds whatever the clock and the dice do."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from connector.crontab import Crontab, check_cron, check_time_zone
from connector.durations import duration_in_words, parse_duration
from connector.errors import BUG, INTERRUPTED, ExitCode
from connector.service.schedule import (
    BUSY_SECONDS,
    LEAST_RETRY_SECONDS,
    LONGEST_RETRY_SECONDS,
    Due,
    LastRun,
    Timetable,
    has_failed,
    next_reconcile,
    next_run,
)

NOW = datetime(2026, 11, 22, 18, 0, tzinfo=UTC).timestamp()
DAY = 86_400.0
EVERY_5_MINUTES = Timetable(300.0)
QUARTERS = Timetable(Crontab("*/15 * * * *"))


def at(text: str, zone: str = "UTC") -> float:
    """A time of day in a zone; with an offset where it comes twice."""
    time = datetime.fromisoformat(text)
    return (time if time.tzinfo else time.replace(tzinfo=ZoneInfo(zone))).timestamp()


def told(seconds: float, zone: str = "UTC") -> str:
    return datetime.fromtimestamp(seconds, ZoneInfo(zone)).isoformat(timespec="minutes")


def ended(
    exit_code: int = 0, *, ago: float = 0.0, took: float = 10.0, failures: int = 0, jobs: bool = False
) -> LastRun:
    return LastRun(NOW - ago - took, NOW - ago, exit_code, failures, jobs)


# --- the table of `next_run` ------------------------------------------------------------------------


def test_the_first_run_is_due_at_once() -> None:
    assert next_run(EVERY_5_MINUTES, None, now=NOW, chance=0.9) == Due(NOW, "start")


@pytest.mark.parametrize("exit_code", [ExitCode.IN_STEP, ExitCode.REJECTED, ExitCode.SAFETY, ExitCode.DRIFT])
def test_an_interval_counts_from_the_end_of_a_run_that_needs_no_retry(exit_code: ExitCode) -> None:
    assert next_run(EVERY_5_MINUTES, ended(exit_code, ago=100), now=NOW, chance=0.0) == Due(NOW + 200, "interval")


def test_jitter_lengthens_an_interval_by_chance() -> None:
    assert next_run(EVERY_5_MINUTES, ended(), now=NOW, chance=0.5) == Due(NOW + 315, "interval")
    assert next_run(Timetable(300.0, jitter=0.0), ended(), now=NOW, chance=0.5) == Due(NOW + 300, "interval")


@pytest.mark.parametrize("exit_code", [ExitCode.CONFIG, ExitCode.BEHIND, BUG, INTERRUPTED, 1234])
def test_a_run_that_failed_is_tried_again_sooner(exit_code: int) -> None:
    assert next_run(EVERY_5_MINUTES, ended(exit_code, failures=1), now=NOW, chance=0.999).because == "retry"
    assert next_run(Timetable(5.5), ended(exit_code, failures=1), now=NOW, chance=0.9).because == "interval"


@pytest.mark.parametrize(
    "failures, latest", [(0, 60), (1, 60), (2, 120), (3, 240), (6, 1920), (7, 3600), (8, 3600), (10_000, 3600)]
)
def test_the_wait_for_a_retry_doubles_up_to_an_hour(failures: int, latest: float) -> None:
    daily = Timetable(DAY)
    failed = ended(ExitCode.BEHIND, failures=failures)
    assert next_run(daily, failed, now=NOW, chance=0.0).at == NOW + LEAST_RETRY_SECONDS
    assert next_run(daily, failed, now=NOW, chance=0.999_999_999_9).at == pytest.approx(NOW + latest)


def test_a_retry_that_would_come_after_the_interval_does_not() -> None:
    failed = ended(ExitCode.BEHIND, failures=9)
    assert next_run(EVERY_5_MINUTES, failed, now=NOW, chance=0.5) == Due(NOW + 315, "interval")


@pytest.mark.parametrize("chance, seconds", [(0.0, 10), (0.5, 35)])
def test_a_lease_that_another_run_has_is_asked_for_again_soon_but_not_at_once(chance: float, seconds: float) -> None:
    busy = ended(ExitCode.BUSY, jobs=True)
    assert next_run(Timetable(DAY), busy, now=NOW, chance=chance) == Due(NOW + seconds, "retry")


def test_a_lease_that_another_run_has_keeps_no_sync_waiting_for_longer_than_its_interval() -> None:
    busy = ended(ExitCode.BUSY)
    assert next_run(Timetable(5.0, jitter=0.0), busy, now=NOW, chance=0.9) == Due(NOW + 5, "interval")


def test_open_embed_jobs_are_looked_at_before_the_interval_is_over() -> None:
    assert next_run(EVERY_5_MINUTES, ended(jobs=True), now=NOW, chance=0.9) == Due(NOW + 30, "jobs")
    assert next_run(Timetable(10.0), ended(jobs=True), now=NOW, chance=0.0) == Due(NOW + 10, "interval")
    assert next_run(Timetable(300.0, job_poll_seconds=7), ended(jobs=True), now=NOW, chance=0.0) == Due(NOW + 7, "jobs")


def test_a_run_that_is_behind_only_because_embed_jobs_are_under_way_has_not_failed() -> None:
    waits = ended(ExitCode.BEHIND, failures=0, jobs=True)
    assert next_run(Timetable(DAY), waits, now=NOW, chance=0.0) == Due(NOW + 30, "jobs")


@pytest.mark.parametrize("failures, seconds", [(1, 30), (2, 60), (3, 120), (8, 3600), (500, 3600)])
def test_embed_jobs_of_a_service_that_is_down_are_looked_at_less_and_less_often(failures: int, seconds: float) -> None:
    failed = ended(ExitCode.BEHIND, failures=failures, jobs=True)
    due = next_run(Timetable(DAY), failed, now=NOW, chance=0.999_999)
    assert due == Due(NOW + seconds, "jobs") or due.at < NOW + seconds


def test_only_what_a_sooner_run_can_mend_counts_as_a_failure() -> None:
    codes = {*ExitCode, BUG, INTERRUPTED}
    assert {code for code in codes if has_failed(code)} == {ExitCode.CONFIG, ExitCode.BEHIND, BUG, INTERRUPTED}


# --- crontabs, and what is missed -------------------------------------------------------------------


def test_a_crontab_gives_the_first_time_after_the_run_started() -> None:
    assert next_run(QUARTERS, ended(ago=60, took=5), now=NOW, chance=0.9) == Due(NOW, "cron")
    assert next_run(QUARTERS, ended(ago=-1, took=1), now=NOW + 1, chance=0.9) == Due(NOW + 900, "cron")


def test_times_that_passed_during_a_long_run_come_once_and_at_once() -> None:
    long = ended(took=3 * 3600)
    assert next_run(QUARTERS, long, now=NOW, chance=0.0) == Due(NOW, "cron")
    made_up = LastRun(NOW, NOW + 1, 0)
    assert next_run(QUARTERS, made_up, now=NOW + 1, chance=0.0) == Due(NOW + 900, "cron")


def test_a_run_that_started_before_a_time_does_not_count_for_it() -> None:
    nightly = Timetable(Crontab("0 3 * * *"))
    by_hand = LastRun(at("2026-11-22T02:59:50"), at("2026-11-22T03:05:00"), 0)
    due = next_run(nightly, by_hand, now=at("2026-11-22T03:05:00"), chance=0.0)
    assert due == Due(at("2026-11-22T03:05:00"), "cron")


@pytest.mark.parametrize("timetable", [EVERY_5_MINUTES, QUARTERS], ids=["interval", "crontab"])
def test_a_process_that_slept_for_days_runs_once(timetable: Timetable) -> None:
    assert next_run(timetable, ended(ago=5 * DAY), now=NOW, chance=0.5).at == NOW
    assert next_run(timetable, LastRun(NOW, NOW, 0), now=NOW, chance=0.5).at > NOW


def test_a_clock_that_is_put_back_by_a_day_lengthens_no_wait() -> None:
    tomorrow = LastRun(NOW + DAY - 10, NOW + DAY, 0)
    assert next_run(EVERY_5_MINUTES, tomorrow, now=NOW, chance=0.5) == Due(NOW + 315, "interval")
    assert next_run(QUARTERS, tomorrow, now=NOW, chance=0.5) == Due(NOW + 900, "cron")
    failed = LastRun(NOW + DAY - 10, NOW + DAY, ExitCode.BEHIND, failures=50)
    assert next_run(Timetable(DAY), failed, now=NOW, chance=0.5).at < NOW + LONGEST_RETRY_SECONDS
    busy = LastRun(NOW + DAY - 10, NOW + DAY, ExitCode.BUSY)
    assert next_run(Timetable(DAY), busy, now=NOW, chance=0.5) == Due(NOW + 35, "retry")


BERLIN, NEW_YORK = "Europe/Berlin", "America/New_York"


@pytest.mark.parametrize(
    "zone, expression, after, times",
    [
        # 29 March 2026: from 02:00 to 03:00 there is no time of day in Berlin; 8 March in New York.
        (BERLIN, "30 2 * * *", "2026-03-28T12:00", ["2026-03-29T03:00+02:00", "2026-03-30T02:30+02:00"]),
        (BERLIN, "*/30 * * * *", "2026-03-29T01:10", ["2026-03-29T01:30+01:00", "2026-03-29T03:00+02:00"]),
        (BERLIN, "0 5 * * *", "2026-03-28T12:00", ["2026-03-29T05:00+02:00", "2026-03-30T05:00+02:00"]),
        (NEW_YORK, "30 2 * * SUN", "2026-03-07T12:00", ["2026-03-08T03:00-04:00", "2026-03-15T02:30-04:00"]),
        # 25 October 2026: from 02:00 to 03:00 comes twice in Berlin; 1 November, from 01:00, in New York.
        (BERLIN, "30 2 * * *", "2026-10-24T12:00", ["2026-10-25T02:30+02:00", "2026-10-26T02:30+01:00"]),
        (BERLIN, "30 2 * * *", "2026-10-25T02:10+01:00", ["2026-10-26T02:30+01:00"]),
        (
            BERLIN,
            "*/30 * * * *",
            "2026-10-25T02:10+02:00",
            ["2026-10-25T02:30+02:00", "2026-10-25T02:00+01:00", "2026-10-25T02:30+01:00", "2026-10-25T03:00+01:00"],
        ),
        (NEW_YORK, "15 1 * * *", "2026-10-31T12:00", ["2026-11-01T01:15-04:00", "2026-11-02T01:15-05:00"]),
        (NEW_YORK, "15 1 * * *", "2026-11-01T01:05-05:00", ["2026-11-02T01:15-05:00"]),
        # Days that not every year, or month, has.
        ("UTC", "0 0 29 2 *", "2026-03-01T00:00", ["2028-02-29T00:00+00:00", "2032-02-29T00:00+00:00"]),
        ("UTC", "0 0 29 2 *", "2096-02-29T00:00", ["2104-02-29T00:00+00:00"]),  # 2100 has none
        ("UTC", "0 0 31 * *", "2026-04-01T00:00", ["2026-05-31T00:00+00:00", "2026-07-31T00:00+00:00"]),
        ("UTC", "0 0 L 2 *", "2027-03-01T00:00", ["2028-02-29T00:00+00:00", "2029-02-28T00:00+00:00"]),
    ],
)
def test_a_crontab_is_right_where_clocks_are_changed(zone: str, expression: str, after: str, times: list[str]) -> None:
    crontab, time = Crontab(check_cron(expression), zone), at(after, zone)
    for expected in times:
        time = crontab.next_after(time)
        assert told(time, zone) == expected


# --- verification -----------------------------------------------------------------------------------

SUNDAYS = Crontab("0 3 * * SUN")


def test_nothing_is_verified_that_nobody_asked_for() -> None:
    assert next_reconcile(None, None, since=NOW, now=NOW) is None


def test_the_first_verification_waits_for_its_time() -> None:
    due = next_reconcile(SUNDAYS, None, since=at("2026-11-20T12:00"), now=at("2026-11-20T13:00"))
    assert due == Due(at("2026-11-22T03:00"), "cron")


def test_a_missed_verification_is_made_up_once() -> None:
    now = at("2026-11-22T18:00")
    missed = next_reconcile(SUNDAYS, at("2026-11-01T03:00"), since=now, now=now)
    assert missed == Due(now, "cron")
    assert next_reconcile(SUNDAYS, now, since=now, now=now) == Due(at("2026-11-29T03:00"), "cron")


def test_a_verification_in_the_future_does_not_put_off_the_next() -> None:
    now = at("2026-11-22T18:00")
    assert next_reconcile(SUNDAYS, now + 400 * DAY, since=now, now=now) == Due(at("2026-11-29T03:00"), "cron")


# --- what always holds ------------------------------------------------------------------------------

TIMES = st.floats(min_value=at("1999-01-01T00:00"), max_value=at("2090-01-01T00:00"))
CHANCES = st.floats(min_value=0, max_value=1, exclude_max=True)
ZONES = st.sampled_from([BERLIN, NEW_YORK, "UTC", "Australia/Lord_Howe", "Africa/Cairo", "Asia/Kathmandu"])


@st.composite
def fields(draw: st.DrawFn, low: int, high: int) -> str:
    """One field of a crontab, of any shape."""
    numbers = sorted(draw(st.lists(st.integers(low, high), min_size=2, max_size=3, unique=True)))
    shapes = ["*", f"*/{draw(st.sampled_from([2, 3, 5, 7]))}", str(numbers[0]), f"{numbers[0]}-{numbers[-1]}"]
    return draw(st.sampled_from([*shapes, ",".join(map(str, numbers))]))


@st.composite
def crontabs(draw: st.DrawFn) -> Crontab:
    expression = f"{draw(fields(0, 59))} {draw(fields(0, 23))} {draw(fields(1, 28))} * {draw(fields(0, 6))}"
    return Crontab(check_cron(expression), draw(ZONES))


RUNS = st.builds(
    lambda start, seconds, code, failures, jobs: LastRun(start, start + seconds, code, failures, jobs),
    TIMES,
    st.floats(min_value=0, max_value=3 * DAY),
    st.sampled_from([*map(int, ExitCode), BUG, INTERRUPTED]),
    st.integers(0, 2_000),
    st.booleans(),
)
INTERVALS = st.builds(Timetable, st.floats(min_value=1, max_value=366 * DAY), st.floats(min_value=0, max_value=1))


@given(INTERVALS, RUNS, TIMES, CHANCES)
def test_an_interval_never_keeps_a_sync_waiting_for_longer_than_itself(
    timetable: Timetable, last: LastRun, now: float, chance: float
) -> None:
    due = next_run(timetable, last, now=now, chance=chance)
    assert now <= due.at <= now + timetable.longest_wait_seconds(now) + 1e-3


@given(INTERVALS, RUNS, CHANCES)
def test_jitter_and_backoff_keep_their_bounds(timetable: Timetable, last: LastRun, chance: float) -> None:
    waited = next_run(timetable, last, now=last.ended_at, chance=chance).at - last.ended_at
    assert isinstance(timetable.every, float)
    slack = 1e-3
    if last.exit_code == ExitCode.BUSY:
        assert min(timetable.every, BUSY_SECONDS[0]) - slack <= waited <= BUSY_SECONDS[1] + slack
        return
    assert waited >= min(timetable.every, LEAST_RETRY_SECONDS if has_failed(last.exit_code) else 30.0) - slack
    assert waited <= timetable.every * (1 + timetable.jitter) + slack
    if has_failed(last.exit_code):
        assert waited <= LONGEST_RETRY_SECONDS + slack
    elif not last.open_jobs:
        assert waited >= timetable.every - slack


@settings(deadline=None)
@given(crontabs(), RUNS, TIMES, CHANCES)
def test_a_crontab_never_starves_a_sync_and_is_never_in_the_past(
    crontab: Crontab, last: LastRun, now: float, chance: float
) -> None:
    due = next_run(Timetable(crontab), last, now=now, chance=chance)
    assert now <= due.at <= crontab.next_after(now)


@settings(deadline=None)
@given(crontabs(), TIMES)
@example(Crontab("30 2 * * *", BERLIN), at("2026-10-25T02:15+01:00"))  # 02:30 was over: the first one counts
def test_each_time_of_a_crontab_comes_after_the_one_before(crontab: Crontab, now: float) -> None:
    first = crontab.next_after(now)
    second = crontab.next_after(first)
    assert now < first < second
    assert crontab.next_after((first + second) / 2) == second


@settings(deadline=None)
@given(st.one_of(INTERVALS, st.builds(Timetable, crontabs())), RUNS, TIMES, CHANCES)
def test_what_is_missed_comes_once(timetable: Timetable, last: LastRun, now: float, chance: float) -> None:
    due = next_run(timetable, last, now=now, chance=chance)
    if due.at == now:  # it is run, and ends well at once
        assert next_run(timetable, LastRun(now, now, 0), now=now, chance=chance).at > now


@settings(deadline=None)
@given(st.one_of(INTERVALS, st.builds(Timetable, crontabs())), RUNS, TIMES, CHANCES)
def test_waiting_does_not_put_off_what_is_waited_for(
    timetable: Timetable, last: LastRun, now: float, chance: float
) -> None:
    now = max(now, last.ended_at)
    due = next_run(timetable, last, now=now, chance=chance)
    half_way = (now + due.at) / 2
    assert next_run(timetable, last, now=half_way, chance=chance) == due


# --- what the settings may say ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "written, seconds",
    [
        ("90s", 90),
        ("5m", 300),
        ("2h", 7200),
        ("1d", DAY),
        ("1h30m", 5400),
        ("1d 2h", DAY + 7200),
        (" 5 M ", 300),
        ("1.5h", 5400),
        ("366d", 366 * DAY),
        ("90", 90),
        (90, 90),
        (1.5, 1.5),
    ],
)
def test_lengths_of_time_are_read(written: str | float, seconds: float) -> None:
    assert parse_duration(written) == seconds


@pytest.mark.parametrize("written", ["", " ", "soon", "5 minutes", "m", "1m1h", "-5m", "+5m", "5m5m", "1e9", "²s"])
def test_what_is_no_length_of_time_is_refused_without_being_told(written: str) -> None:
    with pytest.raises(ValueError, match="should be a length of time") as told:
        parse_duration(written)
    assert not written.strip() or f'"{written}"' not in str(told.value)


@pytest.mark.parametrize("written", [0, "0s", "0.5s", "367d", 1e300, float("inf"), float("nan"), "999999999999d"])
def test_a_length_of_time_has_bounds(written: str | float) -> None:
    with pytest.raises(ValueError, match="between 1 second and 366 days"):
        parse_duration(written)


def test_what_is_true_is_no_length_of_time() -> None:
    with pytest.raises(ValueError, match="should be a length of time"):
        parse_duration(True)


@given(st.integers(1, 366 * 86_400))
def test_a_length_of_time_that_is_written_is_read_back(seconds: int) -> None:
    assert parse_duration(duration_in_words(seconds)) == seconds


def test_a_cron_expression_loses_needless_spaces() -> None:
    assert check_cron("  0  3 * *\tsun ") == "0 3 * * sun"


@pytest.mark.parametrize(
    "expression, wrong",
    [
        ("", "five fields"),
        ("@daily", "five fields"),
        ("0 0 3 * * *", "five fields"),  # with seconds
        ("61 * * * *", "has a wrong minute;"),
        ("* 24 * * *", "has a wrong hour;"),
        ("0 0 30 2 *", "has a wrong day-of-month;"),
        ("0 0 * 13 *", "has a wrong month;"),
        ("0 0 * * FRY", "has a wrong day-of-week;"),
        ("*/0 * * * *", "has a wrong minute;"),
        ("0 0 */29 2 SUN#5", "a day that never comes"),
    ],
)
def test_a_wrong_cron_expression_is_refused_by_its_field(expression: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        check_cron(expression)


@pytest.mark.parametrize("name", ["", "Berlin", "Europe", "../UTC", "/etc/localtime", "Europe/Berlin\0", "x" * 300])
def test_what_is_no_time_zone_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="should be a time zone"):
        check_time_zone(name)


def test_a_misspelt_time_zone_gets_a_proposal() -> None:
    assert check_time_zone("Europe/Berlin") == "Europe/Berlin"
    with pytest.raises(ValueError, match='did you mean "Europe/Berlin"'):
        check_time_zone("Europe/Berlim")


def test_without_the_extra_a_crontab_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cronsim", None)
    with pytest.raises(ValueError, match=r"pip install .vector-sync\[service\]"):
        check_cron("* * * * *")


def test_the_longest_wait_is_what_late_is_measured_by() -> None:
    assert EVERY_5_MINUTES.longest_wait_seconds(NOW) == pytest.approx(330)
    assert QUARTERS.longest_wait_seconds(NOW) == 900
    office = Timetable(Crontab("*/15 9-17 * * MON-FRI"))
    assert office.longest_wait_seconds(NOW) == 63.25 * 3600, "from Friday evening to Monday morning"
