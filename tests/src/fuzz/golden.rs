//! The network of the golden vectors: certificates, documents and batches whose private keys are not needed.

use std::sync::OnceLock;

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use keyferry_schemas::{
    avro::Record,
    batch::{Checkpoint, SignedBatch},
    canonical::Canonical,
    certificate::Certificate,
    efgs::{self, Encoding},
    network::Network,
    records::{Hash, NetworkRecord},
};
use serde_json::Value;

/// What the vectors hold, read once.
pub(super) struct Golden {
    pub network: Network,
    pub anchors: [Certificate; 1],
    pub record: NetworkRecord,
    /// Published with the vectors.
    pub hub: SigningKey,
    /// The first is whole, the second a subset.
    pub batches: Vec<SignedBatch>,
    pub checkpoint: Checkpoint,
    /// What a certificate signed, and which: the document, and the keys of the whole batch.
    pub signed: [(Vec<u8>, Hash); 2],
}

pub(super) fn golden() -> &'static Golden {
    static GOLDEN: OnceLock<Golden> = OnceLock::new();
    GOLDEN.get_or_init(read)
}

macro_rules! vectors {
    ($name:literal) => {
        serde_json::from_str::<Value>(include_str!(concat!("../../../schemas/vectors/", $name, ".json")))
            .unwrap()
    };
}

fn bytes(value: &Value) -> Bytes {
    hex::decode(value.as_str().unwrap()).unwrap().into()
}

fn fixed<const N: usize>(value: &Value) -> [u8; N] {
    bytes(value).as_ref().try_into().unwrap()
}

fn read() -> Golden {
    let (network, batches, checkpoints) = (vectors!("network"), vectors!("batches"), vectors!("checkpoints"));
    let record = NetworkRecord {
        network: network["record"]["network"].as_str().unwrap().into(),
        version: network["record"]["version"].as_i64().unwrap(),
        document: network["document"].as_str().unwrap().to_owned().into(),
        signature: bytes(&network["signature"]),
    };
    let anchors = [Certificate::from_pem(network["anchor"].as_str().unwrap()).unwrap()];
    let hub = SigningKey::from_bytes(&fixed(&batches["about"]["seed"]));
    let signer = fixed(&batches["good"][0]["manifest"]["signing_certificate"]);
    let batches: Vec<_> = batches["good"].as_array().unwrap().iter().map(signed_batch).collect();
    let keys = efgs::decode(Encoding::Protobuf, batches[0].keys.clone()).unwrap();
    Golden {
        network: Network::open(&record, &anchors).unwrap(),
        signed: [
            (record.document.to_vec(), anchors[0].sha256()),
            (Canonical::of(&keys).bytes().to_vec(), signer),
        ],
        checkpoint: Checkpoint::from_avro(bytes(&checkpoints["good"][0]["avro"])).unwrap(),
        anchors,
        record,
        hub,
        batches,
    }
}

fn signed_batch(of: &Value) -> SignedBatch {
    SignedBatch {
        manifest: bytes(&of["avro"]),
        signature: fixed(&of["signature"]),
        keys: bytes(&of["keys"]),
        new: bytes(&of["new"]),
        origin_signature: Some(&of["origin_signature"]).filter(|v| !v.is_null()).map(bytes),
    }
}
