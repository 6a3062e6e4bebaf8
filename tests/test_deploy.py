"""The manifests of deploy/: rendered, checked against Kubernetes' own schemas, and true to what the service has."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from artifacts import write_artifact
from serving import PIXELS, encoded, serve, wait_until_ready

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
        (target,) = [d for d in documents if d["kind"] == patch["target"]["kind"]
                     and d["metadata"]["name"] == patch["target"]["name"]]
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
    assert {d["kind"] for d in documents} == {"Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget",
                                              "NetworkPolicy"}
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
