"""Certificates and detached CMS for `generate.py`, the DER written by hand."""

import datetime
import hashlib

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


def sha256(data):
    return hashlib.sha256(data).digest()


def der(tag, *parts):
    body = b"".join(parts)
    n = len(body)
    length = bytes([n]) if n < 128 else bytes([0x80 | (n.bit_length() + 7) // 8]) + n.to_bytes((n.bit_length() + 7) // 8)
    return bytes([tag]) + length + body


def oid(dotted):
    first, second, *rest = map(int, dotted.split("."))
    out = bytes([first * 40 + second])
    for n in rest:
        digits = [n & 0x7F]
        while n := n >> 7:
            digits.insert(0, n & 0x7F | 0x80)
        out += bytes(digits)
    return der(6, out)


class Identity:
    """A key pair derived from its name, and its certificate."""

    def __init__(self, country, name):
        secret = int.from_bytes(sha256(f"keyferry test {country} {name}".encode())) >> 1
        self.key = ec.derive_private_key(secret, ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COUNTRY_NAME, country),
                               x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self.serial = int.from_bytes(sha256(name.encode())[:8]) >> 1
        usage = x509.KeyUsage(True, *[False] * 8)
        certificate = (x509.CertificateBuilder(self.name, self.name, self.key.public_key(), self.serial)
                       .not_valid_before(datetime.datetime(2020, 10, 1)).not_valid_after(datetime.datetime(2022, 10, 1))
                       .add_extension(usage, True).sign(self.key, hashes.SHA256(), ecdsa_deterministic=True))
        self.der = certificate.public_bytes(serialization.Encoding.DER)
        self.pem = certificate.public_bytes(serialization.Encoding.PEM).decode()

    def sign(self, content):
        return self.key.sign(content, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))

    def cms(self, content):
        sha2 = der(0x30, oid("2.16.840.1.101.3.4.2.1"))
        serial = self.serial.to_bytes(self.serial.bit_length() // 8 + 1)
        signer = der(0x30, der(2, b"\x01"), der(0x30, self.name.public_bytes(), der(2, serial)), sha2,
                     der(0x30, oid("1.2.840.10045.4.3.2")), der(4, self.sign(content)))
        data = der(0x30, der(2, b"\x01"), der(0x31, sha2), der(0x30, oid("1.2.840.113549.1.7.1")),
                   der(0xA0, self.der), der(0x31, signer))
        return der(0x30, oid("1.2.840.113549.1.7.2"), der(0xA0, data))
