//! `keyferry process`: the pipeline inside the transaction loop.

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use ed25519_dalek::{SigningKey, pkcs8::DecodePrivateKey};
use keyferry_runtime::{
    codec::Codec,
    config::{Check, Faults},
    exit::Fatal,
    health::Health,
    kafka::Kafka,
    network::NetworkFeed,
    shutdown::Shutdown,
    tail::Record,
    transaction::{Application, Output, Runner, Settings},
};
use keyferry_schemas::{
    batch::SignedBatch,
    country::Country,
    network::Network,
    records::{Head, LedgerEntry, Upload},
    topics,
};
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::{
    fingerprint::{Secret, Secrets},
    metrics::PipelineMetrics,
    pipeline::{Source, Stage, Step, Tools, step},
    sign::Signer,
    state::OriginState,
};

/// A processor that neither advances nor turns for this long is dead.
const MAX_SILENCE: Duration = Duration::from_secs(60);

/// `process:` of the configuration.
#[derive(Debug, Clone, Deserialize)]
pub struct ProcessConfig {
    /// Stable over restarts and unique among instances: `<release>-process-<ordinal>`.
    pub transactional_id: String,
    /// The keys that sign batches; the first that the network document has in force is used.
    pub signing_keys: Vec<SigningKeyFile>,
    /// The secret under which keys are remembered.
    pub fingerprint_secret: SecretFile,
    /// While the secret rotates: the one before.
    #[serde(default)]
    pub previous_fingerprint_secret: Option<SecretFile>,
}

/// A signing key: its name in the network document, and its file.
#[derive(Debug, Clone, Deserialize)]
pub struct SigningKeyFile {
    /// Name.
    pub id: String,
    /// PKCS#8 PEM with an Ed25519 key, as `keyferry keys generate` writes it.
    pub file: PathBuf,
}

/// A secret: its name in the ledgers, and its file.
#[derive(Debug, Clone, Deserialize)]
pub struct SecretFile {
    /// Name.
    pub id: String,
    /// 32 bytes in hex, as `keyferry keys generate --kind fingerprint` writes it.
    pub file: PathBuf,
}

impl Check for ProcessConfig {
    fn check(&self, faults: &mut Faults) {
        if self.transactional_id.is_empty() {
            faults.add(
                "transactional_id",
                "is empty: give each instance a name of its own that outlives restarts",
            );
        }
        if self.signing_keys.is_empty() {
            faults.add("signing_keys", "is empty: `keyferry keys generate` makes one");
        }
        for (i, key) in self.signing_keys.iter().enumerate() {
            if let Err(e) = key.load() {
                faults.add(&format!("signing_keys[{i}].file"), e);
            }
        }
        if let Err(e) = self.fingerprint_secret.load() {
            faults.add("fingerprint_secret.file", e);
        }
        if let Some(Err(e)) = self.previous_fingerprint_secret.as_ref().map(SecretFile::load) {
            faults.add("previous_fingerprint_secret.file", e);
        }
    }
}

impl ProcessConfig {
    /// Reads keys and secrets. Blocks on their files.
    ///
    /// # Errors
    /// [`Fatal`] naming the file that is missing or malformed.
    pub fn tools(&self) -> Result<Tools, Fatal> {
        let signers = self.signing_keys.iter().map(SigningKeyFile::load).collect::<Result<_, _>>();
        let previous = self.previous_fingerprint_secret.as_ref().map(SecretFile::load).transpose();
        Ok(Tools {
            signers: signers.map_err(Fatal::config)?,
            secrets: Secrets {
                current: self.fingerprint_secret.load().map_err(Fatal::config)?,
                previous: previous.map_err(Fatal::config)?,
            },
            writer: self.transactional_id.clone(),
        })
    }
}

impl SigningKeyFile {
    fn load(&self) -> Result<Signer, String> {
        let path = self.file.display();
        let pem = Zeroizing::new(
            std::fs::read_to_string(&self.file).map_err(|e| format!("can not be read: {path}: {e}"))?,
        );
        let key = SigningKey::from_pkcs8_pem(&pem)
            .map_err(|_| format!("is no Ed25519 key in PKCS#8 PEM: {path}"))?;
        Ok(Signer::new(self.id.clone(), key))
    }
}

impl SecretFile {
    fn load(&self) -> Result<Secret, String> {
        let path = self.file.display();
        let text = Zeroizing::new(
            std::fs::read_to_string(&self.file).map_err(|e| format!("can not be read: {path}: {e}"))?,
        );
        let mut secret = Zeroizing::new([0u8; 32]);
        hex::decode_to_slice(text.trim(), secret.as_mut())
            .map_err(|_| format!("is not 32 bytes in hex: {path}"))?;
        Ok(Secret::new(&self.id, &secret))
    }
}

/// The pipeline as the transaction loop runs it.
pub struct Pipeline {
    tools: Tools,
    codec: Codec,
    metrics: PipelineMetrics,
}

impl Pipeline {
    /// Puts the pipeline together.
    ///
    /// # Errors
    /// A metric is defined twice, which is a fault of the build.
    pub fn new(tools: Tools, codec: Codec) -> Result<Self, Fatal> {
        Ok(Self { tools, codec, metrics: PipelineMetrics::register()? })
    }

    fn source(&self, record: &Record) -> Source {
        let value = record.value.clone().unwrap_or_default();
        let upload = if value.len() > topics::MAX_UPLOAD_BYTES {
            Err(format!("{} bytes are more than {}", value.len(), topics::MAX_UPLOAD_BYTES))
        } else {
            self.codec.decode::<Upload>(value).map_err(|e| e.to_string())
        };
        Source { offset: record.offset, timestamp: record.timestamp, upload }
    }

    fn outputs(&self, origin: Country, record: &Record, step: &Step, outputs: &mut Vec<Output>) {
        let mut put = |topic: String, key: Vec<u8>, value: Vec<u8>, headers| {
            outputs.push(Output { topic, key, value, headers, timestamp: record.timestamp });
        };
        let entry = self.codec.frame::<LedgerEntry>(&step.entry_bytes);
        put(topics::ledger(origin), origin.as_str().into(), entry, Vec::new());
        for (destination, batch) in &step.batches {
            put(
                topics::keys(*destination),
                origin.as_str().into(),
                self.codec.encode::<SignedBatch>(batch),
                Vec::new(),
            );
        }
        if let Some(stage) = step.rejected_at {
            let headers = reject_headers(origin, record, &step.entry, stage);
            let (key, value) = match keepable(record) {
                true => (record.key.clone().unwrap_or_default(), record.value.clone().unwrap_or_default()),
                false => (Bytes::new(), Bytes::new()),
            };
            put(topics::REJECTS.into(), key.into(), value.into(), headers);
        }
    }
}

impl Application for Pipeline {
    type State = OriginState;

    fn blank(&self, origin: Country) -> OriginState {
        OriginState::new(origin)
    }

    fn replay(&self, state: &mut OriginState, entry: &LedgerEntry, first: bool) -> Result<(), String> {
        state.replay(entry, first).map_err(|e| e.to_string())
    }

    fn restored(
        &self,
        state: &mut OriginState,
        head: Option<&Head>,
        ledger_is_empty: bool,
    ) -> Result<(), String> {
        state.finish(head, ledger_is_empty).map_err(|e| e.to_string())
    }

    fn step(
        &self,
        state: &mut OriginState,
        record: &Record,
        network: &Network,
        outputs: &mut Vec<Output>,
    ) -> Result<(), String> {
        let step = step(state, self.source(record), network, &self.tools).map_err(|e| e.to_string())?;
        self.outputs(state.origin(), record, &step, outputs);
        self.metrics.decided(&step.entry);
        Ok(())
    }

    fn head(&self, state: &OriginState) -> Head {
        state.head()
    }

    fn settle(&self, state: &mut OriginState, committed: bool) {
        if committed {
            state.commit();
            self.metrics.seen(state.origin(), state.seen_keys());
        } else {
            state.abort();
        }
    }
}

/// Whether a record can be written again as it is. On a topic with other settings than ours a few thousand compressed
/// bytes may hold more than any record may; refusing to go on over that would stop the origin for ever. What is not kept
/// still stands on the upload topic, at the offset that the headers name.
fn keepable(record: &Record) -> bool {
    let headers = record.headers.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
    let size = |part: &Option<Bytes>| part.as_ref().map_or(0, Bytes::len);
    size(&record.key) + size(&record.value) + headers <= topics::MAX_REJECT_BYTES - (64 << 10)
}

fn reject_headers(
    origin: Country,
    record: &Record,
    entry: &LedgerEntry,
    stage: Stage,
) -> Vec<(String, Vec<u8>)> {
    let own = if keepable(record) { record.headers.as_slice() } else { &[] };
    let kept = own.iter().map(|(key, value)| (key.clone(), Bytes::clone(value).into()));
    let error = |name: &str, value: String| (format!("__keyferry.errors.{name}"), value.into_bytes());
    let added = [
        error("topic", topics::uploads(origin)),
        error("partition", "0".into()),
        error("offset", record.offset.to_string()),
        error("timestamp", record.timestamp.0.to_string()),
        error("stage", stage.name().into()),
        error("code", entry.code.clone().unwrap_or_default()),
        error("message", entry.detail.clone().unwrap_or_default()),
        error("policy.version", entry.network_version.to_string()),
        error("attempt", "1".into()),
    ];
    kept.chain(added).collect()
}

/// Runs the pipeline until `shutdown`. Blocks its thread.
///
/// # Errors
/// [`Fatal`] where only an operator can help.
pub fn run(
    config: &ProcessConfig,
    kafka: Kafka,
    codec: Codec,
    network: NetworkFeed,
    health: &Health,
    shutdown: &Shutdown,
) -> Result<(), Fatal> {
    let runner = Runner {
        application: Arc::new(Pipeline::new(config.tools()?, codec.clone())?),
        kafka,
        codec,
        network,
        settings: Settings::new(&config.transactional_id),
        beat: health.component("transactions", MAX_SILENCE),
    };
    runner.run(shutdown)
}
