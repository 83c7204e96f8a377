#!/usr/bin/env python3
"""Writes signatures.json: detached CMS as programs of others make them, and ways to make them wrong.

    target/venv/bin/python3 schemas/vectors/signatures.py

It needs what `make setup` fetches: Java with BouncyCastle, Python's `cryptography`, the command `openssl`. The forms of
.NET's SignedCms and of some others are put together here by hand. Keys are made anew each time and thrown away, so every
run gives other bytes that have to be judged the same.
"""
import datetime
import json
import pathlib
import subprocess
import sys
import tempfile
from base64 import b64encode

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from identity import der, oid, sha256

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SHA2 = {"sha256": "2.16.840.1.101.3.4.2.1", "sha384": "2.16.840.1.101.3.4.2.2", "sha512": "2.16.840.1.101.3.4.2.3"}
RSA, ECDSA = "1.2.840.113549.1.1.1", "1.2.840.10045.4.3.2"
DATA, CONTENT_TYPE, DIGEST, SIGNING_TIME = (f"1.2.840.113549.1.{n}" for n in ("7.1", "9.3", "9.4", "9.5"))
NULL = b"\x05\x00"


class Signer:
    """A key pair, its certificate and that of its issuer, in files too."""

    def __init__(self, folder, name, key):
        def certificate(country, common_name, public, issuer, by):
            def named(c, cn):
                return x509.Name([x509.NameAttribute(x509.NameOID.COUNTRY_NAME, c),
                                  x509.NameAttribute(x509.NameOID.COMMON_NAME, cn)])
            begin = datetime.datetime(2020, 10, 1)
            builder = x509.CertificateBuilder(named("EU", issuer), named(country, common_name), public)
            return (builder.serial_number(x509.random_serial_number())
                    .not_valid_before(begin).not_valid_after(begin.replace(year=2022))
                    .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), False)
                    .sign(by, hashes.SHA256()))

        root = ec.generate_private_key(ec.SECP256R1())
        self.key = key
        self.certificate = certificate("NL", name, key.public_key(), "Root", root)
        self.root = certificate("EU", "Root", root.public_key(), "Root", root)
        self.pem, self.chain, self.private = (folder / f"{name}.{end}" for end in ("pem", "chain", "key"))
        text = [c.public_bytes(serialization.Encoding.PEM) for c in (self.certificate, self.root)]
        self.pem.write_bytes(text[0])
        self.chain.write_bytes(b"".join(text))
        self.private.write_bytes(key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))

    def sign(self, content, digest=hashes.SHA256()):
        if isinstance(self.key, rsa.RSAPrivateKey):
            return self.key.sign(content, padding.PKCS1v15(), digest)
        return self.key.sign(content, ec.ECDSA(digest))


def by_hand(signer, content, digest_parameters=b"", attributes=None, ski=False, certificates=(), sort=True,
            signed_sorted=True):
    """One signer, SHA-256. `attributes` are the types of those that are signed."""
    digest = der(0x30, oid(SHA2["sha256"]), digest_parameters)
    values = {CONTENT_TYPE: oid(DATA), DIGEST: der(4, sha256(content)), SIGNING_TIME: der(0x17, b"201018120000Z")}
    signed, present = content, b""
    if attributes:
        each = [der(0x30, oid(name), der(0x31, values[name])) for name in attributes]
        signed = der(0x31, *(sorted(each) if signed_sorted else each))
        present = der(0xA0, *(sorted(each) if sort else each))
    encoded = [c.public_bytes(serialization.Encoding.DER) for c in certificates]
    own = signer.certificate
    serial = own.serial_number.to_bytes(own.serial_number.bit_length() // 8 + 1)
    if ski:
        who = der(0x80, own.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest)
    else:
        who = der(0x30, own.issuer.public_bytes(), der(2, serial))
    is_rsa = isinstance(signer.key, rsa.RSAPrivateKey)
    algorithm = der(0x30, oid(RSA), NULL) if is_rsa else der(0x30, oid(ECDSA))
    version = der(2, b"\x03" if ski else b"\x01")
    info = der(0x30, version, who, digest, present, algorithm, der(4, signer.sign(signed)))
    data = der(0x30, version, der(0x31, digest), der(0x30, oid(DATA)),
               der(0xA0, *sorted(encoded)) if encoded else b"", der(0x31, info))
    return der(0x30, oid("1.2.840.113549.1.7.2"), der(0xA0, data))


def main():
    keys = [k for k in json.loads((HERE / "canonical_keys.json").read_text())["good"] if k["key"]["origin"] == "NL"][:3]
    upload = b"".join(bytes.fromhex(k["protobuf"]) for k in keys)
    content = b"".join(sorted((k["canonical"].encode() for k in keys), key=b64encode))
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "upload").write_bytes(upload)
        (folder / "content").write_bytes(content)
        with_rsa = Signer(folder, "rsa", rsa.generate_private_key(65537, 2048))
        p256 = Signer(folder, "p256", ec.generate_private_key(ec.SECP256R1()))
        p384 = Signer(folder, "p384", ec.generate_private_key(ec.SECP384R1()))
        good, bad = [], []

        def add(to, name, by, signer, cms, **more):
            to.append({"name": name, "by": by, "certificate": signer.pem.read_text(), "cms": cms.hex()} | more)

        def program(command, by, jobs):
            lines = [f"{form} {folder / 'upload'} {s.chain} {s.private} {folder / name}" for name, s, form in jobs]
            (folder / "jobs").write_text("".join(line + "\n" for line in lines))
            subprocess.run([*command, folder / "jobs"], check=True)
            for name, signer, form in jobs:
                add(good, name, f"{by}: {form}", signer, (folder / name).read_bytes())

        def openssl(options):
            command = ["openssl", "cms", "-sign", "-binary", "-in", "content", "-outform", "DER", "-out", "out"]
            subprocess.run(command + options.split(), cwd=folder, check=True)
            return (folder / "out").read_bytes()

        program(["java", "-cp", f"{ROOT}/target/foreign/libs/*", ROOT / "tests" / "java" / "Sign.java"], "BouncyCastle", [
            ("bouncycastle_rsa_ber", with_rsa, "SHA256withRSA"),
            ("bouncycastle_rsa_direct_stream", with_rsa, "SHA512withRSA,direct,stream"),
            ("bouncycastle_pss_der", with_rsa, "SHA256withRSAandMGF1,ski,der"),
            ("bouncycastle_pss_direct_ber", with_rsa, "SHA384withRSAandMGF1,direct,nocerts"),
            ("bouncycastle_ecdsa_stream", p256, "SHA256withECDSA,stream"),
            ("bouncycastle_ecdsa_p384", p384, "SHA384withECDSA,direct,nocerts,ski"),
        ])
        program([sys.executable, ROOT / "tests" / "python" / "sign.py"], "Python's cryptography", [
            ("python_rsa", with_rsa, "sha256"),
            ("python_rsa_noattr", with_rsa, "sha384,noattr,nocerts"),
            ("python_pss", with_rsa, "sha512,pss,nocapabilities"),
            ("python_ecdsa", p256, "sha256,noattr"),
        ])
        of_rsa, of_p256 = "-signer rsa.pem -inkey rsa.key", "-signer p256.pem -inkey p256.key"
        pss = "-keyopt rsa_padding_mode:pss"
        for name, signer, options in [
            ("openssl_rsa", with_rsa, of_rsa),
            ("openssl_rsa_cades", with_rsa, f"{of_rsa} -cades -md sha512"),
            ("openssl_pss_keyid", with_rsa, f"{of_rsa} -keyid {pss} -keyopt rsa_pss_saltlen:0"),
            ("openssl_ecdsa_nocerts", p256, f"{of_p256} -nocerts -noattr"),
            ("openssl_ecdsa_chain", p256, f"{of_p256} -certfile p256.chain".replace("p256.chain", "p384.chain")),
        ]:
            add(good, name, f"openssl cms {options}", signer, openssl(options))

        # .NET puts attributes into the order of DER by itself, leaves the root out or brings the whole chain, and writes
        # none at all unless it is asked for one.
        some = [CONTENT_TYPE, SIGNING_TIME, DIGEST]
        by = ".NET's SignedCms, by hand"
        add(good, "dotnet_rsa_exclude_root", by, with_rsa,
            by_hand(with_rsa, content, attributes=some, certificates=[with_rsa.certificate]))
        add(good, "dotnet_rsa_whole_chain_null", by, with_rsa, by_hand(
            with_rsa, content, NULL, some, certificates=[with_rsa.certificate, with_rsa.root]))
        add(good, "dotnet_rsa_bare_none", by, with_rsa, by_hand(with_rsa, content, NULL))
        add(good, "dotnet_ecdsa_ski", by, p256,
            by_hand(p256, content, attributes=some, ski=True, certificates=[p256.certificate]))

        def wrong(name, refused, cms, signer=with_rsa, by="openssl cms, or by hand"):
            add(bad, f"bad_{name}", by, signer, cms, refused=refused)

        plain = openssl(of_rsa)
        wrong("sha1", "signature-algorithm", openssl(f"{of_rsa} -md sha1"))
        wrong("md5", "signature-algorithm", openssl(f"{of_rsa} -md md5"))
        wrong("sha1_mask", "signature-algorithm", openssl(f"{of_rsa} {pss} -keyopt rsa_mgf1_md:sha1"))
        wrong("embedded_content", "signature-embedded-content", openssl(f"{of_rsa} -nodetach"))
        wrong("trailing_byte", "signature-trailing-bytes", plain + b"\0")
        wrong("two_signers", "signature-not-one-signer", openssl(f"{of_rsa} {of_p256}"))
        wrong("cut_off", "signature-malformed", plain[:-1])
        wrong("other_content", "does-not-hold", by_hand(with_rsa, content + b"."))
        wrong("other_key", "does-not-hold", by_hand(p256, content), p384)
        wrong("changed_bit", "does-not-hold", plain[:-1] + bytes([plain[-1] ^ 1]))
        # What the attributes say is not what follows from the content.
        wrong("other_digest", "does-not-hold", by_hand(with_rsa, content, attributes=some).replace(
            sha256(content), sha256(b"")))
        wrong("no_digest", "does-not-hold", by_hand(with_rsa, content, attributes=[CONTENT_TYPE, SIGNING_TIME]))
        # OpenSSL takes the first of these and refuses the second; BouncyCastle does the opposite.
        unsorted = [CONTENT_TYPE, DIGEST, SIGNING_TIME]
        for name, signed_sorted in [("attributes_signed_unsorted", False), ("attributes_sent_unsorted", True)]:
            wrong(name, "signature-malformed", by_hand(
                with_rsa, content, attributes=unsorted, sort=False, signed_sorted=signed_sorted))
    vectors = {"content": content.hex(), "good": good, "bad": bad}
    (HERE / "signatures.json").write_text(json.dumps(vectors, indent=1) + "\n")


if __name__ == "__main__":
    main()
