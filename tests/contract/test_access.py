"""The keys file: what is in it, and what is told of mistakes."""

from __future__ import annotations

import pytest

from jiffy.contract.access import ALLOWS, ApiKey, Role, digest, parse_keys
from jiffy.contract.errors import SpecError

SHA = digest("jk_one")
ENTRY = f'tenant = "acme"\nrole = "deploy"\nkey_sha256 = "{SHA}"\n'


def test_an_entry_says_whose_key_it_is_and_for_what() -> None:
    assert parse_keys(f"[keys.ci]\n{ENTRY}", "keys.toml") == (ApiKey("ci", "acme", Role.DEPLOY, SHA),)
    assert parse_keys("# none yet\n", "keys.toml") == ()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[keys.ci", "is no TOML"),
        ("[key.ci]", "unknown table 'key'; allowed: keys"),
        ("keys = 3", "keys must hold tables"),
        (f"[keys.CI]\n{ENTRY}", "can't name a key"),
        ("[keys]\nci = 3", "must be a table"),
        (f"[keys.ci]\n{ENTRY}key = 'jk_one'", "unknown key 'key'"),
        (f"[keys.ci]\n{ENTRY}".replace("deploy", "root"), "allowed: invoke, read, deploy, admin"),
        (f"[keys.ci]\n{ENTRY}".replace("acme", "a:b"), "can't name a tenant"),
        ("[keys.ci]\nrole = 'read'\nkey_sha256 = 'jk_one'", "64 hexadecimal digits"),
        (f"[keys.ci]\nrole = 'read'\nkey_sha256 = '{SHA}'", "can't name a tenant"),
        (f"[keys.a]\n{ENTRY}[keys.b]\n{ENTRY}", "[keys.b] has the same key as [keys.a]"),
    ],
)
def test_mistakes_are_told_with_their_place(text: str, told: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_keys(text, "keys.toml")
    assert told in caught.value.message
    assert "keys.toml" in caught.value.message


def test_who_deploys_may_call_and_read_and_only_admins_do_more() -> None:
    assert ALLOWS[Role.DEPLOY] == {Role.DEPLOY, Role.INVOKE, Role.READ}
    assert [role for role, rights in ALLOWS.items() if Role.ADMIN in rights] == [Role.ADMIN]
    assert Role.READ not in ALLOWS[Role.INVOKE]
    assert Role.INVOKE not in ALLOWS[Role.READ]
