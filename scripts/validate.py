#!/usr/bin/env python3
"""Validates manifests strictly: what Kubernetes knows against its own schemas, and objects of definitions against these.

usage: validate.py VERSION DEFINITIONS MANIFEST...

Needs the package kubernetes-validate, which `scripts/setup.sh test` puts into target/tools/python. Fields that a schema does
not have are errors. Says for every object what it was validated against; ends with 1 if any is not valid.
"""

import sys

import jsonschema
import yaml
from kubernetes_validate import utils


def strict(schema):
    """The schema of a definition, with every field it does not name forbidden."""
    schema = dict(schema)
    if "properties" in schema:
        schema["properties"] = {name: strict(one) for name, one in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
    if "items" in schema:
        schema["items"] = strict(schema["items"])
    return schema


def definitions(path):
    """The schemas by apiVersion and kind. What an API server knows of `metadata` is not theirs to say."""
    found = {}
    with open(path, encoding="utf-8") as file:
        for document in yaml.safe_load_all(file):
            spec = (document or {}).get("spec", {})
            for version in spec.get("versions", []):
                schema = strict(version["schema"]["openAPIV3Schema"])
                schema["properties"]["metadata"] = {"type": "object", "required": ["name"]}
                found[f"{spec['group']}/{version['name']}", spec["names"]["kind"]] = schema
    return found


def objects(document):
    if document and document.get("kind") == "List":
        return document.get("items", [])
    return [document] if document else []


def main():
    version, crds, *manifests = sys.argv[1:]
    own, bad = definitions(crds), 0
    for path in manifests:
        with open(path, encoding="utf-8") as file:
            documents = list(yaml.safe_load_all(file))
        for one in (one for document in documents for one in objects(document)):
            name = f"{path}: {one.get('kind')} {one.get('metadata', {}).get('name')}"
            schema = own.get((one.get("apiVersion"), one.get("kind")))
            try:
                if schema:
                    jsonschema.validate(one, schema)
                    print(f"{name}: as its definition has it")
                else:
                    utils.validate(one, version, strict=True)
                    print(f"{name}: as Kubernetes {version} has it")
            except jsonschema.ValidationError as error:
                print(f"{name}: {'.'.join(map(str, error.path))}: {error.message}", file=sys.stderr)
                bad += 1
            except (utils.SchemaNotFoundError, utils.VersionNotSupportedError) as error:
                print(f"{name}: {error.message}", file=sys.stderr)
                bad += 1
    sys.exit(1 if bad else 0)


main()
