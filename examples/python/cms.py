"""Detached CMS signatures (RFC 5652), verified by nothing but the public-key operations of `cryptography`."""
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from wire import Broken, need

SIGNED_DATA, DATA = "1.2.840.113549.1.7.2", "1.2.840.113549.1.7.1"
CONTENT_TYPE, MESSAGE_DIGEST = "1.2.840.113549.1.9.3", "1.2.840.113549.1.9.4"
SHA2 = {"2.16.840.1.101.3.4.2.1": hashes.SHA256, "2.16.840.1.101.3.4.2.2": hashes.SHA384,
        "2.16.840.1.101.3.4.2.3": hashes.SHA512}
# RSA, and RSA with SHA-256, SHA-384, SHA-512; the same of ECDSA.
RSA = {f"1.2.840.113549.1.1.{n}" for n in (1, 11, 12, 13)}
ECDSA = {"1.2.840.10045.2.1", *(f"1.2.840.10045.4.3.{n}" for n in (2, 3, 4))}
PSS, MGF1 = "1.2.840.113549.1.1.10", "1.2.840.113549.1.1.8"
SEQUENCE, SET, OCTETS, OID = 0x30, 0x31, 0x04, 0x06


class Element:
    """One element of BER at `at`: its tag, its parts or its body, where it ends, and its bytes as they came."""

    def __init__(self, data, at=0, depth=0):
        need(depth < 32 and at + 2 <= len(data) and data[at] & 31 != 31, "the CMS is malformed")
        self.tag, length, start = data[at], data[at + 1], at + 2
        if length > 0x80:
            start += length & 0x7F
            length = int.from_bytes(data[at + 2 : start])
        elif length == 0x80:
            # It ends with two zero bytes.
            need(self.tag & 0x20, "the CMS is malformed")
            length = None
        end = len(data) if length is None else start + length
        need(end <= len(data), "the CMS ends too early")
        self.body, self.parts = data[start:end], []
        if self.tag & 0x20:
            while start < end and not (length is None and data[start : start + 2] == b"\0\0"):
                self.parts.append(Element(data, start, depth + 1))
                start = self.parts[-1].end
            need(start == end or length is None and start < end, "the CMS is malformed")
            end = start + 2 if length is None else end
        self.end, self.raw = end, data[at:end]

    def octets(self):
        """What an octet string says, be it whole or in pieces."""
        return b"".join(part.octets() for part in self.parts) if self.tag & 0x20 else self.body

    def oid(self):
        need(self.tag == OID and self.body, "the CMS is malformed")
        arcs, number = [], 0
        for byte in self.body:
            number = number << 7 | byte & 0x7F
            if byte < 0x80:
                arcs.append(number)
                number = 0
        first = min(arcs[0] // 40, 2)
        return ".".join(map(str, (first, arcs[0] - 40 * first, *arcs[1:])))


def take(parts, tag):
    need(parts and parts[0].tag == tag, "the CMS is malformed")
    return parts.pop(0)


def optional(parts, tag):
    return parts.pop(0) if parts and parts[0].tag == tag else None


def sha2(algorithm):
    name = algorithm.parts[0].oid()
    need(name in SHA2, "the digest of the CMS is not of SHA-2")
    return SHA2[name]()


def pss(parameters):
    """Digest, and the padding with its mask and salt. Absent would mean SHA-1 and 20 bytes."""
    given = {part.tag: part.parts[0] for part in parameters.parts}
    need(0xA0 in given and 0xA1 in given and given[0xA1].parts[0].oid() == MGF1, "PSS is not with SHA-2")
    salt = int.from_bytes(given[0xA2].body) if 0xA2 in given else 20
    return sha2(given[0xA0]), padding.PSS(padding.MGF1(sha2(given[0xA1].parts[1])), salt)


def attributes_hold(attributes, content, digest):
    """Whether the signed attributes say of the content what is true. They have to be in the order of DER."""
    each = [part.raw for part in attributes.parts]
    need(each == sorted(each), "the signed attributes are not DER")
    named = {}
    for attribute in attributes.parts:
        kind, values = attribute.parts
        need(kind.oid() not in named, "a signed attribute stands there twice")
        named[kind.oid()] = values.parts
    need(all(len(named.get(kind, ())) == 1 for kind in (CONTENT_TYPE, MESSAGE_DIGEST)), "a signed attribute is missing")
    hashed = hashes.Hash(digest)
    hashed.update(content)
    return named[CONTENT_TYPE][0].oid() == DATA and named[MESSAGE_DIGEST][0].octets() == hashed.finalize()


def verify(signature, content, certificate):
    """Raises Broken unless this is a detached CMS over `content` by the key of `certificate`, with one signer and SHA-2.
    Certificates that it brings along do not count. Whose certificate that is, and when it counts, is not asked here."""
    try:
        check(signature, content, certificate)
    except (IndexError, ValueError):
        raise Broken("the CMS is malformed") from None
    except InvalidSignature:
        raise Broken("the signature does not hold") from None


def check(signature, content, certificate):
    outer = Element(signature)
    need(outer.end == len(signature), "bytes follow the CMS")
    need(len(outer.parts) == 2 and outer.parts[0].oid() == SIGNED_DATA, "the CMS signs nothing")
    parts = list(outer.parts[1].parts[0].parts)
    take(parts, 0x02)
    digests, contained = take(parts, SET), take(parts, SEQUENCE)
    need(len(contained.parts) == 1, "the CMS brings its own content")
    need(contained.parts[0].oid() == DATA, "the CMS is not over plain data")
    optional(parts, 0xA0), optional(parts, 0xA1)
    signers = take(parts, SET).parts
    need(len(signers) == 1, "the CMS does not have exactly one signer")

    parts = list(signers[0].parts)
    take(parts, 0x02), parts.pop(0)
    digest = sha2(take(parts, SEQUENCE))
    need([sha2(one).name for one in digests.parts] == [digest.name], "the digests of the CMS are not one")
    attributes = optional(parts, 0xA0)
    algorithm, value = take(parts, SEQUENCE), parts.pop(0).octets()
    signed = content
    if attributes:
        need(attributes_hold(attributes, content, digest), "the attributes of the CMS are of something else")
        # They are signed as the SET that they are.
        signed = bytes([SET]) + attributes.raw[1:]

    name, key = algorithm.parts[0].oid(), certificate.public_key()
    if name in ECDSA and isinstance(key, ec.EllipticCurvePublicKey):
        return key.verify(value, signed, ec.ECDSA(digest))
    need(isinstance(key, rsa.RSAPublicKey) and name in RSA | {PSS}, "the CMS is by another kind of key")
    of, padded = pss(algorithm.parts[1]) if name == PSS else (digest, padding.PKCS1v15())
    need(of.name == digest.name, "PSS is with another digest")
    key.verify(value, signed, padded, digest)
