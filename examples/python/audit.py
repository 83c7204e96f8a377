#!/usr/bin/env python3
"""Downloads what a country receives, with its audits, and believes none of it before its origin has proven it.

    examples/python/audit.py --url https://HUB:8443/diagnosiskeys --cert auth.pem --key auth.key --cacert hub.pem \\
        --anchor anchor.pem --date 2026-01-07

It shares no code with Keyferry, runs no other program, and needs Python 3.11 with `cryptography` and `protobuf`
(scripts/requirements.txt). Of each batch from that date on it holds every upload against the signature of its origin, that
against the registered certificate, and that against the trust anchor that was handed over off line. It prints a line for
each upload and ends with an error at the first thing that does not hold. A part of an upload has no proof but the hub's
word, and is an error unless --hub says that this is enough.

What it leaves out: storing the keys, and asking whether the certificates have been revoked since.
"""
import argparse, json, ssl, sys, urllib.error, urllib.request
from base64 import b64decode, b64encode
from datetime import datetime
from hashlib import sha256
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import NameOID, load_pem_x509_certificate
from google.protobuf.message import DecodeError

import cms
from wire import Broken, canonical_key, message_class, need


class Hub:
    """The distribution service, over mutual TLS."""

    def __init__(self, args):
        context = ssl.create_default_context(cafile=args.cacert)
        context.load_cert_chain(args.cert, args.key)
        self.url = args.url.rstrip("/")
        # No proxy: it would have to see the keys.
        self.opener = urllib.request.build_opener(
            urllib.request.HTTPSHandler(context=context), urllib.request.ProxyHandler({}))

    def get(self, path, accept, **headers):
        request = urllib.request.Request(self.url + path, headers={"Accept": f"{accept}; version=1.0"} | headers)
        with self.opener.open(request, timeout=30) as answer:
            return answer.headers, answer.read()


class Trust:
    """What was handed over off line: the anchor, and which codes stand for the same country."""

    def __init__(self, args):
        self.anchor = load_pem_x509_certificate(Path(args.anchor).read_bytes())
        self.aliases = dict(alias.split("=", 1) for alias in args.alias)
        self.hub_is_enough = args.hub

    def same(self, codes, country):
        """Whether all of these codes, of which there is at least one, stand for this country."""
        return {self.aliases.get(code, code) for code in codes} == {self.aliases.get(country, country)}


def check_registration(pem, operator_signature, thumbprint, entry, trust):
    """The certificate, if the anchor has signed it for this country and it counted at the time of the upload."""
    need(pem and operator_signature, "a certificate is missing")
    certificate = load_pem_x509_certificate(pem.encode())
    need(sha256(certificate.public_bytes(Encoding.DER)).hexdigest() == thumbprint.lower(), "another certificate is named")
    country = certificate.subject.get_attributes_for_oid(NameOID.COUNTRY_NAME)
    need(trust.same([c.value for c in country], entry["country"]), "the certificate is of another country")
    at = datetime.fromisoformat(entry["uploadedTime"])
    need(certificate.not_valid_before_utc <= at <= certificate.not_valid_after_utc, "the certificate did not count at that time")
    key = trust.anchor.public_key()
    for digest in (hashes.SHA256(), hashes.SHA384(), hashes.SHA512()):
        how = (ec.ECDSA(digest),) if isinstance(key, ec.EllipticCurvePublicKey) else (padding.PKCS1v15(), digest)
        try:
            key.verify(b64decode(operator_signature, validate=True), pem.encode(), *how)
            return certificate
        except InvalidSignature:
            pass
    raise Broken("the trust anchor has not signed the certificate")


def check_upload(entry, keys, trust):
    """Whether these keys are an upload of the country that is said to have sent them."""
    need(trust.same([key.origin for key in keys], entry["country"]), "a key of another country is among them")
    check_registration(entry["uploaderCertificate"], entry["uploaderOperatorSignature"], entry["uploaderThumbprint"],
                       entry, trust)
    signing = check_registration(entry["signingCertificate"], entry["signingCertificateOperatorSignature"],
                                 entry["uploaderSigningThumbprint"], entry, trust)
    if entry.get("originProof") is False:
        return False
    content = b"".join(sorted(map(canonical_key, keys), key=b64encode))
    cms.verify(b64decode(entry["batchSignature"], validate=True), content, signing)
    return True


def check_batch(tag, keys, audit, trust):
    """Walks the keys, of which each entry of the audit takes as many as it says. The number of uploads."""
    amounts = [entry["amount"] for entry in audit]
    need(min(amounts, default=0) > 0 and sum(amounts) == len(keys), "the audit is of another number of keys")
    for entry in audit:
        proven = check_upload(entry, keys[: entry["amount"]], trust)
        need(proven or trust.hub_is_enough, "a part of an upload, of which only the hub says whose it is")
        proof = "signed by its origin" if proven else "attested by the hub"
        print(f"{tag}: {entry['country']}, {entry['amount']} keys, {proof}", flush=True)
        del keys[: entry["amount"]]
    return len(audit)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True, help="https://HOST:PORT/diagnosiskeys")
    parser.add_argument("--cert", required=True, help="the own certificate, PEM")
    parser.add_argument("--key", required=True, help="its key, PEM")
    parser.add_argument("--cacert", required=True, help="who has issued the certificate of the hub, PEM")
    parser.add_argument("--anchor", required=True, help="the trust anchor, PEM")
    parser.add_argument("--date", required=True, help="from the first batch of this day on")
    parser.add_argument("--alias", action="append", default=[], help="a code that stands for another, such as EL=GR")
    parser.add_argument("--hub", action="store_true", help="take parts of uploads on the word of the hub")
    args = parser.parse_args()
    hub, trust, message = Hub(args), Trust(args), message_class()
    tag, batches, uploads, total = None, 0, 0, 0
    try:
        while tag != "null":
            headers, body = hub.get(f"/download/{args.date}", "application/protobuf", **({"batchTag": tag} if tag else {}))
            need(tag in (None, headers["batchTag"]), "another batch than was asked for")
            tag = headers["batchTag"]
            keys = list(message.FromString(body).keys)
            _, audit = hub.get(f"/audit/download/{args.date}/{tag}", "application/json")
            count, total = len(keys), total + len(keys)
            uploads += check_batch(tag, keys, json.loads(audit), trust)
            print(f"{tag}: {count} keys verified")
            batches, tag = batches + 1, headers["nextBatchTag"]
        print(f"{batches} batches verified, {uploads} uploads, {total} keys")
    except urllib.error.HTTPError as why:
        sys.exit(f"{tag or args.date}: {why.url} answers {why.code}: {why.read().decode(errors='replace')}")
    except KeyError as missing:
        sys.exit(f"{tag or args.date}: an entry of the audit has no {missing}")
    except (Broken, DecodeError, OSError, ValueError) as why:
        sys.exit(f"{tag or args.date}: {why}")


if __name__ == "__main__":
    main()
