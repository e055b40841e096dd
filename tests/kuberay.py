"""KubeRay's schemas in; the fields that they allow of a RayCluster and a RayJob, and their types, out.

python tests/kuberay.py CRDS    writes kuberay_fields.json, from helm-chart/kuberay-operator/crds of a release

Its schemas are 2 MB of YAML, in no package registry: most of them are Kubernetes' own (pods, services), which
kubernetes-validate knows, and descriptions. What is left says which fields there are, so that a wrong one is found.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

FIELDS = Path(__file__).with_name("kuberay_fields.json")
KINDS = ("RayCluster", "RayJob")
_KEPT = ("type", "required", "enum", "minimum", "maximum", "x-kubernetes-int-or-string")
_OF_KUBERNETES = {"env", "envFrom", "headService", "metadata", "resources", "securityContext", "template",
                  "submitterPodTemplate", "volumeMounts"}  # fmt: skip


def definitions(folder: Path) -> dict[str, Any]:
    """Schema of each kind, of version v1 of the API, from the folder of a release."""
    found = {}
    for path in sorted(folder.glob("ray.io_*.yaml")):
        definition = yaml.safe_load(path.read_text())
        kind = definition["spec"]["names"]["kind"]
        [version] = [v for v in definition["spec"]["versions"] if v["name"] == "v1"]
        if kind in KINDS:
            found[kind] = version["schema"]["openAPIV3Schema"]
    return found


def fields(schema: Any) -> Any:
    """The schema without descriptions and without what is Kubernetes' own; what it does not name is not allowed."""
    if not isinstance(schema, dict):
        return schema
    kept = {name: schema[name] for name in _KEPT if name in schema}
    if kept.get("x-kubernetes-int-or-string"):
        kept.pop("type", None)
    if isinstance(schema.get("properties"), dict):
        kept["properties"] = {
            name: {} if name in _OF_KUBERNETES else fields(part) for name, part in schema["properties"].items()
        }
        kept["additionalProperties"] = False
    for name in ("items", "additionalProperties"):
        if name in schema:
            kept[name] = fields(schema[name])
    return kept


def allowed(whole: dict[str, Any]) -> dict[str, Any]:
    """What users may write of each kind."""
    found = {kind: fields(schema) for kind, schema in whole.items()}
    for schema in found.values():
        schema["properties"].pop("status", None)  # written by KubeRay
    return found


def main(folder: str) -> None:
    FIELDS.write_text(json.dumps(allowed(definitions(Path(folder))), indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
