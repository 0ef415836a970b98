"""A recovery that was finished is not made a second time."""

from __future__ import annotations

from pathlib import Path

import pytest

from hcefs.cli.cluster_files import ClusterFolder
from hcefs.cli.recovery import _require_unused, new_data
from hcefs.config import LedgerConfig, TlsConfig, render_ledger_config
from hcefs.errors import Conflict


def test_a_log_that_the_configuration_names_is_not_made_anew(tmp_path: Path) -> None:
    layout = ClusterFolder(tmp_path)
    layout.ledger.mkdir(parents=True)
    _require_unused(layout, new_data(layout, 2))  # the configuration is lost, too
    named = TlsConfig(*(layout.ledger / name for name in ("tls.crt", "tls.key", "ca.crt")))
    config = LedgerConfig(
        new_data(layout, 2), tmp_path / "genesis.cbor", layout.ledger / "writer.key",
        "127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3", named,
    )  # fmt: skip
    text = render_ledger_config(config, relative_to=layout.ledger)
    (layout.ledger / "config.toml").write_text(text)
    _require_unused(layout, new_data(layout, 3))
    with pytest.raises(Conflict) as caught:
        _require_unused(layout, new_data(layout, 2))
    assert caught.value.reason == "already-recovered"
