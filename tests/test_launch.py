"""Launch files of clusters that are not here, checked as their own tools check them."""

from __future__ import annotations

from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml

from tests.tiny import ROOT

RAY = ROOT / "launch" / "ray"


@pytest.mark.ray
def test_ray_up_takes_the_cluster_file() -> None:
    """As `ray up` does before it starts anything: the file is completed for its provider, and must
    then fit Ray's published schema, which knows each key."""
    util = pytest.importorskip("ray.autoscaler._private.util")
    tree = yaml.safe_load((RAY / "cluster.yaml").read_text(encoding="utf-8"))
    util.validate_config(util.prepare_config(tree))
    with pytest.raises(Exception, match="head_start_ray_comands"):
        util.validate_config(util.prepare_config({**tree, "head_start_ray_comands": []}))


QUANTITY = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|[KMGTPE]i?|k)?$"}
QUANTITIES = {"type": "object", "additionalProperties": QUANTITY}
STRINGS = {"type": "object", "additionalProperties": {"type": "string"}}


def fields(required: list[str], **properties: Any) -> dict[str, Any]:
    """A JSON schema of an object with no other fields than these."""
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


POD = fields(
    ["spec"],
    spec=fields(
        ["containers"],
        terminationGracePeriodSeconds={"type": "integer"},
        containers={
            "type": "array",
            "minItems": 1,
            "items": fields(
                ["name"],
                name={"type": "string"},
                image={"type": "string"},
                env={
                    "type": "array",
                    "items": fields(["name"], name={"type": "string"}, value={"type": "string"}),
                },
                resources=fields([], requests=QUANTITIES, limits=QUANTITIES),
                volumeMounts={
                    "type": "array",
                    "items": fields(
                        ["name", "mountPath"], name={"type": "string"}, mountPath={"type": "string"}
                    ),
                },
            ),
        },
        volumes={
            "type": "array",
            "items": fields(
                ["name"],
                name={"type": "string"},
                persistentVolumeClaim=fields(["claimName"], claimName={"type": "string"}),
                emptyDir=fields([], medium={"type": "string"}, sizeLimit=QUANTITY),
            ),
        },
    ),
)
COUNT = {"type": "integer", "minimum": 0}
# What the CRD rayclusters.ray.io of KubeRay (v1, commit 017710c) says of the fields that the
# file uses: their names and types, which are required, and the values of authOptions.mode.
RAY_CLUSTER = fields(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayCluster"},
    metadata=fields(["name"], name={"type": "string"}),
    spec=fields(
        ["headGroupSpec"],
        authOptions=fields([], mode={"enum": ["disabled", "token"]}),
        headGroupSpec=fields(["template"], rayStartParams=STRINGS, template=POD),
        workerGroupSpecs={
            "type": "array",
            "items": fields(
                ["groupName", "maxReplicas", "minReplicas", "rayStartParams", "template"],
                groupName={"type": "string"},
                replicas=COUNT,
                minReplicas=COUNT,
                maxReplicas=COUNT,
                rayStartParams=STRINGS,
                template=POD,
            ),
        },
    ),
)


def test_kuberays_file_has_the_fields_of_its_schema() -> None:
    tree = yaml.safe_load((RAY / "kuberay.yaml").read_text(encoding="utf-8"))
    jsonschema.validate(tree, RAY_CLUSTER)
    mounted = [
        {mount["name"] for c in pod["containers"] for mount in c["volumeMounts"]}
        == {volume["name"] for volume in pod["volumes"]}
        for group in (tree["spec"]["headGroupSpec"], *tree["spec"]["workerGroupSpecs"])
        for pod in [group["template"]["spec"]]
    ]
    assert all(mounted)
    del tree["spec"]["workerGroupSpecs"][0]["minReplicas"]
    with pytest.raises(jsonschema.ValidationError, match="minReplicas"):
        jsonschema.validate(tree, RAY_CLUSTER)
