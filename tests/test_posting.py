"""Where a user's address may lead: looked up once, checked, and connected to at the very address that was checked."""

import asyncio
import ipaddress
import socket
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from app.domain.webhook import DeliveryError, is_public
from app.posting import Policy, Poster
from tests.receiver import receiving

PRIVATE = [
    "127.0.0.1", "127.8.9.10", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
    "192.0.2.1", "198.18.0.1", "224.0.0.1", "239.1.2.3", "240.0.0.1", "255.255.255.255", "192.88.99.1",
    "::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "64:ff9b::7f00:1", "2002:7f00:1::", "2001:0:1::1",
    "fe80::1", "fe80::1%eth0", "fec0::1", "fc00::1", "fd12::1", "ff02::1", "2001:db8::1", "100::1",
]  # fmt: skip
PUBLIC = ["8.8.8.8", "1.1.1.1", "93.184.215.14", "2606:4700:4700::1111", "2a00:1450:4001:80b::200e"]


@pytest.fixture
def names(monkeypatch):
    """Answer look-ups of these names in turn; the last answer stays. Keep which names were asked for."""
    answers, asked, real = {}, [], socket.getaddrinfo

    def look_up(host, port, *rest, **named):
        if host not in answers:
            return real(host, port, *rest, **named)
        asked.append(host)
        found = answers[host].pop(0) if len(answers[host]) > 1 else answers[host][0]
        family = {True: socket.AF_INET6, False: socket.AF_INET}
        return [(family[":" in it], socket.SOCK_STREAM, 6, "", (it, port)) for it in found]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return answers, asked


def post(url, **policy):
    return asyncio.run(Poster(Policy(timeout_seconds=60, **policy)).post(url, {"x-test": "1"}, b"{}"))


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_that_is_not_of_the_open_internet(names, address):
    assert not is_public(address)
    names[0]["trap.test"] = [[address]]
    assert post("http://trap.test/").error is DeliveryError.ADDRESS_REFUSED
    names[0]["trap.test"] = [["8.8.8.8", address]]
    assert post("http://trap.test/").error is DeliveryError.ADDRESS_REFUSED


@pytest.mark.parametrize("address", PUBLIC)
def test_an_address_of_the_open_internet(address):
    assert is_public(address)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "[::1]", "localhost", "127.1", "0x7f000001", "2130706433", "[::ffff:127.0.0.1]"]
)
def test_no_way_of_writing_it_leads_to_this_machine(host):
    with receiving() as receiver:
        assert post(f"http://{host}:{receiver.port}/").error is DeliveryError.ADDRESS_REFUSED
        assert receiver.got == []


def test_a_name_is_looked_up_once_and_the_connection_goes_there(names, tmp_path, monkeypatch):
    certificate, authority = make_certificate(tmp_path, "receiver.test")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    answers, asked = names
    # Who looked twice would be led to where nobody listens.
    answers["receiver.test"] = [["127.0.0.1"], ["127.0.0.2"]]
    with receiving(certificate=certificate) as receiver:
        outcome = post(f"https://receiver.test:{receiver.port}/hook", private=True)
        assert outcome.status == 200
        assert asked == ["receiver.test"]
        assert receiver.names == ["receiver.test"]
        assert [headers["host"] for _, headers, _ in receiver.got] == [f"receiver.test:{receiver.port}"]


def test_a_certificate_of_another_name_or_authority(names, tmp_path, monkeypatch):
    certificate, authority = make_certificate(tmp_path, "other.test")
    names[0]["receiver.test"] = [["127.0.0.1"]]
    with receiving(certificate=certificate) as receiver:
        url = f"https://receiver.test:{receiver.port}/"
        assert post(url, private=True).error is DeliveryError.TLS_FAILED
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        assert post(url, private=True).error is DeliveryError.TLS_FAILED
        assert receiver.got == []


def redirect(status, location):
    def answer(handler):
        if handler.path == "/end":
            status_, location_ = 200, None
        else:
            status_, location_ = status, location
        handler.send_response(status_)
        if location_:
            handler.send_header("Location", location_)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


@pytest.mark.parametrize(
    ("status", "location", "allowed", "error", "paths"),
    [
        (307, "/end", False, DeliveryError.REDIRECT, ["/"]),
        (307, "/end", True, None, ["/", "/end"]),
        (308, "/end", True, None, ["/", "/end"]),
        (302, "/end", True, DeliveryError.REDIRECT, ["/"]),
        (307, "/", True, DeliveryError.REDIRECT, ["/"] * 4),
        (307, "file:///etc/passwd", True, DeliveryError.PROTOCOL_ERROR, ["/"]),
    ],
)
def test_redirects(status, location, allowed, error, paths):
    with receiving(redirect(status, location)) as receiver:
        outcome = post(f"http://127.0.0.1:{receiver.port}/", private=True, redirects=allowed)
        assert outcome.error == error
        assert [path for path, _, _ in receiver.got] == paths


def test_a_redirect_into_the_own_network(names):
    # The first answer leads to the receiver as the open internet would; its redirect does not.
    names[0]["open.test"] = [["127.0.0.1"]]
    names[0]["trap.test"] = [["10.0.0.1"]]

    with receiving(redirect(307, "http://trap.test/")) as receiver:
        poster = Poster(Policy(redirects=True, timeout_seconds=60))
        poster._backend._allowed = lambda address: address == "127.0.0.1"
        outcome = asyncio.run(poster.post(f"http://open.test:{receiver.port}/", {}, b"{}"))
        assert outcome.error is DeliveryError.ADDRESS_REFUSED
        assert len(receiver.got) == 1


def make_certificate(folder, name):
    """Make a certificate for a name by an authority of its own; give both files."""
    now = datetime.now(UTC)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "authority")])

    def build(subject, key, *extensions):
        builder = x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(keys[0], hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    authority = folder / "authority.pem"
    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    own = x509.SubjectKeyIdentifier.from_public_key(keys[0].public_key())
    issued = x509.AuthorityKeyIdentifier.from_issuer_public_key(keys[0].public_key())
    basic = x509.BasicConstraints(ca=True, path_length=None)
    authority.write_bytes(build(issuer, keys[0], (basic, True), (usage, True), (own, False)))
    certificate = folder / "receiver.pem"
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    names = x509.SubjectAlternativeName([x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("192.0.2.1"))])
    private = keys[1].private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    certificate.write_bytes(build(subject, keys[1], (names, False), (issued, False)) + private)
    return certificate, authority
