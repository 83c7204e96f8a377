#!/usr/bin/env python3
"""Holds examples/python/cms.py against the golden signatures."""
import json, sys
from pathlib import Path

from cryptography.x509 import load_pem_x509_certificate

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "examples" / "python"))
import cms  # noqa: E402
from wire import Broken  # noqa: E402

vectors = json.loads((ROOT / "schemas" / "vectors" / "signatures.json").read_text())
for vector in vectors["good"] + vectors["bad"]:
    certificate = load_pem_x509_certificate(vector["certificate"].encode())
    try:
        cms.verify(bytes.fromhex(vector["cms"]), bytes.fromhex(vectors["content"]), certificate)
        verdict = "holds"
    except Broken as why:
        verdict = f"refused: {why}"
    print(f"{vector['name']} {verdict}")
    if verdict.startswith("refused") != ("refused" in vector):
        sys.exit(f"{vector['name']} is judged wrongly")
