"""A CycloneDX document of one image: the function, its interpreter and its packages. It is kept with each revision
(`jiffy show NAME --sbom`), and made anew of what lies in the data folder (`jiffy image NAME --sbom`).

It depends on the image alone: its serial number comes from the digest and it bears no time, so two people who ask get
the same bytes. What is inside: inventory.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from builder.inventory import Package
from builder.pruning import normal


def document(name: str, image: str, runtime: str, packages: Iterable[Package]) -> str:
    """CycloneDX 1.6, JSON, of the image with this digest."""
    bom = Bom()
    root = Component(name=name, version=image, type=ComponentType.APPLICATION, bom_ref=image)
    bom.metadata.component = root
    language = re.match(r"[a-z]*", runtime)
    assert language is not None
    version = runtime[language.end() :]
    bom.components.add(Component(name=language[0], version=version, type=ComponentType.PLATFORM, bom_ref=runtime))
    for package in packages:
        purl = _purl(package)
        one = Component(name=package.name, version=package.version, purl=purl, bom_ref=purl.to_string())
        bom.components.add(one)
    bom.register_dependency(root, bom.components)
    made = json.loads(JsonV1Dot6(bom).output_as_string())
    made["metadata"].pop("timestamp", None)
    digits = image.removeprefix("sha256:")
    made["serialNumber"] = f"urn:uuid:{digits[:8]}-{digits[8:12]}-5{digits[13:16]}-8{digits[17:20]}-{digits[20:32]}"
    return json.dumps(made, indent=2, sort_keys=True)


def _purl(package: Package) -> PackageURL:
    if package.registry == "npm":
        scope, _, name = package.name.rpartition("/")
        return PackageURL("npm", scope or None, name, package.version)
    return PackageURL("pypi", None, normal(package.name), package.version)
