# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which certificates are due, decided on real ones."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleError
from ansible.plugins.loader import lookup_loader
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.plugin_utils import _certificates
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

NAMES = ["north-1", "192.0.2.1", "2001:db8:0::1"]
Key = ec.EllipticCurvePrivateKey


def name_of(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


class Pki:
    """A directory as the role leaves it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "hosts").mkdir(parents=True)
        self.key = self.new_authority()

    def new_authority(self, days: float = 3650) -> Key:
        key = ec.generate_private_key(ec.SECP256R1())
        self.write(self.directory / "ca", key, self.sign("Muster CA", key, key, days=days))
        self.key = key
        return key

    def sign(
        self,
        subject: str,
        key: Key,
        by: Key,
        names: list[str] | None = None,
        days: float = 397,
        age: float = 0,
    ) -> x509.Certificate:
        start = datetime.now(UTC) - timedelta(days=age)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name_of(subject))
            .issuer_name(name_of("Muster CA"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + timedelta(days=days))
        )
        if names:
            wanted: list[x509.GeneralName] = []
            for each in _certificates.alternative_names(names):
                kind, _colon, value = each.partition(":")
                wanted.append(
                    x509.IPAddress(_certificates.ipaddress.ip_address(value))
                    if kind == "IP"
                    else x509.DNSName(value)
                )
            builder = builder.add_extension(x509.SubjectAlternativeName(wanted), critical=False)
        return builder.sign(by, hashes.SHA256())

    def write(self, base: Path, key: Key, certificate: x509.Certificate) -> None:
        Path(f"{base}.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
        key_path = Path(f"{base}.key")
        key_path.touch(mode=0o600)
        key_path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

    def issue(self, host: str, **options: Any) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        options.setdefault("names", NAMES)
        self.write(self.directory / "hosts" / host, key, self.sign(host, key, self.key, **options))

    def due(self, host: str = "north-1", names: list[str] | None = None) -> list[str]:
        due: list[str] = self.info(host, names)["due"]
        return due

    def info(self, host: str = "north-1", names: list[str] | None = None) -> dict[str, Any]:
        return _certificates.certificate_info(host, str(self.directory), names or NAMES, 0.3333)


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path / "pki")


def test_a_good_certificate_is_not_due(pki: Pki) -> None:
    pki.issue("north-1")
    info = pki.info()
    assert info["due"] == []
    assert info["subject"] == "north-1"
    assert info["issuer"] == "Muster CA"
    assert info["days_left"] == 396
    assert info["names"] == ["DNS:north-1", "IP:192.0.2.1", "IP:2001:db8::1"] == info["wanted_names"]
    assert info["authority"]["problem"] == ""


def test_nothing_there_yet(tmp_path: Path) -> None:
    info = _certificates.certificate_info("north-1", str(tmp_path / "none"), NAMES, 0.3333)
    assert info["due"] == ["there is none yet"]
    assert info["authority"] == {"exists": False, "problem": ""}


@pytest.mark.parametrize(("age", "due"), [(264, False), (266, True), (396, True), (500, True)])
def test_renewed_in_the_last_third_of_its_life(pki: Pki, age: float, due: bool) -> None:
    pki.issue("north-1", age=age)
    assert [reason.startswith("it ends on ") for reason in pki.due()] == [True] * due


def test_a_name_asked_for_later(pki: Pki) -> None:
    pki.issue("north-1")
    assert pki.due(names=[*NAMES, "db", "10.0.0.1"]) == ["it is not valid for DNS:db, IP:10.0.0.1"]
    # One name more than asked for harms nobody.
    assert pki.due(names=["north-1"]) == []


def test_a_new_authority(pki: Pki) -> None:
    pki.issue("north-1")
    pki.new_authority()
    assert pki.due() == ["it was not issued by this CA"]


def test_private_keys_that_are_no_good(pki: Pki) -> None:
    pki.issue("north-1")
    key = pki.directory / "hosts" / "north-1.key"
    os.chmod(key, 0o640)
    assert pki.due() == ["its private key may be read by others"]
    os.chmod(key, 0o600)
    key.write_bytes((pki.directory / "ca.key").read_bytes())
    assert pki.due() == ["its private key belongs to another certificate"]
    key.write_text("no key")
    assert pki.due() == ["its private key cannot be read"]
    key.unlink()
    assert pki.due() == ["its private key is missing"]


def test_a_torn_certificate(pki: Pki) -> None:
    pki.issue("north-1")
    path = pki.directory / "hosts" / "north-1.crt"
    path.write_text("-----BEGIN CERTIFICATE-----\n")
    (reason,) = pki.due()
    assert reason.startswith(f"{path} cannot be read as a certificate: ")


@pytest.mark.parametrize(("left", "gone"), [("ca.crt", "ca.key"), ("ca.key", "ca.crt")])
def test_half_an_authority(pki: Pki, left: str, gone: str) -> None:
    pki.issue("north-1")
    (pki.directory / gone).unlink()
    problem = (
        f"{pki.directory} holds {left} but no {gone}: bring it back,"
        " or move the directory away to have all certificates made anew"
    )
    assert pki.info()["authority"]["problem"] == problem
    assert pki.due() == [problem]


def test_a_directory_without_authority_is_not_ours(pki: Pki) -> None:
    (pki.directory / "ca.crt").unlink()
    (pki.directory / "ca.key").unlink()
    assert pki.due()[0].startswith(f"{pki.directory} holds no CA, but other files: ")


def test_an_expired_authority(pki: Pki) -> None:
    pki.issue("north-1")
    pki.key = ec.generate_private_key(ec.SECP256R1())
    pki.write(pki.directory / "ca", pki.key, pki.sign("Muster CA", pki.key, pki.key, days=10, age=20))
    ended = (datetime.now(UTC) - timedelta(days=10)).date()
    assert pki.due()[0].startswith(f"the CA {pki.directory}/ca.crt ended on {ended}: ")


def test_lookup_answers_per_host(pki: Pki) -> None:
    pki.issue("north-1")
    lookup = lookup_loader.get("muster.platform.certificate_info")
    first, second = lookup.run(["north-1", "south-1"], {}, directory=str(pki.directory), names=NAMES)
    assert first["due"] == []
    assert second["due"] == ["there is none yet"]


def test_lookup_names_an_authority_that_cannot_be_read(pki: Pki) -> None:
    (pki.directory / "ca.crt").write_text("nothing")
    lookup = lookup_loader.get("muster.platform.certificate_info")
    with pytest.raises(AnsibleError, match=r"ca\.crt cannot be read as a certificate"):
        lookup.run(["north-1"], {}, directory=str(pki.directory))


def test_pem_returns_the_text_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.crt"
    path.write_text("text\n")
    assert lookup_loader.get("muster.platform.pem").run([str(path)], {}) == ["text\n"]


def test_pem_that_does_not_exist(tmp_path: Path) -> None:
    path = tmp_path / "a.crt"
    lookup = lookup_loader.get("muster.platform.pem")
    assert lookup.run([str(path)], {"ansible_check_mode": True}) == ["# a.crt: not made in check mode\n"]
    with pytest.raises(AnsibleError, match=r"a\.crt does not exist: the role certificates makes it"):
        lookup.run([str(path)], {"ansible_check_mode": False})


def test_a_controller_without_cryptography(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_certificates, "LACKING", ImportError("no"))
    with pytest.raises(MusterError, match="the controller's Python lacks the package cryptography"):
        pki.info()
