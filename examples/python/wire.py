"""What stands on the wire: Avro records in their framing, protobuf keys, and the bytes that an origin signs."""
import json, re, struct, urllib.request
from base64 import b64encode
from pathlib import Path

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory


ROOT = Path(__file__).resolve().parents[2] / "schemas"
SCALARS = ("bytes", "string", "int32", "uint32", "sint32")


class Broken(Exception):
    """Something is not what it has to be."""


def need(condition, what):
    if not condition:
        raise Broken(what)


# --- Avro: three framings, eight types -------------------------------------------------------------------------------
PRIMITIVES = ("null", "int", "long", "bytes", "string")
EMPTY = 0xC15D213AA4D7A795


def canonical_schema(schema, namespace="", wrapped=False):
    """Parsing Canonical Form: full names, and only what matters for reading, in a fixed order. Some libraries, that of
    Rust among them, write {"type":"long"} for a long with a logical type: `wrapped` is their form."""
    if isinstance(schema, list):
        return [canonical_schema(branch, namespace, wrapped) for branch in schema]
    if isinstance(schema, str):
        return schema if schema in PRIMITIVES or "." in schema else f"{namespace}.{schema}"
    if schema["type"] in PRIMITIVES:
        return {"type": schema["type"]} if wrapped else schema["type"]
    namespace = schema.get("namespace", namespace)
    form = {"name": f"{namespace}.{schema['name']}", "type": schema["type"]}
    if "fields" in schema:
        form["fields"] = [{"name": field["name"], "type": canonical_schema(field["type"], namespace, wrapped)}
                          for field in schema["fields"]]
    return form | {key: schema[key] for key in ("symbols", "size") if key in schema}


def fingerprint(form):
    """CRC-64-AVRO of the canonical form, little endian."""
    crc = EMPTY
    for byte in json.dumps(form, separators=(",", ":")).encode():
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ EMPTY * (crc & 1)
    return crc.to_bytes(8, "little")


class Reader:
    """A cursor over Avro binary."""

    def __init__(self, data):
        self.data, self.at, self.named = data, 0, {}

    def take(self, n):
        need(0 <= n <= len(self.data) - self.at, "the record ends too early")
        self.at += n
        return self.data[self.at - n : self.at]

    def long(self):
        number = 0
        for i in range(10):
            byte = self.take(1)[0]
            number |= (byte & 0x7F) << 7 * i
            if byte < 0x80:
                # One number has one form: zero bytes at its end would be another with the same meaning.
                need(byte or not i, "a number is padded")
                return number >> 1 ^ -(number & 1)
        raise Broken("a number is too long")

    def value(self, schema):
        if isinstance(schema, list):
            branch = self.long()
            need(0 <= branch < len(schema), "an unknown branch of a union")
            return self.value(schema[branch])
        if isinstance(schema, str) and schema in self.named:
            schema = self.named[schema]
        kind = schema if isinstance(schema, str) else schema["type"]
        if isinstance(schema, dict):
            self.named[schema["name"]] = schema
        match kind:
            case "null":
                return None
            case "int" | "long":
                return self.long()
            case "bytes":
                return self.take(self.long())
            case "string":
                return self.take(self.long()).decode()
            case "fixed":
                return self.take(schema["size"])
            case "enum":
                index = self.long()
                need(0 <= index < len(schema["symbols"]), "an unknown symbol")
                return schema["symbols"][index]
            case "record":
                return {f["name"]: self.value(f["type"]) for f in schema["fields"]}
        raise Broken(f"a type that does not occur here: {kind}")


class Schemas:
    """The schemas of this repository by fingerprint, and those of a registry by id."""

    def __init__(self, registry):
        self.registry, self.by_id, self.by_name, self.by_fingerprint = registry, {}, {}, {}
        for name in ("Network", "SignedBatch", "Checkpoint", "Manifest"):
            schema = json.loads((ROOT / "avro" / f"{name}.avsc").read_text())
            self.by_name[name] = form = canonical_schema(schema)
            for wrapped in (False, True):
                self.by_fingerprint[fingerprint(canonical_schema(schema, wrapped=wrapped))] = form

    def from_registry(self, number):
        if number not in self.by_id:
            need(self.registry, f"schema id {number}: name the registry with --registry")
            with urllib.request.urlopen(f"{self.registry.rstrip('/')}/schemas/ids/{number}", timeout=10) as answer:
                self.by_id[number] = canonical_schema(json.loads(json.load(answer)["schema"]))
        return self.by_id[number]

    def record(self, value):
        """Name, fields and binary of a framed record."""
        if value[:2] == b"\xc3\x01":
            form, binary = self.by_fingerprint.get(value[2:10]), value[10:]
            need(form, f"an unknown schema, fingerprint {value[2:10].hex()}")
        else:
            need(value[:1] == b"\0" and len(value) > 5, "a record without framing")
            form, binary = self.from_registry(struct.unpack(">I", value[1:5])[0]), value[5:]
        return form["name"].split(".")[-1], self.read(form, binary), binary

    def read(self, form, binary):
        reader = Reader(binary)
        fields = reader.value(form)
        need(reader.at == len(binary), "bytes follow the record")
        return fields


# --- The bytes that an origin signs ----------------------------------------------------------------------------------
def message_class():
    """`DiagnosisKeyBatch` as Google's library reads it, made from schemas/proto/efgs.proto as it stands there, so that no
    compiler is needed."""
    text = re.sub("//.*", "", (ROOT / "proto" / "efgs.proto").read_text())
    kind, file = descriptor_pb2.FieldDescriptorProto, descriptor_pb2.FileDescriptorProto(name="e", syntax="proto3")
    for what, name, body in re.findall(r"(message|enum) (\w+) \{(.*?)\}", text, re.S):
        if what == "enum":
            enum = file.enum_type.add(name=name)
            for symbol, number in re.findall(r"(\w+) = (\d+);", body):
                enum.value.add(name=symbol, number=int(number))
            continue
        message = file.message_type.add(name=name)
        for repeated, of, field, number in re.findall(r"(repeated )?(\w+) (\w+) = (\d+);", body):
            added = message.field.add(name=field, number=int(number), label=3 if repeated else 1)
            if of in SCALARS:
                added.type = getattr(kind, f"TYPE_{of.upper()}")
            else:
                # Whether that is a message or an enumeration, the library finds out by itself.
                added.type_name = f".{of}"
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("DiagnosisKeyBatch"))


def canonical_key(key):
    """Eight fields, each base64 and followed by a dot; numbers as four bytes, highest first."""
    fields = (key.keyData, struct.pack(">I", key.rollingStartIntervalNumber), struct.pack(">I", key.rollingPeriod),
              struct.pack(">i", key.transmissionRiskLevel), ",".join(key.visitedCountries).encode(),
              key.origin.encode(), struct.pack(">i", key.reportType), struct.pack(">i", key.days_since_onset_of_symptoms))
    return b"".join(b64encode(field) + b"." for field in fields)
