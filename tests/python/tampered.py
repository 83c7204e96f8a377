#!/usr/bin/env python3
"""Runs examples/python/audit.py with these arguments again and again, each time with one thing changed on the way. Prints
what it says to each, and ends with an error if it ever says nothing."""
import base64, json, sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "python"))
import audit  # noqa: E402


def flipped(text):
    """Base64 of the same bytes but for a bit of the last that is not 0: behind a signature only zeros may stand."""
    data = bytearray(base64.b64decode(text))
    data[len(data.rstrip(b"\0")) - 1] ^= 1
    return base64.b64encode(data).decode()


def field(name, change):
    def in_last(entries):
        entries[-1][name] = change(entries[-1])
    return in_last


def moved(entries):
    entries[0]["amount"] += 1
    entries[-1]["amount"] -= 1


def key_bit(batch):
    key = batch.keys[-1]
    key.keyData = bytes([key.keyData[0] ^ 1]) + key.keyData[1:]


AUDITS = {
    "a bit of the signature": field("batchSignature", lambda e: flipped(e["batchSignature"])),
    "no signature": lambda entries: entries[-1].pop("batchSignature"),
    "a part that is said to be whole": field("originProof", lambda e: False),
    "another certificate to sign with": field("signingCertificate", lambda e: e["uploaderCertificate"]),
    "a bit of the thumbprint": field("uploaderSigningThumbprint", lambda e: e["uploaderSigningThumbprint"][::-1]),
    "a bit of the anchor's signature": field(
        "signingCertificateOperatorSignature", lambda e: flipped(e["signingCertificateOperatorSignature"])),
    "a bit of the anchor's other signature": field(
        "uploaderOperatorSignature", lambda e: flipped(e["uploaderOperatorSignature"])),
    "another country": field("country", lambda e: "IT"),
    "another time": field("uploadedTime", lambda e: "1999-12-31T00:00:00Z"),
    "a key of another upload": moved,
    "an upload that is missing": lambda entries: entries.pop(),
    "uploads in another order": lambda entries: entries.reverse(),
    "nothing": lambda entries: entries.clear(),
}
KEYS = {
    "a bit of a key": key_bit,
    "another risk level": lambda batch: setattr(batch.keys[-1], "transmissionRiskLevel", 9),
    "another country of interest": lambda batch: batch.keys[-1].visitedCountries.append("IT"),
    "a key that is missing": lambda batch: batch.keys.pop(),
    "a key twice": lambda batch: batch.keys.append(batch.keys[0]),
}

get, message = audit.Hub.get, audit.message_class()
for what, change in (AUDITS | KEYS).items():
    def tampered(self, path, accept, **headers):
        fields, body = get(self, path, accept, **headers)
        if what in AUDITS and path.startswith("/audit"):
            entries = json.loads(body)
            change(entries)
            body = json.dumps(entries).encode()
        if what in KEYS and path.startswith("/download"):
            batch = message.FromString(body)
            change(batch)
            body = batch.SerializeToString()
        return fields, body

    audit.Hub.get = tampered
    try:
        audit.main()
    except SystemExit as refusal:
        print(f"{what}: {refusal}")
        if "verified" in str(refusal) or not isinstance(refusal.code, str):
            sys.exit(f"{what} ended otherwise")
    else:
        sys.exit(f"{what} is taken")
