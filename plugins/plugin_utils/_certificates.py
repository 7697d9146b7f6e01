# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A directory of certificates on the controller: what is in it, and what is due.

ca.crt, ca.key, hosts/<host>.crt, hosts/<host>.key
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError

try:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
    from cryptography.x509.oid import NameOID
except ImportError as error:
    LACKING: ImportError | None = error
else:
    LACKING = None

START_ANEW = "or move the directory away to have all certificates made anew"
DAY = timedelta(days=1)


def alternative_names(names: Iterable[str]) -> list[str]:
    """Names and addresses as subject alternative names: DNS:north-1, IP:192.0.2.1."""
    return list(dict.fromkeys(alternative_name(name) for name in names if name))


def alternative_name(name: str) -> str:
    try:
        return f"IP:{ipaddress.ip_address(name)}"
    except ValueError:
        return f"DNS:{name}"


def load_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise MusterError(f"{path} cannot be read as a certificate: {error}") from error


@dataclass(frozen=True)
class Authority:
    """The CA: both of its files, or neither, or a problem."""

    directory: Path
    problem: str = ""
    certificate: x509.Certificate | None = None

    @classmethod
    def read(cls, directory: Path, now: datetime) -> Authority:
        present = {name: (directory / name).exists() for name in ("ca.crt", "ca.key")}
        if not any(present.values()):
            foreign = directory.is_dir() and any(directory.iterdir())
            problem = f"{directory} holds no CA, but other files: bring ca.crt and ca.key back, {START_ANEW}"
            return cls(directory, problem if foreign else "")
        if not all(present.values()):
            there, missing = sorted(present, key=lambda name: not present[name])
            return cls(directory, f"{directory} holds {there} but no {missing}: bring it back, {START_ANEW}")
        certificate = load_certificate(directory / "ca.crt")
        if certificate.not_valid_after_utc <= now:
            ended = certificate.not_valid_after_utc.date()
            problem = f"the CA {directory}/ca.crt ended on {ended}: put a new one in its place, {START_ANEW}"
            return cls(directory, problem, certificate)
        return cls(directory, "", certificate)

    def describe(self, now: datetime) -> dict[str, Any]:
        known = describe(self.certificate, now) if self.certificate else {}
        return {"exists": self.certificate is not None, "problem": self.problem, **known}


@dataclass(frozen=True)
class HostCertificate:
    """One host's certificate and key, and the CA that should have issued it."""

    name: str
    authority: Authority
    certificate: x509.Certificate | None = None
    broken: str = ""
    key_problem: str = ""
    alternative_names: frozenset[str] = field(default_factory=frozenset)

    @classmethod
    def read(cls, name: str, authority: Authority) -> HostCertificate:
        base = authority.directory / "hosts" / name
        path, key_path = Path(f"{base}.crt"), Path(f"{base}.key")
        if not path.exists():
            return cls(name, authority)
        try:
            certificate = load_certificate(path)
        except MusterError as error:
            return cls(name, authority, broken=str(error))
        return cls(
            name,
            authority,
            certificate,
            key_problem=key_problem(key_path, certificate),
            alternative_names=frozenset(names_in(certificate)),
        )

    def due(self, wanted: Iterable[str], renew_below: float, now: datetime) -> list[str]:
        """Why it must be issued (anew); empty when it is good."""
        if self.authority.problem:
            return [self.authority.problem]
        if self.certificate is None:
            return [self.broken or "there is none yet"]
        reasons = [self.key_problem] if self.key_problem else []
        missing = sorted(set(wanted) - self.alternative_names)
        if missing:
            reasons.append(f"it is not valid for {', '.join(missing)}")
        if not issued_by(self.certificate, self.authority.certificate):
            reasons.append("it was not issued by this CA")
        end = self.certificate.not_valid_after_utc
        life = end - self.certificate.not_valid_before_utc
        if end - now < life * renew_below:
            reasons.append(f"it ends on {end.date()}")
        return reasons


def key_problem(path: Path, certificate: x509.Certificate) -> str:
    if not path.exists():
        return "its private key is missing"
    if path.stat().st_mode & 0o077:
        return "its private key may be read by others"
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError):
        return "its private key cannot be read"
    if key.public_key().public_bytes(*form) != certificate.public_key().public_bytes(*form):
        return "its private key belongs to another certificate"
    return ""


def names_in(certificate: x509.Certificate) -> list[str]:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    addresses = [f"IP:{address}" for address in extension.get_values_for_type(x509.IPAddress)]
    return [f"DNS:{name}" for name in extension.get_values_for_type(x509.DNSName)] + addresses


def issued_by(certificate: x509.Certificate, authority: x509.Certificate | None) -> bool:
    if authority is None:
        return False
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def common_name(name: x509.Name) -> str:
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else name.rfc4514_string()


def describe(certificate: x509.Certificate, now: datetime) -> dict[str, Any]:
    return {
        "subject": common_name(certificate.subject),
        "issuer": common_name(certificate.issuer),
        "serial": f"{certificate.serial_number:x}",
        "not_before": certificate.not_valid_before_utc.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "not_after": certificate.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "days_left": (certificate.not_valid_after_utc - now) // DAY,
        "names": names_in(certificate),
    }


def certificate_info(
    name: str, directory: str, wanted: Iterable[str], renew_below: float, now: datetime | None = None
) -> dict[str, Any]:
    """One host's certificate, its CA, and the reasons to issue it (anew)."""
    if LACKING:
        raise MusterError("the controller's Python lacks the package cryptography") from LACKING
    now = now or datetime.now(UTC)
    authority = Authority.read(Path(directory).expanduser(), now)
    found = HostCertificate.read(name, authority)
    known = describe(found.certificate, now) if found.certificate else {}
    names = alternative_names(wanted)
    return {
        "exists": found.certificate is not None,
        **known,
        "wanted_names": names,
        "due": found.due(names, renew_below, now),
        "authority": authority.describe(now),
    }
