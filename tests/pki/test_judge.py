"""What we refuse, each with its own sentence, and what must pass."""

from __future__ import annotations

import base64
import contextlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from hypothesis import given
from hypothesis import strategies as st

from qanat.pki.issue import issue_ca, issue_client
from qanat.pki.judge import covers, judge_ca, judge_server_certificate
from qanat.pki.material import NO_EXPIRY, CertificateRefused, Pair, expiry, fingerprint, load_certificates
from tests.support.pki import DOMAIN, documented_ca, documented_server, now, openssl, serial, throwaway_ca
from tests.support.pki import throwaway_server as issue_server
from tests.support.requirements import requirement

AnyKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
CA_TRUE = x509.BasicConstraints(ca=True, path_length=None)
CA_USAGE = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
SIGN_ONLY = x509.KeyUsage(True, False, False, False, False, False, False, False, False)


@dataclass
class Recipe:
    """A CA certificate of the good kind; each test spoils one field."""

    key: AnyKey | None = None
    constraints: x509.BasicConstraints | None = CA_TRUE
    constraints_critical: bool = True
    subject_key: bool = True
    usage: x509.KeyUsage | None = CA_USAGE
    usage_critical: bool = True
    start: timedelta = timedelta(days=-1)
    end: timedelta = timedelta(days=365)
    digest: type[hashes.SHA224 | hashes.SHA256 | hashes.SHA384 | hashes.SHA512] = hashes.SHA256
    pss: bool = False
    unknown: x509.UnrecognizedExtension | None = None

    def build(self, issuer: x509.Name | None = None) -> x509.CertificateBuilder:
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test ca")])
        self.key = self.key or ec.generate_private_key(ec.SECP256R1())
        public = self.key.public_key()
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(issuer or name).public_key(public)
        builder = builder.serial_number(serial())
        builder = builder.not_valid_before(now() + self.start).not_valid_after(now() + self.end)
        if self.constraints:
            builder = builder.add_extension(self.constraints, critical=self.constraints_critical)
        if self.subject_key:
            builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        if self.usage:
            builder = builder.add_extension(self.usage, critical=self.usage_critical)
        if self.unknown:
            builder = builder.add_extension(self.unknown, critical=True)
        return builder

    def pem(self) -> str:
        builder = self.build()
        assert self.key is not None
        if isinstance(self.key, ed25519.Ed25519PrivateKey):
            certificate = builder.sign(self.key, None)
        elif self.pss:
            scheme = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)
            certificate = builder.sign(self.key, hashes.SHA256(), rsa_padding=scheme)
        else:
            certificate = builder.sign(self.key, self.digest())
        return certificate.public_bytes(serialization.Encoding.PEM).decode()


def rsa_key(bits: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def good() -> str:
    return throwaway_ca().certificate_pem.decode()


def with_key() -> str:
    ca = throwaway_ca()
    return (ca.certificate_pem + ca.key_pem).decode()


def trailing_der() -> str:
    certificate = throwaway_ca().certificate
    der = certificate.public_bytes(serialization.Encoding.DER) + b"\0"
    return f"-----BEGIN CERTIFICATE-----\n{base64.b64encode(der).decode()}\n-----END CERTIFICATE-----\n"


def leaf() -> str:
    return issue_server(throwaway_ca()).certificate_pem.decode()


UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.55555.1"), b"\x05\x00")
REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "C1 missing": (lambda: None, "field is required"),
    "C1 number": (lambda: 5, "must be a string"),
    "C1 empty": (lambda: "", "must not be empty"),
    "C1 blank": (lambda: " \n", "must not be empty"),
    "C2 8193 bytes": (lambda: good().ljust(8193), "at most 8192 bytes"),
    "C2 nine kilobytes": (lambda: "x" * 9000, "at most 8192 bytes"),
    "C3 with its key": (with_key, "private key"),
    "C3 key alone": (lambda: throwaway_ca().key_pem.decode(), "private key"),
    "C3 encrypted key": (lambda: "-----BEGIN ENCRYPTED PRIVATE KEY-----", "private key"),
    "C4 two": (lambda: good() + good(), "exactly one CERTIFICATE block, found 2"),
    "C4 none": (lambda: "hello", "exactly one CERTIFICATE block, found 0"),
    "C4 request": (
        lambda: "-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----",
        "exactly one CERTIFICATE block, found 0",
    ),
    "C5 another block": (lambda: good() + "-----BEGIN X509 CRL-----\nAA==\n-----END X509 CRL-----\n", "no PEM block"),
    "C5 text before": (lambda: "subject=CN = x\n" + good(), "nothing but"),
    "C5 text after": (lambda: good() + "x", "nothing but"),
    "C5 no end": (lambda: good().split("-----END")[0], "nothing but"),
    "C6 garbage base64": (
        lambda: "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----",
        "not valid base64",
    ),
    "C6 not DER": (lambda: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "not valid DER"),
    "C6 trailing bytes": (trailing_der, "not valid DER"),
    "C7 missing": (lambda: Recipe(constraints=None).pem(), "BasicConstraints extension is missing"),
    "C7 leaf": (leaf, "CA:TRUE"),
    "C7 not a CA": (lambda: Recipe(constraints=x509.BasicConstraints(False, None)).pem(), "CA:TRUE"),
    "C7 not critical": (lambda: Recipe(constraints_critical=False).pem(), "marked critical"),
    "C8": (lambda: Recipe(subject_key=False).pem(), "SubjectKeyIdentifier extension is missing"),
    "C9 missing": (lambda: Recipe(usage=None).pem(), "KeyUsage extension is missing"),
    "C9 no keyCertSign": (lambda: Recipe(usage=SIGN_ONLY).pem(), "must include keyCertSign"),
    "C10 expired": (lambda: Recipe(end=timedelta(seconds=-5)).pem(), "has expired"),
    "C10 not yet": (lambda: Recipe(start=timedelta(minutes=6)).pem(), "not valid yet"),
    "C11 P-224": (lambda: Recipe(key=ec.generate_private_key(ec.SECP224R1())).pem(), "P-256, P-384 or P-521"),
    "C11 Ed25519": (lambda: Recipe(key=ed25519.Ed25519PrivateKey.generate()).pem(), "must be RSA or ECDSA"),
    "C12 SHA-224": (lambda: Recipe(digest=hashes.SHA224).pem(), "SHA-256, SHA-384 or SHA-512"),
    "C13": (lambda: Recipe(unknown=UNKNOWN).pem(), "critical extension 1.3.6.1.4.1.55555.1"),
}


@requirement("setup:36")
@pytest.mark.parametrize(("make", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_bad_ca_is_refused_with_its_own_reason(make: Callable[[], object], reason: str) -> None:
    pem = make()
    with pytest.raises(CertificateRefused) as refused:
        judge_ca(pem, now())
    assert str(refused.value).startswith("ca_certificate_pem: ")
    assert reason in str(refused.value)
    assert "BEGIN" not in str(refused.value)


PASSING: dict[str, Callable[[], str]] = {
    "ours": good,
    "RSA 2048": lambda: Recipe(key=rsa_key(2048)).pem(),
    "RSA-PSS": lambda: Recipe(key=rsa_key(2048), pss=True).pem(),
    "P-384": lambda: Recipe(key=ec.generate_private_key(ec.SECP384R1()), digest=hashes.SHA384).pem(),
    "P-521": lambda: Recipe(key=ec.generate_private_key(ec.SECP521R1()), digest=hashes.SHA512).pem(),
    "path length 0": lambda: Recipe(constraints=x509.BasicConstraints(True, 0)).pem(),
    "KeyUsage not critical": lambda: Recipe(usage_critical=False).pem(),
    "ten years": lambda: Recipe(end=timedelta(days=3650)).pem(),
    "starts in four minutes": lambda: Recipe(start=timedelta(minutes=4)).pem(),
    "CRLF": lambda: good().replace("\n", "\r\n"),
    "no last newline": lambda: good().rstrip("\n"),
    "exactly 8192 bytes": lambda: good().ljust(8192),
}


@pytest.mark.parametrize("make", PASSING.values(), ids=PASSING)
def test_a_good_ca_passes(make: Callable[[], str]) -> None:
    assert judge_ca(make(), now()).version is x509.Version.v3


@pytest.mark.slow
def test_an_rsa_4096_ca_passes() -> None:
    judge_ca(Recipe(key=rsa_key(4096)).pem(), now())


def test_a_ca_signed_by_another_ca_passes() -> None:
    root, below = throwaway_ca("root"), Recipe()
    builder = below.build(root.certificate.subject)
    pem = builder.sign(root.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
    assert judge_ca(pem, now()).issuer == root.certificate.subject


@pytest.mark.slow
def test_rsa_1024_sha1_and_version_1_are_refused(tmp_path: Path) -> None:
    small = documented_ca(tmp_path, bits=1024).read_text()
    with pytest.raises(CertificateRefused, match="at least 2048 bits, this one has 1024"):
        judge_ca(small, now())
    weak = documented_ca(tmp_path, digest="sha1").read_text()
    with pytest.raises(CertificateRefused, match="SHA-256"):
        judge_ca(weak, now())
    openssl("req", "-new", "-key", "ca.key", "-subj", "/CN=old", "-out", "v1.csr", cwd=tmp_path)
    openssl("x509", "-req", "-in", "v1.csr", "-signkey", "ca.key", "-out", "v1.crt", "-days", "9", cwd=tmp_path)
    with pytest.raises(CertificateRefused, match="version 3"):
        judge_ca((tmp_path / "v1.crt").read_text(), now())


@requirement("setup:20")
def test_the_documented_openssl_recipe_is_accepted(tmp_path: Path) -> None:
    ca = judge_ca(documented_ca(tmp_path).read_text(), now())
    server = load_certificates(documented_server(tmp_path).read_bytes())[0]
    assert judge_server_certificate(server, [ca], f"tickets.{DOMAIN}", now()) == ca
    printed = openssl("x509", "-in", "ca.crt", "-noout", "-fingerprint", "-sha256", cwd=tmp_path)
    assert fingerprint(ca) == printed.strip().partition("=")[2].replace(":", "").lower()


def test_a_certificate_without_end_has_no_expiry() -> None:
    ca = throwaway_ca()
    assert expiry(ca.certificate) == ca.certificate.not_valid_after_utc
    name = x509.Name([])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).serial_number(1)
    builder = builder.public_key(ca.key.public_key()).not_valid_before(now()).not_valid_after(NO_EXPIRY)
    assert expiry(builder.sign(ca.key, hashes.SHA256())) is None


@given(st.text(max_size=200), st.booleans())
def test_garbage_is_only_ever_refused(text: str, framed: bool) -> None:
    pem = f"-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n" if framed else text
    with pytest.raises(CertificateRefused):
        judge_ca(pem, now())


GOOD_DER = throwaway_ca().certificate.public_bytes(serialization.Encoding.DER)


@given(st.integers(0, len(GOOD_DER) - 1), st.integers(1, 255))
def test_a_certificate_with_one_byte_changed_is_judged_or_refused(position: int, change: int) -> None:
    der = bytearray(GOOD_DER)
    der[position] ^= change
    pem = f"-----BEGIN CERTIFICATE-----\n{base64.b64encode(der).decode()}\n-----END CERTIFICATE-----\n"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the parser has opinions on odd serial numbers
        with contextlib.suppress(CertificateRefused):  # anything else would be a bug
            judge_ca(pem, now())


class TestServerCertificate:
    def refuse(self, pair: Pair, *cas: Pair, host: str = f"tickets.{DOMAIN}", later: timedelta = timedelta()) -> str:
        with pytest.raises(CertificateRefused) as refused:
            judge_server_certificate(pair.certificate, [ca.certificate for ca in cas], host, now() + later)
        return str(refused.value)

    def test_the_second_registered_ca_counts_too(self) -> None:
        old, new = throwaway_ca(), throwaway_ca()
        found = judge_server_certificate(
            issue_server(new).certificate, [old.certificate, new.certificate], DOMAIN, now()
        )
        assert found == new.certificate

    def test_no_ca_means_no_trust(self) -> None:
        assert "not signed directly" in self.refuse(issue_server(throwaway_ca()))

    def test_a_ca_of_the_same_name_is_not_the_same_ca(self) -> None:
        assert "not signed directly" in self.refuse(issue_server(throwaway_ca()), throwaway_ca())

    def test_an_intermediate_does_not_count(self) -> None:
        root, recipe = throwaway_ca("root"), Recipe()
        between = recipe.build(root.certificate.subject).sign(root.key, hashes.SHA256())
        assert isinstance(recipe.key, ec.EllipticCurvePrivateKey)
        server = issue_server(Pair(between, recipe.key))
        assert "not signed directly" in self.refuse(server, root)
        assert judge_server_certificate(server.certificate, [between], DOMAIN, now()) == between

    def test_the_name_must_be_covered(self) -> None:
        ca = throwaway_ca()
        assert "does not cover" in self.refuse(issue_server(ca), ca, host="tickets.other.example.net")
        assert "does not cover" in self.refuse(issue_server(ca), ca, host=f"a.b.{DOMAIN}")

    def test_the_leaf_must_be_in_validity(self) -> None:
        ca = throwaway_ca()
        assert "server certificate has expired" in self.refuse(issue_server(ca), ca, later=timedelta(days=91))
        assert "not valid yet" in self.refuse(issue_server(ca), ca, later=timedelta(minutes=-6))

    def test_the_ca_must_be_in_validity(self) -> None:
        ca = issue_ca("short", now(), serial(), lifetime=timedelta(days=3))
        assert "CA certificate has expired" in self.refuse(issue_server(ca), ca, later=timedelta(days=4))

    def test_a_client_certificate_does_not_serve(self) -> None:
        ca = throwaway_ca()
        client = issue_client(ca, DOMAIN, now(), serial())
        assert "serverAuth" in self.refuse(client, ca, host=DOMAIN)

    def test_the_authority_key_must_be_named(self, tmp_path: Path) -> None:
        ca_file = documented_ca(tmp_path)
        openssl("req", "-new", "-key", "ca.key", "-subj", "/CN=x", "-out", "tls.csr", cwd=tmp_path)
        (tmp_path / "server.ext").write_text(f"subjectAltName=DNS:{DOMAIN}\nauthorityKeyIdentifier=none\n")
        openssl(
            *("x509", "-req", "-in", "tls.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial"),
            *("-extfile", "server.ext", "-out", "tls.crt"),
            cwd=tmp_path,
        )
        certificate = load_certificates((tmp_path / "tls.crt").read_bytes())[0]
        with pytest.raises(CertificateRefused, match="AuthorityKeyIdentifier extension is missing"):
            judge_server_certificate(certificate, load_certificates(ca_file.read_bytes()), DOMAIN, now())


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        (f"tickets.{DOMAIN}", True),
        (f"TICKETS.{DOMAIN.upper()}.", True),
        (DOMAIN, True),
        (f"a.b.{DOMAIN}", False),
        (f".{DOMAIN}", False),
        ("", False),
        ("tickets.example.net", False),
    ],
)
def test_a_wildcard_stands_for_one_label(host: str, expected: bool) -> None:
    assert covers(issue_server(throwaway_ca()).certificate, host) is expected
