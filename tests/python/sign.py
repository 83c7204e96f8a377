#!/usr/bin/env python3
"""Signs uploads with Python's `cryptography`, from the same jobs as tests/java/Sign.java: one a line, FORM UPLOAD
CERTIFICATES KEY OUT. FORM is sha256, sha384 or sha512, and any of: pss, noattr, nocerts, nocapabilities."""
import sys
from base64 import b64encode
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.hazmat.primitives.serialization.pkcs7 import PKCS7Options, PKCS7SignatureBuilder
from cryptography.x509 import load_pem_x509_certificates

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "python"))
from wire import canonical_key, message_class  # noqa: E402

HASHES = {"sha256": hashes.SHA256, "sha384": hashes.SHA384, "sha512": hashes.SHA512}
OPTIONS = {"noattr": PKCS7Options.NoAttributes, "nocerts": PKCS7Options.NoCerts,
           "nocapabilities": PKCS7Options.NoCapabilities}


def sign(form, content, certificates, key):
    name, *more = form.split(",")
    digest = HASHES[name]()
    pss = padding.PSS(padding.MGF1(digest), digest.digest_size) if "pss" in more else None
    builder = PKCS7SignatureBuilder().set_data(content)
    builder = builder.add_signer(certificates[0], key, digest, rsa_padding=pss)
    for certificate in certificates[1:]:
        builder = builder.add_certificate(certificate)
    options = [PKCS7Options.DetachedSignature, PKCS7Options.Binary, *(OPTIONS[o] for o in more if o in OPTIONS)]
    return builder.sign(Encoding.DER, options)


for job in Path(sys.argv[1]).read_text().splitlines():
    form, upload, certificates, key, out = job.split(" ")
    keys = message_class().FromString(Path(upload).read_bytes()).keys
    content = b"".join(sorted(map(canonical_key, keys), key=b64encode))
    certificates = load_pem_x509_certificates(Path(certificates).read_bytes())
    key = load_pem_private_key(Path(key).read_bytes(), None)
    Path(out).write_bytes(sign(form, content, certificates, key))
