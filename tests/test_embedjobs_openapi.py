"""The service does what its own OpenAPI document says, whatever is sent to it, and never fails by itself.

Schemathesis makes the requests from the document: right ones, wrong ones, those at the edges of what is right, and
chains of them; the same in every run. It runs as a command, since its schemas from fixtures fail within pytest 9.2.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urljoin, urlsplit

import pytest
import requests
import schemathesis
from embedjobs_service import ROWS, InThread, in_thread

KEY: Final = "the-key-of-the-tests"
MODEL: Final = "embed-english-v3.0"
EXAMPLES: Final = 20  # of each operation; besides all those at the edges of its parameters
LEFT_OUT: Final = {
    "positive_data_acceptance": "it cannot say all that is refused: neither texts nor inputs, a field named twice",
    "allow_header_conformance": "/v1/datasets/usage is also the address of a dataset, which could be deleted",
}


@pytest.mark.slow
def test_every_answer_is_as_the_document_says(tmp_path: Path) -> None:
    # "0" is what requests at the edges call a model, whatever they are told.
    with in_thread(tmp_path, api_key=KEY, aliases={MODEL: "hash", "0": "hash"}) as service:
        (tmp_path / "known.toml").write_text(known_to(service))
        done = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "--config-file", "known.toml", "run"),
                f"{service.url}/openapi.json",
                *("--header", f"Authorization: Bearer {KEY}"),
                *("--phases", "coverage,fuzzing,stateful", "--max-examples", str(EXAMPLES)),
                *("--exclude-checks", ",".join(LEFT_OUT)),
                *("--generation-deterministic", "--no-shrink", "--no-color"),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=170,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        answers = [line["status"] for line in service.lines("request")]
        assert set(answers) >= {200, 400, 401, 403, 404, 422}
        assert max(answers) < 500
        assert not [line for line in service.lines() if line["level"] == "error"]


def test_every_success_is_as_the_document_says(tmp_path: Path) -> None:
    with in_thread(tmp_path, aliases={MODEL: "hash"}) as service:
        given = service.settled(service.upload(keep_fields="id", keep_original_file=True))
        job = service.start(given["id"], embedding_types=["float", "int8"])
        service.ended(job)
        of_dataset, of_job = f"/v1/datasets/{given['id']}", f"/v1/embed-jobs/{job}"
        embed = {"texts": ["one"], "model": MODEL, "input_type": "clustering"}
        by_type = {"embedding_types": ["float", "int8", "uint8", "binary", "ubinary"]}
        tokens = {"model": MODEL, "tokens": [111, 110, 101]}
        upload = {"params": {"name": "n", "type": "embed-input"}, "files": {"data": ("data.jsonl", ROWS)}}
        asked: list[tuple[str, str, str, dict[str, Any]]] = [
            ("POST", "/v1/datasets", "/v1/datasets", upload),
            ("GET", "/v1/datasets", "/v1/datasets", {}),
            ("GET", "/v1/datasets/usage", "/v1/datasets/usage", {}),
            ("GET", "/v1/datasets/{id}", of_dataset, {}),
            ("GET", "/parts/{dataset_id}/{file}", given["dataset_parts"][0]["url"], {}),
            ("GET", "/parts/{dataset_id}/{file}", given["dataset_parts"][0]["original_url"], {}),
            ("POST", "/v1/embed-jobs", "/v1/embed-jobs", {"json": {**embed, "dataset_id": given["id"]}}),
            ("GET", "/v1/embed-jobs", "/v1/embed-jobs", {}),
            ("GET", "/v1/embed-jobs/{id}", of_job, {}),
            ("POST", "/v1/embed-jobs/{id}/cancel", f"{of_job}/cancel", {}),
            ("POST", "/v1/embed", "/v1/embed", {"json": embed}),
            ("POST", "/v1/embed", "/v1/embed", {"json": embed | by_type}),
            ("POST", "/v2/embed", "/v2/embed", {"json": embed}),
            ("POST", "/v2/embed", "/v2/embed", {"json": embed | {"embedding_types": ["base64"]}}),
            ("POST", "/v1/tokenize", "/v1/tokenize", {"json": {"model": MODEL, "text": "one"}}),
            ("POST", "/v1/detokenize", "/v1/detokenize", {"json": tokens}),
            ("GET", "/v1/models", "/v1/models", {}),
            ("GET", "/v1/models/{model}", f"/v1/models/{MODEL}", {}),
            ("POST", "/v1/check-api-key", "/v1/check-api-key", {}),
            ("GET", "/health", "/health", {}),
            ("GET", "/ready", "/ready", {}),
            ("GET", "/metrics", "/metrics", {}),
            ("DELETE", "/v1/datasets/{id}", f"/v1/datasets/{service.upload()}", {}),
        ]
        document = schemathesis.openapi.from_url(f"{service.url}/openapi.json")
        for method, operation, address, request in asked:
            answer = requests.request(method, urljoin(service.url, address), timeout=30, **request)
            assert answer.status_code == 200, (method, address, answer.text)
            document[operation][method].validate_response(answer)
        declared = {(one.ok().method.upper(), one.ok().path) for one in document.get_all_operations()}
        without_a_fake = {("GET", "/v1/tokenizers/{model}")}  # the fake model has none
        assert declared - without_a_fake == {(method, operation) for method, operation, _, _ in asked}


def known_to(service: InThread) -> str:
    """Tell schemathesis some names of what there is, or it would hardly see anything but 404."""
    datasets = [service.settled(service.upload(keep_fields="id", keep_original_file=True)) for _ in range(4)]
    jobs = [service.ended(service.start(datasets[0]["id"]))["job_id"] for _ in range(2)]
    link = urlsplit(datasets[0]["dataset_parts"][0]["url"])
    _, _, dataset_id, file = link.path.split("/")
    ((_, expiry), (_, signature)) = parse_qsl(link.query)
    known = {
        "models": ["hash", "hash-wide", MODEL],
        "datasets": [dataset["id"] for dataset in datasets[1:]],  # the first is only read: these may be deleted
        "jobs": jobs,
        "part-of": [dataset_id],
        "part-file": [file],
        "part-expiry": [expiry],
        "part-signature": [signature],
    }
    used = {
        "models": {"path.model": "models", "body.model": "models"},
        "datasets": {"path.id": "datasets"},
        "embed jobs": {"path.id": "jobs", "body.model": "models", "body.dataset_id": "datasets"},
        "parts": {
            "path.dataset_id": "part-of",
            "path.file": "part-file",
            "query.exp": "part-expiry",
            "query.sig": "part-signature",
        },
    }
    lines = [f"[dictionaries.{name}]\nvalues = {json.dumps(values)}" for name, values in known.items()]
    for tag, names in used.items():
        lines.append(f'[[operations]]\ninclude-tag = "{tag}"\n[operations.parameters]')
        lines += [f'"{place}" = {{ dictionary = "{name}", probability = 0.8 }}' for place, name in names.items()]
    # Here a text is refused for so many reasons that hardly one would come through.
    lines.append('[[operations]]\ninclude-tag = "embeddings"\n[operations.parameters]')
    lines += ['"body.model" = "hash"', '"body.texts" = ["one", "two"]', '"body.images" = []', '"body.inputs" = []']
    return "\n".join(lines)
