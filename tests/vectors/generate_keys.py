"""Golden vectors of keys: account files of every form, guardians' shares, and a chain that
changes an account's keys and a record's generation.
"""

from __future__ import annotations

from typing import Any

import pytest
from shamir_mnemonic import shamir

from hcefs.crypto.accounts import AccountKeys, AccountKeysV1
from hcefs.crypto.guardians import Guardian, guard, open_share
from hcefs.crypto.passphrase import Argon2Cost, seal_account
from hcefs.ids import ClusterId
from hcefs.ledger.block import PROTOCOL_RIGHTS
from hcefs.ledger.transactions import Upgrade, sign_transaction
from hcefs.ledger.transactions_keys import RotateGeneration, rotate_keys
from tests.unit.ledger.scenario import (
    Scenario,
    public_key,
    record_id,
    seed,
    signing_key,
    token_key,
)

CLUSTER = ClusterId(seed("key cluster")[:16])
PASSPHRASE = "a passphrase of the vectors: Ä"
COST = Argon2Cost(memory_kib=32, iterations=2, lanes=2)


def account_keys(name: str) -> AccountKeys:
    parts = (seed(f"{name} {use}") for use in ("signing", "token", "receiving", "master"))
    return AccountKeys.generate(CLUSTER, b"".join(parts))


def renewed() -> AccountKeys:
    parts = (seed(f"second {use}") for use in ("signing", "token", "receiving", "master"))
    return account_keys("first").renewed(b"".join(parts))


def first_version() -> AccountKeysV1:
    keys = account_keys("first")
    return AccountKeysV1(
        keys.cluster, 1, keys.signing_seed, keys.token_seed, keys.receiving_seed, keys.record_master
    )


def words() -> list[str]:
    """The shares' words, with the library's random numbers replaced by fixed ones."""
    drawn = iter(range(1, 1000))

    def fixed(size: int) -> bytes:
        return (seed(f"coefficient {next(drawn)}") * 2)[:size]

    guardians = [account_keys(f"guardian {number}") for number in range(3)]
    named = [Guardian(each.account, 1, each.receiving_key.public_key) for each in guardians]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(shamir, "RANDOM_BYTES", fixed)
        shares = guard(renewed(), named, 2, (seed("capsule") * 2)[:44])
    return [
        open_share(share, each.account, {1: each.receiving_key}).encode().hex()
        for share, each in zip(shares, guardians, strict=True)
    ]


def chain() -> Scenario:
    """A chain that upgrades to version 4, renews a patient's keys and then a record's."""
    world = Scenario().populate()
    for version in range(2, PROTOCOL_RIGHTS + 1):
        world.submit(Upgrade(version, world.height + 2), "o1", "o2")
        world.commit([])
    patient = world.party("pat")
    cluster = world.genesis.cluster
    new = signing_key("pat second")
    world.submit(
        rotate_keys(
            cluster, patient.account, 2, new, token_key("pat second"), public_key("pat second")
        ),
        "pat",
    )
    renewal = RotateGeneration(record_id("r"), 1, public_key("record r second"))
    world.submit_signed(sign_transaction(renewal, cluster, [(patient.account, 2, new)]))
    return world


def vectors() -> dict[str, Any]:
    sealed = seal_account(
        renewed().encode(),
        CLUSTER,
        renewed().account,
        PASSPHRASE,
        (seed("sealing") * 1)[:28],
        COST,
    )
    world = chain()
    past = world.view.past_keys(world.account("pat"), 1)
    account = world.view.account(world.account("pat"))
    assert past is not None
    assert account is not None
    return {
        "account_keys_v1": first_version().encode().hex(),
        "account_keys_v2": renewed().encode().hex(),
        "account": bytes(renewed().account).hex(),
        "passphrase": PASSPHRASE,
        "sealed_account": sealed.encode().hex(),
        "opened_shares": words(),
        "rotate_keys": rotate_keys(
            world.genesis.cluster,
            world.account("pat"),
            2,
            signing_key("pat second"),
            token_key("pat second"),
            public_key("pat second"),
        )
        .encode()
        .hex(),
        "rotate_generation": RotateGeneration(record_id("r"), 1, public_key("record r second"))
        .encode()
        .hex(),
        "past_keys": past.encode().hex(),
        "account_fact": account.encode().hex(),
        "height": world.height,
        "app_hash": world.app_hash.hex(),
    }
