"""The verbs about key files: passphrases come from files or the terminal, never from argv."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hcefs.cli.cluster_files import ClusterFolder
from hcefs.cli.passphrases import Passphrases, read_passphrase
from hcefs.crypto import accounts
from hcefs.crypto.accounts import AccountKeys, is_sealed, load_account
from hcefs.crypto.passphrase import Argon2Cost
from hcefs.errors import Invalid, NotFound
from hcefs.ids import AccountId, ClusterId
from tests.cli.conftest import Invoke

KEYS = AccountKeys.generate(ClusterId(b"c" * 16), bytes(range(128)))
ONE, TWO = "the first passphrase", "the second passphrase"
ACCOUNT = AccountId(b"a" * 16)


def secret_file(path: Path, text: str, mode: int = 0o600) -> Path:
    path.touch(mode=0o600)
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ClusterFolder:
    """A folder with one account's keys; sealing is quick."""
    monkeypatch.setattr(accounts, "DEFAULT_COST", Argon2Cost(8, 1, 1))
    monkeypatch.delenv("HCEFS_PASSPHRASE_FILE", raising=False)
    made = ClusterFolder(tmp_path / "cluster")
    made.root.mkdir()
    made.save_connection(KEYS.cluster, "127.0.0.1:1", [])
    KEYS.save(made.account_file("pat"))
    return made


def test_a_passphrase_is_set_changed_and_removed(
    invoke: Invoke, folder: ClusterFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder.account_file("pat")
    one, two = secret_file(tmp_path / "one", ONE + "\n"), secret_file(tmp_path / "two", TWO)
    verb = ("keys", "passphrase", "--as", "pat", "--dir", folder.root, "--json")
    done = invoke(*verb, "--new-passphrase-file", one)
    assert (done.exit_code, json.loads(done.stdout)["passphrase"]) == (0, "set")
    assert load_account(path, lambda _: ONE) == KEYS
    # Without the passphrase nothing is changed, and the id is known all the same.
    assert invoke(*verb, "--remove").exit_code == 2
    assert folder.account_id("pat") == KEYS.account
    assert folder.known_names() == {KEYS.account: "pat"}
    monkeypatch.setenv("HCEFS_PASSPHRASE_FILE", str(two))
    wrong = invoke(*verb, "--remove")
    assert wrong.exit_code == 4
    assert "passphrase" in wrong.output
    assert TWO not in wrong.output
    changed = invoke("--passphrase-file", one, *verb, "--new-passphrase-file", two)
    assert (changed.exit_code, json.loads(changed.stdout)["passphrase"]) == (0, "changed")
    assert load_account(path, lambda _: TWO) == KEYS
    removed = invoke(*verb, "--remove")
    assert (removed.exit_code, json.loads(removed.stdout)["passphrase"]) == (0, "removed")
    assert not is_sealed(path)
    assert load_account(path) == KEYS
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_weak_passphrase_is_not_set(
    invoke: Invoke, folder: ClusterFolder, tmp_path: Path
) -> None:
    weak = secret_file(tmp_path / "weak", "1234567")
    verb = ("keys", "passphrase", "--as", "pat", "--dir", folder.root)
    refused = invoke(*verb, "--new-passphrase-file", weak)
    assert refused.exit_code == 2
    assert str(weak) in refused.output.replace("\n", "")
    assert "1234567" not in refused.output
    assert load_account(folder.account_file("pat")) == KEYS


@pytest.mark.parametrize(
    ("text", "mode", "reason"),
    [
        ("a passphrase", 0o640, "open-file"),
        ("a passphrase", 0o604, "open-file"),
        ("", 0o600, "bad-passphrase-file"),
        ("\n", 0o600, "bad-passphrase-file"),
        ("x" * 2000, 0o600, "bad-passphrase-file"),
        (b"a secret that is no text \xff", 0o600, "bad-passphrase-file"),
    ],
)
def test_files_of_passphrases_are_checked(
    tmp_path: Path, text: str | bytes, mode: int, reason: str
) -> None:
    path = tmp_path / "file"
    data = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(data)
    path.chmod(mode)
    with pytest.raises(Invalid) as caught:
        read_passphrase(path)
    assert caught.value.reason == reason
    assert str(path) in caught.value.message
    assert not _shows(caught.value, "secret")
    assert "a passphrase" not in caught.value.message
    with pytest.raises(NotFound):
        read_passphrase(tmp_path / "missing")
    with pytest.raises(Invalid) as folder:
        read_passphrase(tmp_path)
    assert folder.value.reason == "bad-file"


def test_what_a_terminal_cannot_decode_is_no_passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lone surrogates stand for bytes that are no text; no error shows them or the rest."""
    typed(monkeypatch, "secret words \udcff", "secret words \udcff")
    asks: list[Callable[[], str]] = [
        lambda: Passphrases().of(ACCOUNT),
        lambda: Passphrases().new("of pat"),
    ]
    for ask in asks:
        with pytest.raises(Invalid) as caught:
            ask()
        assert caught.value.reason == "bad-passphrase"
        assert not _shows(caught.value, "secret")


def test_one_newline_is_not_part_of_a_passphrase(tmp_path: Path) -> None:
    assert read_passphrase(secret_file(tmp_path / "a", "two words \r\n")) == "two words "
    assert read_passphrase(secret_file(tmp_path / "b", "two words\n\n")) == "two words\n"


def _shows(error: BaseException | None, text: str) -> bool:
    """Whether an error, or what it came of, has a text in its words or its arguments."""
    return error is not None and (
        text in repr(vars(error))
        or text in str(error)
        or text in repr(error.args)
        or _shows(error.__cause__, text)
        or _shows(error.__context__, text)
    )


class _Terminal:
    def isatty(self) -> bool:
        return True


def typed(monkeypatch: pytest.MonkeyPatch, *answers: str) -> list[str]:
    """A terminal on which these are typed; returns the prompts."""
    prompts: list[str] = []
    coming = iter(answers)

    def answer(prompt: str) -> str:
        prompts.append(prompt)
        return next(coming)

    monkeypatch.setattr("sys.stdin", _Terminal())
    monkeypatch.setattr("hcefs.cli.passphrases.getpass", answer)
    return prompts


def test_the_terminal_is_asked_once_an_account_and_twice_for_a_new_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prompts = typed(monkeypatch, ONE, TWO, TWO, ONE, TWO)
    source = Passphrases()
    assert [source.of(ACCOUNT), source.of(ACCOUNT)] == [ONE, ONE]
    assert len(prompts) == 1
    assert ACCOUNT.text in prompts[0]
    assert source.new("of pat") == TWO
    with pytest.raises(Invalid) as caught:
        source.new("of pat")
    assert caught.value.reason == "passphrases-differ"


def test_without_file_and_terminal_it_says_what_to_do() -> None:
    with pytest.raises(Invalid, match="HCEFS_PASSPHRASE_FILE") as caught:
        Passphrases().of(ACCOUNT)
    assert caught.value.reason == "passphrase-needed"


def test_recovering_refuses_what_is_no_share(
    invoke: Invoke, folder: ClusterFolder, tmp_path: Path
) -> None:
    words = tmp_path / "words"
    words.write_text("academic acid acrobat\n")
    verb = ("keys", "recover", "new", "--dir", folder.root, "--share")
    assert invoke(*verb, words).exit_code == 2  # no capsule
    assert invoke(*verb, tmp_path / "missing").exit_code == 3
    damaged = tmp_path / "damaged"
    damaged.write_bytes(b"\xff\x00")
    refused = invoke(*verb, damaged)
    assert refused.exit_code == 7
    assert "damaged" in refused.output
    assert not folder.account_file("new").exists()
