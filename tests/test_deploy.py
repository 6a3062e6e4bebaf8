"""The manifests of deploy/: rendered, checked against Kubernetes' own schemas, and true to what the service has."""

from __future__ import annotations

import copy
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import httpx
import kubernetes_validate
import numpy as np
import pytest
import typer.main
import yaml
from artifacts import write_artifact
from serving import PIXELS, Running, encoded, serve, wait_until_ready

from gazeseg_serve.cli.main import app
from gazeseg_serve.default_model import default_artifact
from gazeseg_serve.export.triton import write_triton
from gazeseg_serve.imaging import decode_image
from gazeseg_serve.predictor import Predictor
from gazeseg_serve.service.settings import Settings

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
KUBERNETES = kubernetes_validate.latest_version()


def render(folder: Path) -> list[dict[str, Any]]:
    """What `kubectl kustomize` makes of a folder that uses resources and inline JSON patches (add and replace) alone."""
    plan = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert set(plan) <= {"apiVersion", "kind", "resources", "patches"}, "render() knows no more"
    documents: list[dict[str, Any]] = []
    for name in plan["resources"]:
        path = folder / name
        documents += render(path) if path.is_dir() else list(yaml.safe_load_all(path.read_text()))
    for patch in plan.get("patches", []):
        (target,) = [
            d for d in documents if d["kind"] == patch["target"]["kind"] and d["metadata"]["name"] == patch["target"]["name"]
        ]
        for step in yaml.safe_load(patch["patch"]):
            apply(target, step)
    return documents


def apply(document: dict[str, Any], step: dict[str, Any]) -> None:
    *way, last = [part.replace("~1", "/").replace("~0", "~") for part in step["path"].split("/")[1:]]
    place: Any = document
    for part in way:
        place = place[int(part)] if isinstance(place, list) else place[part]
    if step["op"] == "add" and isinstance(place, list):
        assert last == "-"
        place.append(copy.deepcopy(step["value"]))
    else:
        assert step["op"] == "add" or last in place, f"nothing to replace at {step['path']}"
        place[last] = step["value"]


def by_kind(variant: str) -> dict[str, Any]:
    return {document["kind"]: document for document in render(DEPLOY / "kubernetes" / variant)}


@pytest.mark.parametrize("variant", ["base", "gpu"])
def test_every_rendered_manifest_holds_to_kubernetes_schema(variant: str) -> None:
    documents = render(DEPLOY / "kubernetes" / variant)
    assert {d["kind"] for d in documents} == {
        "Deployment",
        "Service",
        "HorizontalPodAutoscaler",
        "PodDisruptionBudget",
        "NetworkPolicy",
    }
    for document in documents:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_the_schema_check_can_fail() -> None:
    deployment = by_kind("base")["Deployment"]
    deployment["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, KUBERNETES, strict=True)


@pytest.mark.parametrize("variant", ["base", "gpu"])
def test_the_manifests_fit_together_and_fit_the_image(variant: str) -> None:
    made = by_kind(variant)
    pod = made["Deployment"]["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    labels = pod["metadata"]["labels"]
    assert made["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert made["Service"]["spec"]["selector"] == labels
    assert made["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert made["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels
    assert made["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == made["Deployment"]["metadata"]["name"]
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert f"USER {pod['spec']['securityContext']['runAsUser']}" in dockerfile
    assert f"EXPOSE {container['ports'][0]['containerPort']}" in dockerfile
    names = {entry["name"].removeprefix("GAZESEG_").lower(): entry["value"] for entry in container["env"]}
    assert set(names) <= set(Settings.model_fields), "a setting that the service does not have"
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["spec"]["volumes"]}
    assert (container["resources"]["limits"].get("nvidia.com/gpu") == 1) == (variant == "gpu")
    # The pod must outlive the drain and the longest answer.
    defaults = Settings(_env_file=None)  # type: ignore[call-arg]
    assert pod["spec"]["terminationGracePeriodSeconds"] >= float(names["drain_seconds"]) + defaults.timeout_seconds


def test_compose_names_files_that_are_there_and_the_port_that_is_served() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    for name, service in compose["services"].items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in compose["volumes"] or (DEPLOY / source).exists(), f"{name}: {source}"
    assert compose["services"]["gazeseg"]["build"]["target"] in re.findall(r"AS (\w+)", (ROOT / "Dockerfile").read_text())
    scraped = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"][0]["static_configs"][0]["targets"]
    assert scraped == ["gazeseg:3000"]


def test_every_metric_of_the_dashboard_is_one_that_the_service_has(tmp_path: Path) -> None:
    write_artifact(tmp_path / "artifact")
    with serve(Settings(artifact=tmp_path / "artifact")) as client:
        wait_until_ready(client)
        assert client.post("/v1/segment", files={"image": encoded(".png", PIXELS)}).status_code == 200
        text = client.get("/metrics").text
    families = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M))
    known = set()
    for name, kind in families.items():
        known |= {f"{name}_bucket", f"{name}_sum", f"{name}_count"} if kind == "histogram" else {name}
    dashboard = json.loads((DEPLOY / "grafana" / "dashboards" / "gazeseg.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    used = {name for expression in expressions for name in re.findall(r"gazeseg_\w+", expression)}
    assert len(used) >= 7
    assert used <= known, used - known
    metrics = by_kind("base")["HorizontalPodAutoscaler"]["spec"]["metrics"]
    assert {m["pods"]["metric"]["name"] for m in metrics if m["type"] == "Pods"} <= known


def test_triton_serves_the_repository_that_the_export_writes(tmp_path: Path) -> None:
    documents = render(DEPLOY / "kubernetes" / "triton")
    for document in documents:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    made = {document["kind"]: document for document in documents}
    assert set(made) == {"Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy"}
    pod = made["Deployment"]["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    labels = pod["metadata"]["labels"]
    for selector in (
        made["Deployment"]["spec"]["selector"]["matchLabels"],
        made["Service"]["spec"]["selector"],
        made["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        made["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ):
        assert selector == labels
    options = dict(argument[2:].split("=") if "=" in argument else (argument[2:], "") for argument in container["args"])
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": 8000, "grpc": 8001, "metrics": 8002}
    assert {name: int(options[f"{name}-port"]) for name in ports} == ports
    assert {(port["port"], port["targetPort"]) for port in made["Service"]["spec"]["ports"]} == {
        (number, name) for name, number in ports.items()
    }
    probes = {name: container[name]["httpGet"]["path"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert probes == {
        "startupProbe": "/v2/health/ready",
        "readinessProbe": "/v2/health/ready",
        "livenessProbe": "/v2/health/live",
    }
    assert pod["spec"]["terminationGracePeriodSeconds"] > int(options["exit-timeout-secs"])
    # The repository is mounted where Triton looks, and nobody in the pod can write it, or anything but /tmp and shared memory.
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    assert {mount["name"] for mount in mounts.values()} == {volume["name"] for volume in pod["spec"]["volumes"]}
    assert mounts["models"] == {"name": "models", "mountPath": options["model-repository"], "readOnly": True}
    assert {mount["mountPath"] for mount in mounts.values() if not mount.get("readOnly")} == {"/tmp", "/dev/shm"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["spec"]["securityContext"]["runAsNonRoot"]
    assert pod["spec"]["securityContext"]["runAsUser"] > 0
    # The repository that the command writes asks for a GPU, and the pod has one.
    write_artifact(tmp_path / "artifact")
    model = write_triton(tmp_path / "artifact", tmp_path / "repository")
    assert ("KIND_GPU" in (model / "config.pbtxt").read_text()) == (container["resources"]["limits"]["nvidia.com/gpu"] == 1)


def test_a_bento_of_the_checkout_serves_what_the_command_predicts(tmp_path: Path) -> None:
    environment = {**os.environ, "BENTOML_HOME": str(tmp_path / "home"), "BENTOML_DO_NOT_TRACK": "True"}
    bentoml = [sys.executable, "-m", "bentoml"]
    built = subprocess.run([*bentoml, "build", "--output", "tag"], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    tag = re.findall(r"__tag__:(\S+)", built.stdout)[0]
    bento = tmp_path / "home" / "bentos" / Path(*tag.split(":"))
    sources = {path.relative_to(bento / "src").parts[0] for path in (bento / "src").rglob("*")}
    assert sources == {"bentofile.yaml", "gazeseg_serve", "service", "deploy", "LICENSE", "NOTICE"}
    requirements = (bento / "env" / "python" / "requirements.txt").read_text()
    assert "onnxruntime==" in requirements
    assert re.search(r"^(torch|monai|onnx)==", requirements, re.M) is None
    page = bento / "src" / "service" / "page" / "index.html"  # the service must come from the Bento, not from the checkout
    page.write_text(page.read_text().replace("<title>", "<title>of the Bento: "))

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = tmp_path / "log"
    command = [*bentoml, "serve", tag, "--host", "127.0.0.1", "--port", str(port)]
    with log.open("w") as out:
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=out, stderr=subprocess.STDOUT, text=True)
    service = Running(process, f"http://127.0.0.1:{port}", log)
    try:
        service.wait_until_ready()
        photo = (ROOT / "service" / "page" / "sample1.jpg").read_bytes()
        answer = httpx.post(f"{service.url}/v1/segment", files={"image": photo}, timeout=60)
        assert "of the Bento" in httpx.get(service.url).text
    finally:
        process.terminate()
        status = process.wait(60)
    predictor = Predictor.open(default_artifact())
    expected = predictor.predict(decode_image(photo)).mask(predictor.artifact.threshold)  # type: ignore[union-attr]
    assert (expected > 0).any()
    seen = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert np.array_equal(seen > 0, expected > 0)
    assert status == 0


def test_the_nodes_manifests_hold_to_the_schema_and_fit_the_command() -> None:
    documents = render(DEPLOY / "kubernetes" / "node")
    for document in documents:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    made = {document["kind"]: document for document in documents}
    pod = made["StatefulSet"]["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    labels = pod["metadata"]["labels"]
    assert made["StatefulSet"]["spec"]["selector"]["matchLabels"] == labels == made["Service"]["spec"]["selector"]
    assert made["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    claims = {claim["metadata"]["name"] for claim in made["StatefulSet"]["spec"]["volumeClaimTemplates"]}
    assert mounts == claims | {volume["name"] for volume in pod["spec"]["volumes"]}
    assert_options_of_the_node(container["args"])
    monitor = next(port["containerPort"] for port in container["ports"] if port["name"] == "monitor")
    assert f"--monitor-port={monitor}" in container["args"]


def test_the_compose_of_the_archive_names_files_that_are_there_and_options_that_exist() -> None:
    folder = DEPLOY / "orthanc"
    compose = yaml.safe_load((folder / "compose.yaml").read_text())
    for service in compose["services"].values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in compose["volumes"] or (folder / source).is_file(), source
    assert_options_of_the_node(compose["services"]["node"]["command"])
    text = (folder / "orthanc.json").read_text()
    settings = json.loads(re.sub(r"^\s*//.*$", "", text, flags=re.M))
    title, host, port = settings["DicomModalities"]["gazeseg"]
    assert (title, host, port) == ("GAZESEG", "node", 11112)
    mounted = {volume.split(":")[1] for volume in compose["services"]["orthanc"]["volumes"]}
    assert set(settings["LuaScripts"]) <= mounted
    assert settings["OverwriteInstances"] is True


def assert_options_of_the_node(arguments: list[str]) -> None:
    """The arguments begin with `node`, and it has an option of each name."""
    command = typer.main.get_command(app).commands["node"]  # type: ignore[attr-defined]
    known = {option for parameter in command.params for option in parameter.opts}
    assert arguments[0] == "node"
    assert {argument.partition("=")[0] for argument in arguments[1:]} <= known
