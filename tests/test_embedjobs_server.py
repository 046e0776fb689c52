"""The service as a process: how it starts, or says why not; how it stops; and that neither loses anything."""

from __future__ import annotations

import json
import resource
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from urllib.parse import urlsplit

import httpx
import pytest
from embedjobs_fakes import CountingModel
from embedjobs_service import AsProcess, as_process, eventually, in_thread, right, settings

from connector.embedjobs.models import Catalogue
from connector.embedjobs.server import Service, serve
from connector.errors import ConfigError, LeaseError
from connector.sections import EmbedJobsSettings
from connector.serving.listening import listener_on

CATALOGUE = Catalogue([CountingModel()], {})
KEY = "the-key-of-the-tests"
MANY_ROWS = b"".join(b'{"text": "row %d", "n": %d}\n' % (number, number) for number in range(3000))


def refusal(made: EmbedJobsSettings) -> str:
    """Try to serve; why not."""
    with pytest.raises(ConfigError) as caught:
        serve(made, catalogue=CATALOGUE)
    return str(caught.value)


# --- the start --------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com", ""])
def test_strangers_are_not_served_without_a_key(tmp_path: Path, host: str) -> None:
    message = refusal(settings(tmp_path, host=host))
    assert message.startswith(f"serving {host} needs a key")
    assert not (tmp_path / "embed-jobs").exists()


@pytest.mark.parametrize("key", ["", "  ", " key", "key\n"])
def test_a_key_that_no_client_can_send_is_refused(tmp_path: Path, key: str) -> None:
    message = refusal(settings(tmp_path, api_key=key))
    assert message.startswith("the key of the service ")


@pytest.mark.parametrize("url", ["embed.example.com", "ftp://x", "https://", "https://x/?a=b", "https://x/#a"])
def test_a_public_address_that_is_none_is_refused(tmp_path: Path, url: str) -> None:
    assert refusal(settings(tmp_path, public_url=url)).startswith(f'public_url "{url}" is no address')


def test_a_port_in_use_is_told_in_a_line(tmp_path: Path) -> None:
    with listener_on("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        message = refusal(settings(tmp_path, port=port))
    assert message == f"port {port} of 127.0.0.1 is in use; stop what listens there, or name another port"


def test_a_host_that_is_not_this_machine_is_told_in_a_line(tmp_path: Path) -> None:
    message = refusal(settings(tmp_path, host="192.0.2.1", api_key=KEY))
    assert message.startswith("cannot listen on 192.0.2.1: ")
    assert message.endswith("; name an address of this machine")


def test_an_alias_of_nothing_is_told_before_anything_is_opened(tmp_path: Path) -> None:
    made = settings(tmp_path, aliases={"embed-english-v3.0": "nothing"})
    with pytest.raises(ConfigError, match=r"embed-english-v3\.0"):
        serve(made)
    assert not made.path.exists()


def test_a_folder_has_one_service_at_a_time(tmp_path: Path) -> None:
    with in_thread(tmp_path), pytest.raises(LeaseError, match="another service has"):
        serve(settings(tmp_path), catalogue=CATALOGUE)


def test_what_cannot_start_lets_go_of_its_port_and_folder(tmp_path: Path) -> None:
    with listener_on("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    with in_thread(tmp_path), pytest.raises(LeaseError):
        serve(settings(tmp_path, port=port), catalogue=CATALOGUE)
    with in_thread(tmp_path, port=port) as service:
        assert service.url == f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("host, url", [("127.0.0.1", "http://127.0.0.1:"), ("localhost", "http://127.0.0.1:")])
def test_a_service_says_where_it_listens(tmp_path: Path, host: str, url: str) -> None:
    with in_thread(tmp_path, host=host) as service:
        assert service.url.startswith(url)
        assert httpx.get(f"{service.url}/ready").json() == {}
        (line,) = service.lines("started")
    assert (line["url"], line["models"]) == (service.url, ["hash", "hash-wide"])


def test_a_service_listens_on_the_sixth_version_too(tmp_path: Path) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with in_thread(tmp_path, host="::1") as service:
        assert service.url.startswith("http://[::1]:")
        assert httpx.get(f"{service.url}/ready").status_code == 200


def test_answers_are_not_held_back_for_more(tmp_path: Path) -> None:
    with listener_on("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP  # what asyncio looks at before it turns Nagle's algorithm off


# --- the stop ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_service_in_order(tmp_path: Path, number: signal.Signals) -> None:
    with as_process(tmp_path) as service:
        service.settled(service.upload())
        service.process.send_signal(number)
        assert service.process.wait(30) == 0
        assert [line["event"] for line in service.lines()][-1] == "stopped"
    with as_process(tmp_path) as service:
        assert len(right(service.client().get("/v1/datasets"))["datasets"]) == 1


def test_a_job_goes_on_where_it_was_when_the_service_is_stopped(tmp_path: Path) -> None:
    texts_log = tmp_path / "texts"
    with as_process(tmp_path, texts_log=texts_log, texts_per_second=1000) as service:
        dataset = service.upload(MANY_ROWS, keep_fields=["n"])
        assert service.settled(dataset)["validation_status"] == "validated"
        job = service.start(dataset)
        eventually(lambda: service.lines("BlockEmbedded"))
        service.process.terminate()
        assert service.process.wait(30) == 0
        assert not service.lines("JobEnded")
    with as_process(tmp_path, texts_log=texts_log) as service:
        ended = service.ended(job)
        assert ended["status"] == "complete"
        result = service.settled(ended["output_dataset_id"])
    assert sum(part["num_rows"] for part in result["dataset_parts"]) == 3000
    embedded = texts_log.read_text().splitlines()
    assert len(set(embedded)) == 3000
    assert len(embedded) < 3000 + 1000  # what was saved is not embedded again: of a block at most, which was cut short


def test_a_killed_service_goes_on_as_well(tmp_path: Path) -> None:
    with as_process(tmp_path, texts_per_second=1000) as service:
        dataset = service.upload(MANY_ROWS)
        service.settled(dataset)
        job = service.start(dataset)
        eventually(lambda: service.lines("BlockEmbedded"))
        service.process.kill()
        service.process.wait(30)
    with as_process(tmp_path) as service:
        assert service.ended(job)["status"] == "complete"


def test_requests_are_finished_before_the_service_stops(tmp_path: Path) -> None:
    gate = Event()
    model = CountingModel(gate=gate)
    with in_thread(tmp_path, models=[model]) as service, ThreadPoolExecutor(1) as pool:
        asked = {"model": "hash", "texts": ["one"], "input_type": "search_query"}
        answer = pool.submit(service.client().post, "/v1/embed", json=asked)
        assert model.entered.wait(30)
        service.service.stop()
        eventually(lambda: refuses(service.url))
        gate.set()
        assert answer.result(30).status_code == 200


def refuses(url: str) -> bool:
    address = urlsplit(url)
    try:
        socket.create_connection((str(address.hostname), address.port or 0), timeout=30).close()
    except ConnectionRefusedError:
        return True
    return False


def test_an_upload_that_the_stop_cuts_off_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connector.embedjobs.server.GRACE_SECONDS", 0)
    with in_thread(tmp_path) as service:
        address = urlsplit(service.url)
        with socket.create_connection((str(address.hostname), address.port or 0), timeout=30) as connection:
            connection.sendall(
                b"POST /v1/datasets?name=a&type=embed-input HTTP/1.1\r\nHost: here\r\nContent-Length: 1000\r\n"
                b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
            )
            uploads = service.folder / "uploads"
            eventually(lambda: list(uploads.iterdir()))
            service.service.stop()
            eventually(lambda: not list(uploads.iterdir()))


# --- trouble ----------------------------------------------------------------------------------------


def limit_files(service: AsProcess, size_bytes: int) -> None:
    """Let no file of the service grow beyond a size, as on a disk that is full."""
    _, most = resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, (size_bytes, most))


def test_a_disk_that_takes_no_more_refuses_an_upload_and_nothing_else(tmp_path: Path) -> None:
    with as_process(tmp_path) as service:
        kept = service.upload()
        service.settled(kept)
        http = service.client()
        limit_files(service, 5_000_000)
        answer = http.post(
            "/v1/datasets",
            params={"name": "n", "type": "embed-input"},
            files={"data": ("data.jsonl", b"x" * 10_000_000)},
        )
        assert answer.status_code == 503
        assert 1 <= int(answer.headers["Retry-After"]) <= 60
        assert answer.json().keys() == {"message", "id"}
        assert str(tmp_path) not in answer.text
        assert list((service.folder / "uploads").iterdir()) == []
        (line,) = eventually(lambda: [it for it in service.lines("request") if it["status"] == 503])
        assert "cannot keep an upload" in line["reason"]
        limit_files(service, resource.RLIM_INFINITY)
        service.settled(service.upload())
        assert right(http.get(f"/v1/datasets/{kept}"))["dataset"]["validation_status"] == "validated"


def test_the_key_is_nowhere_to_be_read(tmp_path: Path) -> None:
    with as_process(tmp_path, api_key=KEY) as service:
        service.settled(service.upload())
        service.client(key="wrong").get("/v1/datasets")
        service.client().get("/metrics")
        service.process.terminate()
        service.process.wait(30)
        assert service.lines("stopped")
    texts = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert texts
    assert not [text for text in texts if KEY.encode() in text]


def test_every_line_of_the_log_is_json(tmp_path: Path) -> None:
    with as_process(tmp_path) as service:
        address = urlsplit(service.url)
        with socket.create_connection((str(address.hostname), address.port or 0), timeout=30) as connection:
            connection.sendall(b"nonsense\r\n\r\n")
            assert connection.recv(65536)
        service.client().post(
            "/v1/datasets",
            params={"name": "n", "type": "embed-input"},
            content=b"--b\r\nnonsense",
            headers={"Content-Type": "multipart/form-data; boundary=b"},
        )
        service.process.terminate()
        service.process.wait(30)
    lines = [json.loads(line) for line in service.log_path.read_text().splitlines()]
    assert "Invalid HTTP request received." in [line["event"] for line in lines]
    assert all({"event", "level", "timestamp"} <= line.keys() for line in lines)


def test_a_service_goes_on_when_nobody_reads_its_log(tmp_path: Path) -> None:
    class Broken:
        def write(self, text: str) -> int:
            raise BrokenPipeError

        def flush(self) -> None:
            raise BrokenPipeError

    stream: object = Broken()
    with (
        Service.open(settings(tmp_path), catalogue=CATALOGUE, log_stream=stream) as service,  # type: ignore[arg-type]
        ThreadPoolExecutor(1) as pool,
    ):
        running = pool.submit(service.run)
        assert httpx.get(f"{service.url}/v1/datasets").status_code == 200
        service.stop()
        running.result(30)
