"""A CycloneDX document of one image: the function, its interpreter and its packages. `jiffy image NAME --sbom` has it.

It depends on the image alone: its serial number comes from the digest and it bears no time, so two people who ask get
the same bytes. What is inside: inventory.py.
"""

from __future__ import annotations

import json
import re

from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from builder.inventory import Inventory
from builder.pruning import normal


def document(name: str, inventory: Inventory) -> str:
    """CycloneDX 1.6, JSON."""
    bom = Bom()
    bom.metadata.component = Component(
        name=name, version=inventory.image, type=ComponentType.APPLICATION, bom_ref=inventory.image
    )
    language = re.match(r"[a-z]*", inventory.runtime)
    assert language is not None
    version = inventory.runtime[language.end() :]
    bom.components.add(
        Component(name=language[0], version=version, type=ComponentType.PLATFORM, bom_ref=inventory.runtime)
    )
    for package in inventory.packages:
        purl = PackageURL("pypi", None, normal(package.name), package.version)
        one = Component(name=package.name, version=package.version, purl=purl, bom_ref=purl.to_string())
        bom.components.add(one)
    made = json.loads(JsonV1Dot6(bom).output_as_string())
    made["metadata"].pop("timestamp", None)
    digits = inventory.image.removeprefix("sha256:")
    made["serialNumber"] = f"urn:uuid:{digits[:8]}-{digits[8:12]}-5{digits[13:16]}-8{digits[17:20]}-{digits[20:32]}"
    return json.dumps(made, indent=2, sort_keys=True)
