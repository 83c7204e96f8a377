#!/usr/bin/env python3
"""Reads what Keyferry delivers to one country, and believes none of it before it is proven.

    examples/python/subscriber.py --bootstrap localhost:9092 --country FR --anchor anchor.pem

It shares no code with Keyferry: it reads the schemas in schemas/avro and does the rest by itself (the bytes in wire.py, the
signatures of origins in cms.py), so it is also a description of what a subscriber has to do. It needs Python 3.11 and
scripts/requirements.txt. It prints one line per batch and ends with an error at the first thing that does not hold.

What it leaves out: storing the keys together with the offset and the ends of the chains, which is how a real subscriber
goes on after a restart.
"""
import argparse, sys, time
from base64 import b64decode, b64encode
from datetime import datetime, timedelta, timezone
from hashlib import sha256
from pathlib import Path

import yaml
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_pem_x509_certificate
from google.protobuf.message import DecodeError

import cms
from wire import Broken, Schemas, canonical_key, message_class, need


def cms_holds(signature, content, certificate):
    """Whether the detached CMS is one over `content` by the key of this PEM certificate."""
    try:
        cms.verify(signature, content, load_pem_x509_certificate(certificate))
        return True
    except Broken:
        return False


# --- The network document --------------------------------------------------------------------------------------------
def millis(text):
    return (datetime.fromisoformat(text) - datetime(1970, 1, 1, tzinfo=timezone.utc)) // timedelta(milliseconds=1)


class Network:
    """Every version that the pinned anchor has signed. The topic proves nothing: whoever can write it owns nothing."""

    def __init__(self, consumer, schemas, anchor):
        self.consumer, self.schemas, self.anchor, self.versions = consumer, schemas, anchor, {}
        consumer.assign([TopicPartition("keyferry.network", 0, 0)])
        for offset, value in records(consumer):
            self.take(offset, value)
        need(self.versions, "no network document that this trust anchor has signed")

    def take(self, offset, value):
        try:
            name, record, _ = self.schemas.record(value or b"")
            need(name == "Network" and cms_holds(record["signature"], record["document"], self.anchor), "not signed")
            # BaseLoader leaves every scalar a text: to YAML 1.1, NO would be false and not Norway.
            document = yaml.load(record["document"], Loader=yaml.BaseLoader)
            need(int(document["version"]) > max(self.versions, default=0), "not newer")
            self.versions[int(document["version"])] = document
        except Broken as why:
            print(f"keyferry.network offset {offset} does not count: {why}", file=sys.stderr)

    def version(self, number):
        """The version that a batch names. It may be read a moment later than the batch."""
        deadline = time.monotonic() + 10
        while number not in self.versions and time.monotonic() < deadline:
            message = self.consumer.poll(0.5)
            if message and not message.error():
                self.take(message.offset(), message.value())
        need(number in self.versions, f"it names network version {number}, which is not known here")
        return self.versions[number]


def check_hub_signature(document, key_id, at, message, signature):
    keys = [k for k in document["signing_keys"] if k["id"] == key_id and millis(k["from"]) <= at < millis(k["until"])]
    need(keys, f"signing key {key_id} was not in force")
    try:
        Ed25519PublicKey.from_public_bytes(b64decode(keys[0]["public_key"])).verify(signature, message)
    except InvalidSignature:
        raise Broken("the hub's signature does not hold") from None


def signing_certificates(document, country, digest, at):
    """The registered certificate with this SHA-256, if it was in force."""
    for entry in [c for m in document["members"] if m["country"] == country for c in m["certificates"]]:
        certificate = load_pem_x509_certificate(entry["pem"].encode())
        ends = [millis(t) for t in (entry["until"], entry.get("revoked")) if t not in (None, "", "~", "null")]
        dates = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        when = datetime.fromtimestamp(at / 1000, timezone.utc)
        if (entry["use"] == "signing" and millis(entry["from"]) <= at < min(ends) and dates[0] <= when <= dates[1]
                and sha256(certificate.public_bytes(Encoding.DER)).digest() == digest):
            yield entry["pem"].encode()


REPORT_TYPES = "unknown confirmed-test confirmed-clinical-diagnosis self-report recursive revoked".split()


def check_agreement(document, m, types):
    """Every key is covered by an agreement in force; of those that cover any, the manifest names the lowest number, and
    the data are pseudonymous if one of them says so."""
    def covers(agreement):
        pair, parties = {m["origin"], m["destination"]}, set(agreement.get("parties", []))
        joins = pair <= parties or (m["origin"] in agreement.get("origins", [])
                                    and m["destination"] in agreement.get("destinations", []))
        in_force = millis(agreement["from"]) <= m["created_at"] < millis(agreement["until"])
        named = {REPORT_TYPES.index(name) for name in agreement["report_types"]}
        return types & named if joins and in_force and "exposed-keys" in agreement["kinds"] else set()
    covering = [a for a in document["agreements"] if covers(a)]
    need(types == {t for a in covering for t in covers(a)}, "no agreement in force covers some of the keys")
    need(m["agreement"] == min(int(a["id"]) for a in covering), f"agreement {m['agreement']} is not the lowest of them")
    pseudonymous = any(a["data_class"] == "pseudonymous" for a in covering)
    need((m["data_class"] == "PSEUDONYMOUS") == pseudonymous, "the data class is not that of the agreements")


# --- Batches and chains ----------------------------------------------------------------------------------------------
START = 0, bytes(32), 0, 0


class Chains:
    """Per origin: sequence and manifest hash of the last batch, its network version, and when it was made."""

    def __init__(self, country, network, schemas, complete):
        self.country, self.network, self.schemas, self.complete = country, network, schemas, complete
        self.ends, self.message = {}, message_class()

    def batch(self, record):
        """Everything that can be held against one another; returns the manifest and the keys that are new."""
        m = self.schemas.read(self.schemas.by_name["Manifest"], record["manifest"])
        need(m["schema_version"] == 1, "a manifest of another version")
        document, at = self.network.version(m["network_version"]), m["created_at"]
        need(document["network"] == m["network"], "it belongs to another network")
        check_hub_signature(document, m["signing_key"], at, b"keyferry manifest v1\0" + record["manifest"], record["signature"])
        need(m["destination"] == self.country != m["origin"], f"it is for {m['destination']}, from {m['origin']}")
        need(m["batch_id"] == f"{m['origin']}-{m['destination']}-{m['sequence']}", "the batch id is that of another batch")
        cms = record["origin_signature"]
        for part, data in ("content", record["keys"]), ("bitmap", record["new"]), ("origin_signature", cms or b""):
            need(sha256(data).digest() == m[part], f"the {part} is not what the manifest says")
        keys = self.message.FromString(record["keys"]).keys
        need(len(keys) == m["keys"] and len(record["new"]) == (len(keys) + 7) // 8, "another number of keys")
        check_agreement(document, m, {key.reportType for key in keys})
        canonical = [canonical_key(key) for key in keys]
        need(canonical == sorted(canonical, key=b64encode), "the keys are not in canonical order")
        signed = b"".join(canonical)
        need(sha256(signed).digest() == m["canonical"], "the canonical bytes are not what the manifest says")
        need((m["level"] == "WHOLE") == (cms is not None), "level and origin's signature do not go together")
        if cms is not None:
            certificates = signing_certificates(document, m["origin"], m["signing_certificate"], at)
            need(any(cms_holds(cms, signed, c) for c in certificates), "the origin's signature does not hold")
        sequence, previous, version, made = self.ends.get(m["origin"], START)
        if self.complete or m["origin"] in self.ends:
            need(m["sequence"] == sequence + 1, f"sequence {m['sequence']} follows {sequence}")
            need(m["previous"] == previous, "it names another predecessor")
            # A signing key that was withdrawn still holds for the past, so no batch may go back there.
            need(m["network_version"] >= version and at >= made, f"it is older than sequence {sequence}")
        self.ends[m["origin"]] = m["sequence"], sha256(record["manifest"]).digest(), m["network_version"], at
        # The first key is the lowest bit of the first byte.
        return m, [key for i, key in enumerate(keys) if record["new"][i // 8] >> i % 8 & 1]

    def checkpoint(self, record, binary):
        """A signed statement of how far a chain goes: what is missing at its end shows here."""
        origin, version, at = record["origin"], record["network_version"], record["at"]
        document, message = self.network.version(version), b"keyferry checkpoint v1\0" + binary[:-64] + bytes(64)
        check_hub_signature(document, record["signing_key"], at, message, record["signature"])
        need((record["network"], record["destination"]) == (document["network"], self.country), "it is not for here")
        stated, end = (record["sequence"], record["manifest"]), self.ends.get(origin, START)
        if self.complete or origin in self.ends:
            need(version >= end[2], f"it names network version {version} behind {end[2]}")
            need(stated == end[:2], f"it states sequence {stated[0]}")
        self.ends.setdefault(origin, (*stated, version, record["now"]))


def records(consumer, follow=False):
    """Offset and value of each committed record, to the end of the topic or for ever."""
    heard = time.monotonic()
    while follow or time.monotonic() - heard < 30:
        message = consumer.poll(0.5)
        if message is None:
            continue
        heard = time.monotonic()
        if not message.error():
            yield message.offset(), message.value()
        elif message.error().code() != KafkaError._PARTITION_EOF:
            raise Broken(message.error().str())
        elif not follow:
            return
    raise Broken("the broker does not answer")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bootstrap", required=True, metavar="HOST:PORT")
    parser.add_argument("--country", required=True, metavar="CC", help="two letters, such as FR")
    parser.add_argument("--anchor", required=True, metavar="PEM", help="certificate of the trust anchor, had off line")
    parser.add_argument("--registry", metavar="URL", help="of the schema registry, if the hub has one")
    parser.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="of librdkafka, for TLS and SASL")
    parser.add_argument("--follow", action="store_true", help="goes on at the end of the topic")
    args = parser.parse_args()
    country, topic = args.country.upper(), f"keyferry.keys.{args.country.lower()}"
    options = dict(option.split("=", 1) for option in args.option) | {
        "bootstrap.servers": args.bootstrap, "group.id": f"keyferry-{args.country.lower()}-subscriber",
        # Without this, keys of aborted transactions would be read as well.
        "isolation.level": "read_committed",
        "enable.auto.commit": False, "auto.offset.reset": "error", "enable.partition.eof": True,
        "fetch.message.max.bytes": 5 << 20,
    }
    schemas, offset = Schemas(args.registry), None
    try:
        network = Network(Consumer(options), schemas, Path(args.anchor).read_bytes())
        consumer = Consumer(options)
        first, _ = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=10)
        consumer.assign([TopicPartition(topic, 0, first)])
        chains, count, total, new_total = Chains(country, network, schemas, first == 0), 0, 0, 0
        for offset, value in records(consumer, args.follow):
            name, record, binary = schemas.record(value or b"")
            need(name in ("SignedBatch", "Checkpoint"), f"a {name} on this topic")
            if name == "Checkpoint":
                chains.checkpoint(record, binary)
                print(f"offset {offset}: {record['origin']} checkpoint at sequence {record['sequence']}", flush=True)
                continue
            manifest, new = chains.batch(record)
            proof = {"WHOLE": "whole, signed by the origin", "SUBSET": "subset, attested by the hub"}[manifest["level"]]
            print(f"offset {offset}: {manifest['origin']} sequence {manifest['sequence']}, {manifest['keys']} keys,"
                  f" {len(new)} new, {proof}", flush=True)
            count, total, new_total = count + 1, total + manifest["keys"], new_total + len(new)
        print(f"{topic}: {count} batches verified, {total} keys, {new_total} new")
    except (Broken, DecodeError, UnicodeDecodeError, KafkaException) as why:
        sys.exit(f"{topic}{'' if offset is None else f' offset {offset}'}: {why}")


if __name__ == "__main__":
    main()
