#!/usr/bin/env python3
"""Writes the golden vectors beside it: `python generate.py`. It needs the package `cryptography` (made with 50).

Every format is implemented here a second time, from its definition, and shares no code with the crate: what both
implementations agree on is what the documents say. Nothing is random, so running it again changes nothing.

All key data is generated, but for one published test key; all private keys are derived from their names, below, and
protect nothing.
"""

import base64
import hashlib
import json
import pathlib
import random
import struct

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from identity import Identity

UNSET = 0x7FFFFFFF
PUBLISHED = bytes.fromhex("75c734c6dd1a782de7a965da5eb93125")
THIRTY = "SE SI SK AT BE BG CY CZ DE DK EE ES FI FR GR HR HU IE IS IT LI LT LU LV MT NL NO PL PT RO".split()
# The crate under test reads the same names.
FIELDS = ["schema_version", "network", "network_version", "batch_id", "origin", "destination", "sequence", "previous",
          "upload_id", "batch_tag", "kind", "keys", "level", "canonical", "content", "bitmap", "origin_signature",
          "client_certificate", "signing_certificate", "agreement", "data_class", "created_at", "signing_key"]
INTEGERS = {"schema_version", "network_version", "sequence", "keys", "agreement", "created_at"}
SYMBOLS = {"kind": ["EXPOSED_KEYS"], "level": ["WHOLE", "SUBSET"], "data_class": ["PSEUDONYMOUS", "ANONYMOUS"]}
FIXED = {"previous", "upload_id", "canonical", "content", "bitmap", "origin_signature", "client_certificate",
         "signing_certificate"}
ED25519_ORDER = 2**252 + 27742317777372353535851937790883648493


def sha256(data):
    return hashlib.sha256(data).digest()


def key(data, **other):
    fields = {"key_data": data.hex(), "rolling_start_interval_number": 2642976, "rolling_period": 144,
              "transmission_risk_level": UNSET, "visited_countries": ["DE", "FR"], "origin": "NL", "report_type": 1,
              "days_since_onset_of_symptoms": 3998}
    return fields | other


def canonical(k):
    parts = [bytes.fromhex(k["key_data"]), struct.pack(">I", k["rolling_start_interval_number"]),
             struct.pack(">I", k["rolling_period"]), struct.pack(">i", k["transmission_risk_level"]),
             ",".join(k["visited_countries"]).encode(), k["origin"].encode(), struct.pack(">i", k["report_type"]),
             struct.pack(">i", k["days_since_onset_of_symptoms"])]
    return b"".join(base64.b64encode(part) + b"." for part in parts)


def signed_order(keys):
    return sorted(keys, key=lambda k: base64.b64encode(canonical(k)))


def varint(n):
    out = b""
    while n > 0x7F:
        out += bytes([n & 0x7F | 0x80])
        n >>= 7
    return out + bytes([n])


def protobuf(k):
    """One key as element of a DiagnosisKeyBatch; proto3 leaves out what has its default value."""
    def block(number, data):
        return varint(number << 3 | 2) + varint(len(data)) + data

    def number(field, n):
        return varint(field << 3) + varint(n & 2**64 - 1) if n else b""
    onset = k["days_since_onset_of_symptoms"]
    out = block(1, bytes.fromhex(k["key_data"])) if k["key_data"] else b""
    out += number(2, k["rolling_start_interval_number"]) + number(3, k["rolling_period"])
    out += number(4, k["transmission_risk_level"])
    out += b"".join(block(5, country.encode()) for country in k["visited_countries"])
    out += block(6, k["origin"].encode()) if k["origin"] else b""
    out += number(7, k["report_type"]) + number(8, onset << 1 if onset >= 0 else (-onset << 1) - 1)
    return block(1, out)


REPORT_TYPES = ["UNKNOWN", "CONFIRMED_TEST", "CONFIRMED_CLINICAL_DIAGNOSIS", "SELF_REPORT", "RECURSIVE", "REVOKED"]


def wire_json(k):
    """A DiagnosisKeyBatch of one key. The last name is as it stands in the protobuf: that is what clients send."""
    fields = {"keyData": base64.b64encode(bytes.fromhex(k["key_data"])).decode(),
              "rollingStartIntervalNumber": k["rolling_start_interval_number"], "rollingPeriod": k["rolling_period"],
              "transmissionRiskLevel": k["transmission_risk_level"], "visitedCountries": k["visited_countries"],
              "origin": k["origin"], "reportType": REPORT_TYPES[k["report_type"]],
              "days_since_onset_of_symptoms": k["days_since_onset_of_symptoms"]}
    return json.dumps({"keys": [fields]}, separators=(",", ":"))


def key_vectors():
    good = {
        "worked_example": key(PUBLISHED),
        "no_country": key(PUBLISHED, visited_countries=[]),
        "one_country": key(PUBLISHED, visited_countries=["DE"]),
        "thirty_countries_in_the_order_sent": key(PUBLISHED, visited_countries=THIRTY),
        "onset_negative": key(PUBLISHED, days_since_onset_of_symptoms=-14),
        "onset_zero_is_a_value": key(PUBLISHED, days_since_onset_of_symptoms=0),
        "onset_4000": key(PUBLISHED, days_since_onset_of_symptoms=4000),
        "risk_level_unset": key(PUBLISHED, transmission_risk_level=UNSET),
        "risk_level_zero": key(PUBLISHED, transmission_risk_level=0),
        "start_with_its_highest_bit": key(PUBLISHED, rolling_start_interval_number=0xFFFFFFFE),
        **{f"report_type_{n}": key(PUBLISHED, report_type=n) for n in range(6)},
        "key_data_empty": key(b""),
        "everything_default": key(b"", rolling_start_interval_number=0, rolling_period=0, transmission_risk_level=0,
                                  visited_countries=[], origin="", report_type=0, days_since_onset_of_symptoms=0),
    }
    for high in range(16):
        good[f"key_data_{high * 16:02x}_to_{high * 16 + 15:02x}"] = key(bytes(range(high * 16, high * 16 + 16)))
    text = canonical(key(PUBLISHED)).decode()
    fields = text.split(".")
    no_country = canonical(good["no_country"]).decode()
    bad = {
        "bad_last_dot_missing": ("worked_example", text[:-1], "every field ends with a dot, the last one too"),
        "bad_base64_unpadded": ("worked_example", text.replace("=", ""), "base64 has its padding"),
        "bad_base64_url_alphabet": ("key_data_f0_to_ff", canonical(good["key_data_f0_to_ff"]).decode()
                                    .replace("+", "-").replace("/", "_"), "the alphabet is the standard one"),
        "bad_key_data_in_hex": ("worked_example", ".".join([PUBLISHED.hex()] + fields[1:]), "key data is base64"),
        "bad_numbers_little_endian": ("worked_example", ".".join([fields[0]] + [
            base64.b64encode(base64.b64decode(f)[::-1]).decode() for f in fields[1:4]] + fields[4:]),
            "numbers are big endian"),
        "bad_numbers_as_text": ("worked_example", ".".join(
            [fields[0]] + [base64.b64encode(str(n).encode()).decode() for n in (2642976, 144, UNSET)] + fields[4:]),
            "numbers are four bytes"),
        "bad_countries_with_space": ("worked_example", ".".join(
            fields[:4] + [base64.b64encode(b"DE, FR").decode()] + fields[5:]), "a comma alone joins countries"),
        "bad_countries_sorted": ("thirty_countries_in_the_order_sent", canonical(
            key(PUBLISHED, visited_countries=sorted(THIRTY))).decode(), "countries keep the order they were sent in"),
        "bad_empty_field_left_out": ("no_country", no_country.replace("..", "."), "an empty field keeps its dot"),
        "bad_empty_list_as_brackets": ("no_country", no_country.replace("..", ".W10=."), "an empty list is empty"),
        "bad_onset_zigzag": ("onset_negative", canonical(key(PUBLISHED, days_since_onset_of_symptoms=27)).decode(),
                             "zigzag belongs to protobuf; here a negative number is a two's complement"),
        "bad_onset_sign_lost": ("onset_negative", canonical(key(PUBLISHED, days_since_onset_of_symptoms=14)).decode(),
                                "the sign counts"),
        "bad_risk_level_zero_for_unset": ("risk_level_unset", canonical(good["risk_level_zero"]).decode(),
                                          "not set is 0x7fffffff and not 0"),
    }
    same = [  # Why a country has to be two letters, and why that is checked apart from the signature.
        {"name": "bad_one_text_poses_as_two_countries", "visited_countries": ["DE,FR"], "same_bytes_as": "worked_example"},
        {"name": "bad_empty_text_poses_as_no_country", "visited_countries": [""], "same_bytes_as": "no_country"},
    ]
    write("canonical_keys", {
        "good": [{"name": name, "key": k, "protobuf": protobuf(k).hex(), "json": wire_json(k), "canonical": canonical(k).decode(),
                  "sha256": sha256(canonical(k)).hex()} for name, k in good.items()],
        "bad": [{"name": name, "of": of, "canonical": c, "why": why} for name, (of, c, why) in bad.items()],
        "malformed_countries": same})


def three_orders():
    """Three keys which each of three ways to sort puts into another order."""
    generator = random.Random(1603022400)
    while True:
        keys = [key(generator.randbytes(16), rolling_start_interval_number=2671056 - 144 * i,
                    days_since_onset_of_symptoms=o) for i, o in enumerate([0, -3, 4000])]
        orders = [tuple(sorted(range(3), key=by)) for by in (
            lambda i: base64.b64encode(canonical(keys[i])), lambda i: canonical(keys[i]),
            lambda i: bytes.fromhex(keys[i]["key_data"]))]
        if len(set(orders)) == 3 and orders[0] != (0, 1, 2):
            return keys, orders


def batch_vectors():
    def digest(keys):
        return sha256(b"".join(map(canonical, keys))).hex()
    keys, (signed, raw, data) = three_orders()
    twice = [keys[0], keys[1], keys[0]]
    good = [{"name": "three_orders", "keys": keys, "order": signed, "sha256": digest(signed_order(keys))},
            {"name": "one_key", "keys": keys[:1], "order": [0], "sha256": digest(keys[:1])},
            {"name": "the_same_key_twice", "keys": twice,
             "order": sorted(range(3), key=lambda i: base64.b64encode(canonical(twice[i]))),
             "sha256": digest(signed_order(twice))}]
    bad = [("bad_sorted_by_canonical_bytes", raw, "the base64 of the canonical bytes is what sorts"),
           ("bad_sorted_by_key_data", data, "the whole record sorts, not its first field"),
           ("bad_as_uploaded", (0, 1, 2), "the batch is sorted before it is signed")]
    write("canonical_batches", {
        "good": good, "bad": [{"name": name, "of": "three_orders", "order": order, "why": why,
                               "sha256": digest([keys[i] for i in order])} for name, order, why in bad]})


def onset_vectors():
    ranges = [(-14, 21, "known", "days since onset; 0 is the day of onset")]
    ranges += [(n * 100 - 14, n * 100 + 21, "range", f"onset within {n} days; {n * 100} is the youngest of them")
               for n in range(1, 20)]
    for start, name, what in [(2000, "unknown", "symptoms, onset unknown"), (3000, "asymptomatic", "no symptoms"),
                              (4000, "no-information", "no information")]:
        ranges.append((start - 14, start + 14, name, f"{what}; {start} is the day of submission"))
    write("onset", {"ranges": [{"from": f, "to": t, "range": r, "meaning": m} for f, t, r, m in ranges],
                    "bad": [-2147483648, -15, 22, 85, 122, 185, 1922, 1985, 2015, 2985, 3015, 3985, 4015, 2147483647]})


def zigzag(n):
    return varint((n << 1 ^ n >> 63) & 2**64 - 1)


def avro_manifest(fields):
    out = b""
    for name in FIELDS:
        value = fields[name]
        if name in INTEGERS:
            out += zigzag(value)
        elif name in SYMBOLS:
            # A symbol that the schema does not have gets the next number.
            known = SYMBOLS[name]
            out += zigzag(known.index(value) if value in known else len(known))
        elif name in FIXED:
            out += bytes.fromhex(value)
        else:
            out += zigzag(len(value.encode())) + value.encode()
    return out


def avro_checkpoint(fields, signature):
    def text(name):
        return zigzag(len(fields[name])) + fields[name].encode()
    return (text("network") + zigzag(fields["network_version"]) + text("origin") + text("destination") + zigzag(fields["sequence"])
            + bytes.fromhex(fields["manifest"]) + zigzag(fields["now"]) + zigzag(fields["at"]) + text("signing_key")
            + signature)


class Hub:
    """Signs manifests and checkpoints; its seed is public, for tests alone."""

    seed = sha256(b"keyferry test hub")
    key = ed25519.Ed25519PrivateKey.from_private_bytes(seed)
    public = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)

    def manifest(self, avro):
        return self.key.sign(b"keyferry manifest v1\0" + avro)

    def checkpoint(self, fields):
        return self.key.sign(b"keyferry checkpoint v1\0" + avro_checkpoint(fields, bytes(64)))


def network_document(anchor, hub, members):
    dates = "from: 2020-10-01T00:00:00Z\n{0}until: 2021-12-31T00:00:00Z\n"
    text = "network: vectors\nversion: 1\nsigning_keys:\n- id: hub-1\n  public_key: "
    text += base64.b64encode(hub.public).decode() + "\n  " + dates.format("  ") + "members:\n"
    for country, identities in members.items():
        text += f"- country: {country}\n  states:\n  - state: active\n    from: 2020-10-01T00:00:00Z\n  certificates:\n"
        for use, identity in identities.items():
            signature = base64.b64encode(anchor.sign(identity.pem.encode())).decode()
            text += f"  - use: {use}\n    " + dates.format("    ") + "    pem: |\n"
            text += "".join(f"      {line}\n" for line in identity.pem.splitlines())
            text += f"    anchor_signature: {signature}\n"
    text += "agreements:\n- id: 1\n  parties: [DE, NL]\n  legal_basis: none, for tests\n  data_class: anonymous\n"
    return text + "  kinds: [exposed-keys]\n  report_types: [confirmed-test]\n  " + dates.format("  ")


def signed_vectors():
    anchor, hub = Identity("EU", "Trust anchor"), Hub()
    members = {c: {u: Identity(c, f"{c} {u}") for u in ("authentication", "signing")} for c in ("DE", "NL")}
    document = network_document(anchor, hub, members)
    keys = signed_order(three_orders()[0])
    cms = members["NL"]["signing"].cms(b"".join(map(canonical, keys)))

    def batch(name, sequence, previous, keys, new, level, cms):
        delivered = b"".join(map(protobuf, keys))
        text = b"".join(map(canonical, keys))
        fields = {
            "schema_version": 1, "network": "vectors", "network_version": 1, "batch_id": f"NL-DE-{sequence}",
            "origin": "NL", "destination": "DE", "sequence": sequence, "previous": previous.hex(),
            "upload_id": sha256(b"upload")[:16].hex(), "batch_tag": "20201018-1", "kind": "EXPOSED_KEYS",
            "keys": len(keys), "level": level, "canonical": sha256(text).hex(), "content": sha256(delivered).hex(),
            "bitmap": sha256(new).hex(), "origin_signature": sha256(cms or b"").hex(),
            "client_certificate": sha256(members["NL"]["authentication"].der).hex(),
            "signing_certificate": sha256(members["NL"]["signing"].der).hex(), "agreement": 1,
            "data_class": "ANONYMOUS", "created_at": 1603022400123, "signing_key": "hub-1"}
        avro = avro_manifest(fields)
        return {"name": name, "manifest": fields, "avro": avro.hex(), "sha256": sha256(avro).hex(),
                "signature": hub.manifest(avro).hex(), "keys": delivered.hex(), "new": new.hex(),
                "origin_signature": cms and cms.hex()}

    whole = batch("whole", 1, bytes(32), keys, b"\x05", "WHOLE", cms)
    subset = batch("subset", 2, bytes.fromhex(whole["sha256"]), keys[1:], b"\x03", "SUBSET", None)
    write("network", {"anchor": anchor.pem, "document": document, "signature": anchor.cms(document.encode()).hex(),
                      "record": {"network": "vectors", "version": 1}})
    write("batches", {"about": {"seed": hub.seed.hex(), "public_key": hub.public.hex(),
                                "label": "keyferry manifest v1\\0"}, "good": [whole, subset],
                      "bad": bad_fields(whole, hub) + bad_fields(subset, hub) + bad_parts(whole, subset, hub)})
    point = {"network": "vectors", "network_version": 1, "origin": "NL", "destination": "DE", "sequence": 2,
             "manifest": subset["sha256"], "now": 1603022400000, "at": 1603026000000,
             "signing_key": "hub-1"}
    signature = hub.checkpoint(point)
    changes = {"network": "other", "network_version": 2, "origin": "FR", "destination": "FR", "sequence": 1,
               "manifest": whole["sha256"], "now": 1603022400001, "at": 1603026000001,
               "signing_key": "hub-2"}
    write("checkpoints", {
        "good": [{"name": "after_two_batches", "checkpoint": point, "signature": signature.hex(),
                  "avro": avro_checkpoint(point, signature).hex()}],
        "bad": [{"name": f"bad_{field}", "of": "after_two_batches",
                 "avro": avro_checkpoint(point | {field: value}, signature).hex()} for field, value in changes.items()]})


def bad_fields(good, hub):
    """Each field changed: under the old signature, and where something besides the signature guards it, signed anew."""
    other, fields, whole = sha256(b"other").hex(), good["manifest"], good["name"] == "whole"
    changes = {  # The value; why it is refused as it is; why it is refused signed anew, if it is.
        "schema_version": (2, "manifest", "manifest"), "network": ("other", "network", "network"),
        "network_version": (2, "network-version", "network-version"), "batch_id": ("NL-DE-9", "signature", "batch-id"),
        "origin": ("DE", "signature", "batch-id"), "destination": ("NL", "signature", "batch-id"),
        "sequence": (9, "signature", "batch-id"), "previous": (other, "signature", None),
        "upload_id": (other[:32], "signature", None), "batch_tag": ("20201018-2", "signature", None),
        "kind": ("CONTACT_KEYS", "manifest", "manifest"), "keys": (4, "signature", "part"),
        "level": ("SUBSET" if whole else "WHOLE", "signature", "part"), "canonical": (other, "signature", "part"),
        "content": (other, "signature", "part"), "bitmap": (other, "signature", "part"),
        "origin_signature": (other, "signature", "part"), "client_certificate": (other, "signature", None),
        "signing_certificate": (other, "signature", "origin" if whole else None),
        "agreement": (2, "signature", "agreement"), "data_class": ("PSEUDONYMOUS", "signature", "data-class"),
        "created_at": (1603022400124, "signature", None),
        "signing_key": ("hub-2", "signing-key", "signing-key")}
    bad = []
    for field, (value, refused, anew) in changes.items():
        assert fields[field] != value
        avro = avro_manifest(fields | {field: value})
        change = {"of": good["name"], "field": field, "avro": avro.hex()}
        name = f"bad_{field}_of_a_{good['name']}"
        bad.append({"name": name} | change | {"refused": refused})
        if anew:
            bad.append({"name": f"{name}_signed_anew"} | change
                       | {"signature": hub.manifest(avro).hex(), "refused": anew})
    return bad


def bad_parts(whole, subset, hub):
    """The batch around the manifest changed, and the manifest in another form."""
    def flipped(text):
        return text[:-2] + f"{int(text[-2:], 16) ^ 1:02x}"
    avro, signature = bytes.fromhex(whole["avro"]), bytes.fromhex(whole["signature"])
    padded = b"\x82\x00" + avro[1:]
    s = int.from_bytes(signature[32:], "little") + ED25519_ORDER
    return [
        {"name": "bad_keys", "of": "whole", "keys": flipped(whole["keys"]), "refused": "part"},
        {"name": "bad_keys_of_another", "of": "whole", "keys": subset["keys"], "refused": "part"},
        {"name": "bad_new", "of": "whole", "new": "07", "refused": "part"},
        {"name": "bad_new_longer", "of": "whole", "new": "0500", "refused": "part"},
        {"name": "bad_cms", "of": "whole", "origin_signature": flipped(whole["origin_signature"]), "refused": "part"},
        {"name": "bad_cms_dropped", "of": "whole", "origin_signature": None, "refused": "part"},
        {"name": "bad_cms_added", "of": "subset", "origin_signature": whole["origin_signature"], "refused": "part"},
        {"name": "bad_cms_added_empty", "of": "subset", "origin_signature": "", "refused": "part"},
        {"name": "bad_byte_behind_the_manifest", "of": "whole", "avro": whole["avro"] + "00",
         "signature": hub.manifest(avro + b"\0").hex(), "refused": "manifest"},
        {"name": "bad_number_padded", "of": "whole", "avro": padded.hex(), "signature": hub.manifest(padded).hex(),
         "refused": "manifest"},
        {"name": "bad_signature", "of": "whole", "signature": flipped(whole["signature"]), "refused": "signature"},
        {"name": "bad_signature_of_another", "of": "whole", "signature": subset["signature"], "refused": "signature"},
        {"name": "bad_signature_malleable", "of": "whole", "refused": "signature",
         "signature": (signature[:32] + s.to_bytes(32, "little")).hex()},
        {"name": "bad_signature_without_label", "of": "whole", "signature": hub.key.sign(avro).hex(),
         "refused": "signature"},
        {"name": "bad_signature_under_the_label_of_checkpoints", "of": "whole", "refused": "signature",
         "signature": hub.key.sign(b"keyferry checkpoint v1\0" + avro).hex()},
    ]


def write(name, content):
    # One vector a line: diffs stay readable, and so do the files.
    text = "{\n" + ",\n".join(
        f" {json.dumps(k)}: " + ("[\n" + ",\n".join(f"  {json.dumps(item)}" for item in v) + "\n ]"
                                 if isinstance(v, list) and v and isinstance(v[0], dict) else json.dumps(v))
        for k, v in content.items()) + "\n}\n"
    pathlib.Path(__file__).with_name(f"{name}.json").write_text(text)


for make in (key_vectors, batch_vectors, onset_vectors, signed_vectors):
    make()
