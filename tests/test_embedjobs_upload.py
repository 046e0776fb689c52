"""Uploads, from the socket to the file: whatever clients send, and however they leave."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from embedjobs_service import ROWS, InThread, as_process, eventually, in_thread, right

from connector.embedjobs.refusals import BadRequestError, TooLargeError
from connector.embedjobs.upload import FRAMING_BYTES, StalledError, Uploads

BOUNDARY = "xBOUNDARYx"
FORM = f"multipart/form-data; boundary={BOUNDARY}"
UPLOAD = {"name": "sample", "type": "embed-input"}
LIMIT_BYTES = 1_000_000


def part(content: bytes, name: str = "data", file: str = 'filename="data.jsonl"') -> bytes:
    disposition = f'form-data; name="{name}"' + (f"; {file}" if file else "")
    return f"--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\n\r\n".encode() + content + b"\r\n"


def body(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def receive(
    sent: bytes, to: Path, *, chunk_bytes: int = 65536, content_type: str = FORM, max_bytes: int = LIMIT_BYTES
) -> str:
    """Receive a body that comes in chunks; the name of its file."""

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(sent), chunk_bytes):
            yield sent[start : start + chunk_bytes]

    return asyncio.run(Uploads(max_bytes=max_bytes).receive(chunks(), content_type=content_type, to=to))


@pytest.fixture
def to(tmp_path: Path) -> Path:
    return tmp_path / "upload"


# --- the body ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_bytes", [1, 2, 7, 64, 65536])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        ROWS,
        b"\r\n",
        f"\r\n--{BOUNDARY[:-1]}\r\n--{BOUNDARY[:4]}\r\r\n-\r\n--".encode(),
        f"--{BOUNDARY}".encode(),
        bytes(range(256)) * 3,
    ],
)
def test_a_file_is_written_byte_for_byte_however_it_comes(to: Path, content: bytes, chunk_bytes: int) -> None:
    assert receive(body(part(content)), to, chunk_bytes=chunk_bytes) == "data.jsonl"
    assert to.read_bytes() == content


def test_a_file_of_many_writes_is_written_byte_for_byte(to: Path) -> None:
    content = os.urandom(5_000_001)
    receive(body(part(content)), to, max_bytes=len(content))
    assert to.read_bytes() == content


@pytest.mark.parametrize("name", ["data", "file"])
@pytest.mark.parametrize("other", ["eval_data", "eval_file"])
@pytest.mark.parametrize("is_first", [True, False])
def test_the_file_is_taken_and_an_evaluation_file_dropped(to: Path, name: str, other: str, is_first: bool) -> None:
    parts = [part(b"taken", name, 'filename="a.csv"'), part(b"dropped", other, 'filename="b.csv"')]
    assert receive(body(*(parts if is_first else reversed(parts))), to) == "a.csv"
    assert to.read_bytes() == b"taken"


@pytest.mark.parametrize(
    "disposition, name",
    [
        ('filename="data.jsonl"', "data.jsonl"),
        ("", ""),
        ('filename="/srv/me/data.jsonl"', "data.jsonl"),
        ('filename="C:\\\\data\\\\rows.csv"', "rows.csv"),
        ('filename="../../etc/passwd"', "passwd"),
        ('filename="日本語.csv"', "日本語.csv"),
        ("filename*=utf-8''na%C3%AFve.csv", "naïve.csv"),
        ("filename*=UTF-8'en'na%C3%AFve.csv", "naïve.csv"),
        ("filename=\"plain.csv\"; filename*=utf-8''other.csv", "plain.csv"),
        ('filename="a\x01\x00b.csv"', "ab.csv"),
        ('filename="' + "n" * 300 + '.jsonl"', "n" * 194 + ".jsonl"),
    ],
)
def test_a_file_is_called_what_the_client_calls_it_without_its_folders(to: Path, disposition: str, name: str) -> None:
    assert receive(body(part(ROWS, file=disposition)), to) == name


@pytest.mark.parametrize(
    "sent, message",
    [
        (body(part(b"x", "dataset")), "You used an invalid parameter for part: dataset use file or an evaluation file"),
        (body(part(b"x"), part(b"x", "file")), "two files"),
        (body(part(b"x", "eval_data")), "a file is needed"),
        (body(*[part(b"", "eval_data")] * 5), "more than 4 parts"),
        (b"", "a file is needed"),
        (body(), "a file is needed"),
        (part(ROWS), "ended before its last boundary"),
        (body(part(ROWS))[:-6], "ended before its last boundary"),
        (b"{}", "cannot be read"),
        (f"--{BOUNDARY}\r\nno header\r\n\r\n".encode(), "cannot be read"),
        (f"--{BOUNDARY}\r\nA: {'b' * 5000}\r\n\r\n".encode(), "cannot be read"),
        (f"--{BOUNDARY}\r\n\r\nx\r\n--{BOUNDARY}--".encode(), "You used an invalid parameter for part:  use file"),
    ],
)
def test_a_body_that_is_no_upload_is_refused_and_leaves_nothing(to: Path, sent: bytes, message: str) -> None:
    with pytest.raises(BadRequestError, match=message):
        receive(sent, to)
    assert not to.exists()


@pytest.mark.parametrize(
    "content_type", ["", "application/json", "multipart/form-data", "multipart/form-data; boundary=", "multipart/mixed"]
)
def test_a_body_of_another_kind_is_refused(to: Path, content_type: str) -> None:
    with pytest.raises(BadRequestError, match="send it as multipart/form-data, in a part that is called data"):
        receive(body(part(ROWS)), to, content_type=content_type)


def test_a_boundary_that_is_too_long_is_refused(to: Path) -> None:
    with pytest.raises(BadRequestError, match="cannot be read: boundary length 300"):
        receive(b"x", to, content_type=f"multipart/form-data; boundary={'b' * 300}")


def test_the_cap_is_on_the_file_and_exact(to: Path) -> None:
    receive(body(part(b"x" * LIMIT_BYTES)), to)
    with pytest.raises(TooLargeError, match=f"larger than the limit of {LIMIT_BYTES} bytes"):
        receive(body(part(b"x" * (LIMIT_BYTES + 1))), to.with_name("other"))
    assert not to.with_name("other").exists()


@pytest.mark.parametrize("sent", [b"\r\n" * LIMIT_BYTES, body(part(b"x")) + b" " * 2 * LIMIT_BYTES])
def test_what_is_around_the_parts_is_capped_too(to: Path, sent: bytes) -> None:
    with pytest.raises(TooLargeError):
        receive(sent, to)
    assert not to.exists()


def test_a_client_that_sends_nothing_more_is_given_up(to: Path) -> None:
    async def stall() -> None:
        async def chunks() -> AsyncIterator[bytes]:
            yield part(ROWS)
            await asyncio.Event().wait()

        await Uploads(max_bytes=LIMIT_BYTES, stall_seconds=0.01).receive(chunks(), content_type=FORM, to=to)

    with pytest.raises(StalledError, match=r"nothing came for 0\.01 seconds"):
        asyncio.run(stall())
    assert not to.exists()


def test_an_upload_that_is_called_off_leaves_nothing(to: Path) -> None:
    async def call_off() -> None:
        begun = asyncio.Event()

        async def chunks() -> AsyncIterator[bytes]:
            yield part(b"x" * LIMIT_BYTES)
            begun.set()
            await asyncio.Event().wait()

        uploads = Uploads(max_bytes=2 * LIMIT_BYTES)
        task = asyncio.create_task(uploads.receive(chunks(), content_type=FORM, to=to))
        await begun.wait()
        assert await asyncio.to_thread(to.exists)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(call_off())
    assert not to.exists()


# --- the service ------------------------------------------------------------------------------------


@pytest.fixture
def service(tmp_path: Path) -> Iterator[InThread]:
    with in_thread(tmp_path, max_dataset_bytes=LIMIT_BYTES) as service:
        yield service


def connect(service: InThread) -> socket.socket:
    address = urlsplit(service.url)
    assert address.hostname
    assert address.port
    return socket.create_connection((address.hostname, address.port), timeout=30)


def head(length: int | None, path: str = "/v1/datasets?name=sample&type=embed-input", **more: str) -> bytes:
    headers = {"Host": "here", "Content-Type": FORM} | more
    headers |= {"Transfer-Encoding": "chunked"} if length is None else {"Content-Length": str(length)}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode()


def answer(connection: socket.socket) -> str:
    """Read until the service closes the connection."""
    received = b""
    while chunk := connection.recv(65536):
        received += chunk
    return received.decode()


def uploads_left(service: InThread) -> list[str]:
    return [path.name for path in (service.folder / "uploads").iterdir()]


def stored(service: InThread, id: str) -> bytes:
    """The upload of a dataset, as it was kept."""
    dataset = service.settled(id)
    with httpx.Client() as plain:
        return plain.get(dataset["dataset_parts"][0]["original_url"]).content


def test_an_upload_is_kept_as_it_came(service: InThread) -> None:
    id = service.upload(keep_original_file=True)
    assert stored(service, id) == ROWS
    assert uploads_left(service) == []


def test_an_upload_of_unknown_length_is_taken(service: InThread) -> None:
    def chunks() -> Iterator[bytes]:
        sent = body(part(ROWS))
        for start in range(0, len(sent), 5):
            yield sent[start : start + 5]

    answered = service.client().post(
        "/v1/datasets", params=UPLOAD | {"keep_original_file": True}, content=chunks(), headers={"Content-Type": FORM}
    )
    assert answered.request.headers["transfer-encoding"] == "chunked"
    assert stored(service, right(answered)["id"]) == ROWS


@pytest.mark.parametrize("length", [100_000, None], ids=["of known length", "chunked"])
def test_an_upload_that_breaks_off_leaves_nothing_and_the_service_goes_on(
    service: InThread, length: int | None
) -> None:
    with connect(service) as connection:
        connection.sendall(head(length) + (b"2000\r\n" if length is None else b"") + part(ROWS * 50))
        eventually(lambda: uploads_left(service))
    eventually(lambda: not uploads_left(service))
    assert service.client().get("/v1/datasets").json() == {"datasets": []}
    service.settled(service.upload())
    (line,) = eventually(lambda: [line for line in service.lines("request") if line["status"] == 499])
    assert line["route"] == "/datasets"


def test_a_file_that_is_declared_too_large_is_refused_unread(service: InThread) -> None:
    with connect(service) as connection:
        connection.sendall(head(LIMIT_BYTES + FRAMING_BYTES + 1))
        received = answer(connection)
    assert received.startswith("HTTP/1.1 413 ")
    assert f"the file is larger than the limit of {LIMIT_BYTES} bytes" in received
    assert "connection: close" in received
    assert '"id":"' in received


def test_a_file_that_turns_out_too_large_is_refused_while_it_comes(service: InThread) -> None:
    sent_bytes = 0

    def chunks() -> Iterator[bytes]:
        nonlocal sent_bytes
        yield part(b"")[:-2]
        for _ in range(5000):
            sent_bytes += 65536
            yield b"x" * 65536

    answered = service.client().post("/v1/datasets", params=UPLOAD, content=chunks(), headers={"Content-Type": FORM})
    assert answered.status_code == 413
    assert answered.json()["message"] == (
        f"the file is larger than the limit of {LIMIT_BYTES} bytes; split it into several datasets"
    )
    assert answered.headers["connection"] == "close"
    assert sent_bytes < 200_000_000  # of 327 million: the rest was not read for ever
    assert uploads_left(service) == []


def test_a_file_of_just_the_limit_is_taken(service: InThread) -> None:
    service.upload(b"x" * LIMIT_BYTES)


def test_a_client_without_the_key_is_refused_before_it_sends_the_file(tmp_path: Path) -> None:
    with in_thread(tmp_path, api_key="secret") as service, connect(service) as connection:
        connection.sendall(head(1_000_000_000))
        received = answer(connection)
        assert received.startswith("HTTP/1.1 401 ")
        assert "connection: close" in received


def test_a_client_that_falls_silent_is_answered_and_let_go(tmp_path: Path) -> None:
    with in_thread(tmp_path, stall_seconds=0.1) as service, connect(service) as connection:
        connection.sendall(head(100_000) + part(ROWS))
        received = answer(connection)
        assert received.startswith("HTTP/1.1 408 ")
        assert uploads_left(service) == []


def test_uploads_at_the_same_time_do_not_mix(service: InThread) -> None:
    contents = [f'{{"text": "file {number}"}}\n'.encode() * 2000 for number in range(12)]
    together = threading.Barrier(len(contents))

    def send(content: bytes) -> str:
        together.wait(30)
        return service.upload(content, keep_original_file=True)

    with ThreadPoolExecutor(len(contents)) as pool:
        ids = list(pool.map(send, contents))
    assert len(set(ids)) == len(contents)
    assert [stored(service, id) for id in ids] == contents


def test_an_unknown_part_is_refused_in_the_hosted_services_words(service: InThread) -> None:
    answered = service.client().post("/v1/datasets", params=UPLOAD, files={"upload": ("data.jsonl", ROWS)})
    assert answered.status_code == 400
    assert answered.json()["message"] == (
        "You used an invalid parameter for part: upload use file or an evaluation file"
    )
    assert uploads_left(service) == []


@pytest.mark.slow
def test_a_large_upload_takes_little_memory(tmp_path: Path) -> None:
    size_bytes = 300_000_000
    line = b'{"text": "' + b"x" * 980 + b'"}\n'
    block = line * 1000

    def chunks() -> Iterator[bytes]:
        yield part(b"")[:-2]
        for _ in range(size_bytes // len(block)):
            yield block
        yield body(b"\r\n")

    with as_process(tmp_path) as service, service.client() as client:
        service.settled(service.upload())  # whatever is loaded at the first time
        before_bytes = peak_bytes(service.process.pid)
        answered = client.post("/v1/datasets", params=UPLOAD, content=chunks(), headers={"Content-Type": FORM})
        after_bytes = peak_bytes(service.process.pid)
        right(answered)
    assert after_bytes - before_bytes < 60_000_000


def peak_bytes(process: int) -> int:
    """The most memory that a process has had so far."""
    status = Path(f"/proc/{process}/status").read_text()
    (kilobytes,) = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(kilobytes) * 1024
