"""What is there to run vector-sync in containers, held to Kubernetes' own schemas, to the settings and to itself.

Nothing here needs a cluster or a container engine. What runs for real is in `test_container.py` and `test_compose.py`.
"""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from kubernetes_validate.utils import all_versions
from real_servers import QDRANT_IMAGE

import connector
from connector.cli import main
from connector.config import Settings
from connector.errors import BUG, ExitCode
from connector.sections import ServiceSettings

ROOT = Path(__file__).parent.parent
KUBERNETES = ROOT / "deploy" / "kubernetes"
COMPOSE = ROOT / "deploy" / "compose"
WAYS = ("service", "cronjob")
OLDEST = (1, 29)  # ReadWriteOncePod is stable since then, and podFailurePolicy on by default since 1.26
VERSIONS = [it for it in dict.fromkeys(all_versions()) if tuple(map(int, it.split(".")))[:2] >= OLDEST]
USER = 10001


# --- Kubernetes ---------------------------------------------------------------------------------------


def documents(path: Path) -> list[dict[str, Any]]:
    return [found for found in yaml.safe_load_all(path.read_text()) if found]


def built(folder: Path) -> Iterator[dict[str, Any]]:
    """Give what a kustomization makes, but for the hash in a ConfigMap's name: these use no more of kustomize."""
    (kustomization,) = documents(folder / "kustomization.yaml")
    assert set(kustomization) <= {"apiVersion", "kind", "resources", "configMapGenerator", "images"}
    tags = {it["name"]: it["newTag"] for it in kustomization.get("images", ())}
    for resource in kustomization["resources"]:
        if (folder / resource).is_dir():
            yield from built(folder / resource)
        else:
            for document in documents(folder / resource):
                for container in containers(document):
                    container["image"] += f":{tags[container['image']]}"
                yield document
    for generated in kustomization.get("configMapGenerator", ()):
        content = {name: (folder / name).read_text() for name in generated["files"]}
        yield {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": generated["name"]}, "data": content}


def pod_of(document: dict[str, Any]) -> dict[str, Any]:
    """Give what a document says of its pod; empty if it makes none."""
    spec = document.get("spec", {})
    if document["kind"] == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    pod: dict[str, Any] = spec.get("template", {}).get("spec", {})
    return pod


def containers(document: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pod_of(document).get("containers", [])
    return found


def by_kind(way: str) -> dict[str, dict[str, Any]]:
    found = {document["kind"]: document for document in built(KUBERNETES / way)}
    (found["Secret"],) = documents(KUBERNETES / "secret.example.yaml")
    return found


def the_pod(way: str) -> dict[str, Any]:
    (pod,) = filter(None, map(pod_of, by_kind(way).values()))
    return pod


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("way", WAYS)
def test_kubernetes_knows_every_field_of_every_manifest(way: str, version: str) -> None:
    for document in by_kind(way).values():
        kubernetes_validate.validate(document, version, strict=True)


def test_a_misspelt_field_would_be_found() -> None:
    job = by_kind("cronjob")["CronJob"]["spec"]["jobTemplate"]["spec"]
    for spec, name in ((job, "backoffLimit"), (job["template"]["spec"]["securityContext"], "runAsNonRoot")):
        spec[f"{name}s"] = spec.pop(name)
        document = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}, "spec": job}
        with pytest.raises(kubernetes_validate.ValidationError, match=f"{name}s"):
            kubernetes_validate.validate(document, VERSIONS[-1], strict=True)
        spec[name] = spec.pop(f"{name}s")


@pytest.mark.parametrize("way", WAYS)
def test_kustomize_makes_of_them_what_is_tested_here(way: str) -> None:
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not installed; it is needed for `kubectl kustomize`, without any cluster")
    told = subprocess.run(["kubectl", "kustomize", KUBERNETES / way], capture_output=True, text=True, check=True).stdout
    hashed = re.search(r"\bname: (vector-sync-[a-z0-9]{10})$", told, re.MULTILINE)
    assert hashed
    assert len(re.findall(hashed[1], told)) == 2  # the ConfigMap, and the volume that mounts it
    made = list(yaml.safe_load_all(told.replace(hashed[1], "vector-sync")))
    assert sorted(made, key=lambda it: it["kind"]) == sorted(built(KUBERNETES / way), key=lambda it: it["kind"])


@pytest.mark.parametrize("way", WAYS)
def test_kubernetes_own_types_read_the_pod_and_its_quantities(way: str, tmp_path: Path) -> None:
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not installed; it is needed to read manifests by Kubernetes' own types")
    (document,) = filter(pod_of, built(KUBERNETES / way))
    path = str(tmp_path / "pod.yaml")
    reading = ["kubectl", "set", "env", "--local", "--output=yaml", "--filename", path, "ADDED=1"]
    Path(path).write_text(yaml.safe_dump(document))
    read = yaml.safe_load(subprocess.run(reading, capture_output=True, text=True, check=True).stdout)
    (container,), (written,) = pod_of(read)["containers"], pod_of(document)["containers"]
    assert container["resources"] == written["resources"]
    assert container.pop("env") == [{"name": "ADDED", "value": "1"}]


@pytest.mark.parametrize("way", WAYS)
def test_what_a_pod_mounts_is_there(way: str) -> None:
    found = by_kind(way)
    pod = the_pod(way)
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} == set(volumes)
    assert volumes["settings"]["configMap"]["name"] == found["ConfigMap"]["metadata"]["name"]
    assert volumes["secrets"]["secret"]["secretName"] == found["Secret"]["metadata"]["name"]
    assert volumes["state"]["persistentVolumeClaim"]["claimName"] == found["PersistentVolumeClaim"]["metadata"]["name"]
    (container,) = pod["containers"]
    assert container["image"] == f"vector-sync:{connector.__version__}"
    assert container["args"][0] in main.commands
    writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
    assert writable == {"/data", "/tmp"}


@pytest.mark.parametrize("way", WAYS)
def test_a_pod_passes_the_restricted_pod_security_standard(way: str) -> None:
    pod = the_pod(way)
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == USER
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    kinds = {kind for volume in pod["volumes"] for kind in set(volume) - {"name"}}
    assert kinds <= {"configMap", "secret", "persistentVolumeClaim", "emptyDir"}


def test_both_pods_are_the_same_but_for_what_they_run() -> None:
    pods = {way: deepcopy(the_pod(way)) for way in WAYS}
    assert pods["cronjob"].pop("restartPolicy") == "Never"
    for way in WAYS:
        for name in ("args", "ports", "startupProbe", "livenessProbe", "readinessProbe"):
            pods[way]["containers"][0].pop(name, None)
    assert pods["service"] == pods["cronjob"]


def test_the_service_leads_to_the_deployments_pods_and_there_is_one_at_a_time() -> None:
    found = by_kind("service")
    deployment, service = found["Deployment"]["spec"], found["Service"]["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert service["selector"] == deployment["selector"]["matchLabels"] == labels
    assert (deployment["replicas"], deployment["strategy"]) == (1, {"type": "Recreate"})
    assert found["PersistentVolumeClaim"]["spec"]["accessModes"] == ["ReadWriteOncePod"]
    (container,) = deployment["template"]["spec"]["containers"]
    (port,) = container["ports"]
    assert port["containerPort"] == ServiceSettings().port
    assert service["ports"] == [{"name": port["name"], "port": port["containerPort"], "targetPort": port["name"]}]
    probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert probes == {
        "startup": {"path": "/startupz", "port": "http"},
        "liveness": {"path": "/livez", "port": "http"},
        "readiness": {"path": "/readyz", "port": "http"},
    }
    annotations = deployment["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(port["containerPort"])


def test_a_stop_has_the_time_that_the_service_takes_for_it() -> None:
    for way in WAYS:
        assert the_pod(way)["terminationGracePeriodSeconds"] > ServiceSettings().grace_seconds
    services = compose()["services"]
    assert int(services["connector"]["stop_grace_period"].removesuffix("s")) > ServiceSettings().grace_seconds


def test_a_job_is_tried_again_where_time_may_help_and_nowhere_else() -> None:
    cron = by_kind("cronjob")["CronJob"]["spec"]
    job = cron["jobTemplate"]["spec"]
    assert cron["concurrencyPolicy"] == "Forbid"
    evicted, ended = job["podFailurePolicy"]["rules"]
    assert (evicted["action"], ended["action"], job["backoffLimit"]) == ("Ignore", "FailJob", 2)
    (container,) = job["template"]["spec"]["containers"]
    assert ended["onExitCodes"]["containerName"] == container["name"]
    assert ended["onExitCodes"]["values"] == sorted(ended["onExitCodes"]["values"])  # or the API server refuses it
    not_again = set(ended["onExitCodes"]["values"])
    assert not_again == {ExitCode.REJECTED, ExitCode.CONFIG, ExitCode.SAFETY, BUG}
    assert not not_again & {ExitCode.IN_STEP, ExitCode.BEHIND, ExitCode.BUSY}
    comment = (KUBERNETES / "cronjob" / "cronjob.yaml").read_text()
    told = {int(code) for code in re.findall(r"^#     (\d+) ", comment, re.MULTILINE)}
    assert told == not_again | {ExitCode.IN_STEP, ExitCode.BEHIND, ExitCode.BUSY, 137}


# --- the settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, folder, secrets",
    [
        ("kubernetes/base/vector-sync.toml", "/run/secrets/vector-sync", {"qdrant_key", "service_token"}),
        ("compose/qdrant/vector-sync.toml", "/run/secrets", {"embed_jobs_key", "qdrant_key", "service_token"}),
        ("compose/embedded/vector-sync.toml", "/run/secrets", {"embed_jobs_key", "service_token"}),
    ],
)
def test_the_settings_load_with_the_secrets_that_there_are(
    name: str, folder: str, secrets: set[str], tmp_path: Path
) -> None:
    text = (ROOT / "deploy" / name).read_text()
    assert set(re.findall(rf'"{folder}/(\w+)"', text)) == secrets
    for secret in secrets:
        (tmp_path / secret).write_text("a secret")
    path = tmp_path / "vector-sync.toml"
    path.write_text(text.replace(folder, str(tmp_path)))
    settings = Settings.load(path)
    assert settings.state_path == Path("/data/state")
    assert settings.source.model_dump(mode="json")["path"] == "/documents"
    if name.startswith("kubernetes"):
        assert secrets == set(by_kind("service")["Secret"]["stringData"])
    else:
        declared = set(compose()["services"]["connector"]["secrets"])
        assert secrets <= declared == set(compose()["secrets"])


# --- compose ------------------------------------------------------------------------------------------


def compose() -> dict[str, Any]:
    (found,) = documents(ROOT / "compose.yaml")
    return found


@pytest.mark.parametrize("service", ["connector", "embed-jobs", "qdrant"])
def test_every_service_of_compose_is_confined(service: str) -> None:
    found = compose()["services"][service]
    assert found["read_only"] is True
    assert found["cap_drop"] == ["ALL"]
    assert found["security_opt"] == ["no-new-privileges:true"]
    assert found["restart"] == "unless-stopped"
    assert found["stop_grace_period"] == "30s"
    assert found["tmpfs"] == ["/tmp"]
    assert all(port.startswith("127.0.0.1:") for port in found.get("ports", ()))


def test_only_the_connector_reaches_beyond_composes_own_network() -> None:
    found = compose()
    assert found["networks"]["back"] == {"internal": True}
    networks = {name: service["networks"] for name, service in found["services"].items()}
    assert networks == {"connector": ["front", "back"], "embed-jobs": ["back"], "qdrant": ["back"]}


def test_compose_waits_for_what_the_connector_asks() -> None:
    services = compose()["services"]
    assert services["connector"]["depends_on"] == {
        "embed-jobs": {"condition": "service_healthy"},
        "qdrant": {"condition": "service_healthy"},
    }
    assert "healthcheck" in services["embed-jobs"]
    assert "healthcheck" in services["qdrant"]
    assert services["qdrant"]["image"] == f"${{QDRANT_IMAGE:-{QDRANT_IMAGE}}}"


def test_composes_commands_are_commands() -> None:
    for service in ("connector", "embed-jobs"):
        name, *words = compose()["services"][service]["command"]
        main.commands[name].make_context(name, words)


@pytest.mark.parametrize("words", [["docker", "compose"], ["docker-compose"]], ids=" ".join)
def test_compose_accepts_the_file_alone_and_without_qdrant(words: list[str], tmp_path: Path) -> None:
    found = shutil.which(words[0])
    if not found or subprocess.run([*words, "version"], capture_output=True, check=False).returncode:
        pytest.skip(f"`{' '.join(words)}` is not installed")
    without: list[str | Path] = ["--file", COMPOSE / "embedded.yaml"]
    for more in ([], without):
        made = subprocess.run(
            [*words, "--file", ROOT / "compose.yaml", *more, "config"], capture_output=True, text=True, check=False
        )
        assert made.returncode == 0, made.stderr
        config = yaml.safe_load(made.stdout)["services"]
        assert set(config) == {"connector", "embed-jobs", "qdrant"}
        assert config["qdrant"].get("scale") == (0 if more else None)


def test_secrets_are_made_once_and_no_other_user_comes_to_them(tmp_path: Path) -> None:
    script = tmp_path / "make-secrets"
    shutil.copy(COMPOSE / "make-secrets", script)
    subprocess.run([script], check=True)
    made = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    assert made.keys() == compose()["secrets"].keys()
    assert {len(secret) for secret in made.values()} == {64}
    assert len(set(made.values())) == len(made)
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    subprocess.run([script], check=True)
    assert {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()} == made
    assert "/deploy/compose/secrets/" in (ROOT / ".gitignore").read_text().splitlines()


# --- the image ----------------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


def test_the_image_is_told_the_version_the_port_and_the_user() -> None:
    found = instructions()
    assert ("ARG", f"VERSION={connector.__version__}") in found
    assert ("EXPOSE", str(ServiceSettings().port)) in found
    assert ("USER", f"{USER}:{USER}") in found
    assert [rest for word, rest in found if word == "VOLUME"] == ["/data"]
    assert found[-1][0] == "LABEL"


def test_what_the_code_is_made_of_comes_after_the_dependencies() -> None:
    copied = [rest for word, rest in instructions() if word == "COPY"]
    assert copied.index("pyproject.toml constraints.txt ./") < copied.index("connector connector")
    assert copied[-1].startswith("--from=code ")


def test_the_build_gets_what_it_copies_and_nothing_else() -> None:
    first, *kept = (ROOT / ".dockerignore").read_text().split()
    assert first == "*"
    sent = {line.removeprefix("!") for line in kept if line.startswith("!")}
    stages = [rest.split()[:-1] for word, rest in instructions() if word == "COPY" and not rest.startswith("--from")]
    assert sent == {name for names in stages for name in names}
