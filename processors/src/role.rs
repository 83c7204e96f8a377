//! `keyferry process`: the pipeline inside the transaction loop.

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use ed25519_dalek::{SigningKey, pkcs8::DecodePrivateKey};
use keyferry_runtime::{
    clock::{Clock as _, SystemClock},
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
    avro::AvroError,
    batch::Checkpoint,
    country::Country,
    network::{MemberState, Network},
    records::{Head, LedgerEntry, Upload},
    time::Millis,
    topics,
};
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::{
    checkpoint::checkpoints,
    fingerprint::{Secret, Secrets},
    metrics::PipelineMetrics,
    pipeline::{NoSigningKey, Prepared, Source, Stage, Step, Tools, decide, prepare},
    sign::Signer,
    state::OriginState,
};

/// A processor that neither advances nor turns for this long is dead.
const MAX_SILENCE: Duration = Duration::from_secs(60);

/// Most threads that look at uploads ahead: beyond the cores of a large machine they only take memory.
const MAX_THREADS: usize = 256;

/// What the names of the headers begin with that a rejected record is given.
const ERRORS: &str = "__keyferry.errors.";

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
    /// How often the chains of each origin are stated in checkpoints, in seconds; 3600 unless told.
    #[serde(default = "ProcessConfig::default_checkpoint_interval_s")]
    pub checkpoint_interval_s: u32,
    /// Threads that look at uploads ahead of their turn: as many as there are cores, unless told; below two none.
    #[serde(default)]
    pub threads: Option<usize>,
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
        if !(1..=86_400).contains(&self.checkpoint_interval_s) {
            faults.add("checkpoint_interval_s", "is not 1 to 86400");
        }
        if self.threads.is_some_and(|n| n > MAX_THREADS) {
            faults.add("threads", format!("is more than {MAX_THREADS}"));
        }
        if let Some(Err(e)) = self.previous_fingerprint_secret.as_ref().map(SecretFile::load) {
            faults.add("previous_fingerprint_secret.file", e);
        }
    }
}

impl ProcessConfig {
    fn default_checkpoint_interval_s() -> u32 {
        3600
    }

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

    /// The record as an upload, or as none. That the registry does not answer says nothing about the record: then this
    /// fails, and it is decided later.
    fn source(&self, record: &Record) -> Result<Source, String> {
        let value = record.value.clone().unwrap_or_default();
        let upload = if value.len() > topics::MAX_UPLOAD_BYTES {
            Err(format!("{} bytes are more than {}", value.len(), topics::MAX_UPLOAD_BYTES))
        } else {
            match self.codec.decode::<Upload>(value) {
                Ok(upload) => Ok(upload),
                Err(e @ AvroError::Unavailable(_)) => return Err(e.to_string()),
                Err(e) => Err(e.to_string()),
            }
        };
        Ok(Source { offset: record.offset, timestamp: record.timestamp, upload })
    }

    fn outputs(
        &self,
        origin: Country,
        record: &Record,
        attempt: u32,
        step: &Step,
        outputs: &mut Vec<Output>,
    ) {
        let mut put = |topic: String, key, value, headers| {
            outputs.push(Output { topic, key, value, headers, timestamp: record.timestamp });
        };
        let name = || Some(Bytes::copy_from_slice(origin.as_str().as_bytes()));
        let entry = self.codec.frame::<LedgerEntry>(&step.entry_bytes);
        put(topics::ledger(origin), name(), Some(entry.into()), Vec::new());
        for (destination, batch) in &step.batches {
            let batch = self.codec.encode(batch);
            put(topics::keys(*destination), name(), Some(batch.into()), Vec::new());
        }
        if let Some(stage) = step.rejected_at {
            let headers = reject_headers(origin, record, attempt, &step.entry, stage);
            let (key, value) =
                if keepable(record) { (record.key.clone(), record.value.clone()) } else { (None, None) };
            put(topics::REJECTS.into(), key, value, headers);
        }
    }
}

/// One origin's stream: its state, and what its open transaction has decided, to be counted once it is committed.
pub struct Stream {
    state: OriginState,
    decided: Vec<LedgerEntry>,
}

impl Application for Pipeline {
    type State = Stream;
    type Prepared = Prepared;

    fn blank(&self, origin: Country, first_offset: i64) -> Stream {
        Stream { state: OriginState::new(origin, first_offset), decided: Vec::new() }
    }

    fn replay(&self, stream: &mut Stream, entry: &LedgerEntry, first: bool) -> Result<(), String> {
        stream.state.replay(entry, first).map_err(|e| e.to_string())
    }

    fn restored(
        &self,
        stream: &mut Stream,
        head: Option<&Head>,
        ledger_is_empty: bool,
    ) -> Result<(), String> {
        let state = &mut stream.state;
        state.finish(head, ledger_is_empty, &self.tools.secrets).map_err(|e| e.to_string())?;
        self.metrics.expect(state.origin());
        self.metrics.seen(state.origin(), state.seen_keys());
        Ok(())
    }

    fn prepare(&self, origin: Country, record: &Record, network: &Network) -> Result<Prepared, String> {
        Ok(prepare(self.source(record)?, origin, network, &self.tools))
    }

    fn step(
        &self,
        stream: &mut Stream,
        record: &Record,
        prepared: &Prepared,
        attempt: u32,
        network: &Network,
        outputs: &mut Vec<Output>,
    ) -> Result<(), String> {
        let step = decide(&mut stream.state, prepared, network, &self.tools).map_err(|e| e.to_string())?;
        self.outputs(stream.state.origin(), record, attempt, &step, outputs);
        stream.decided.push(step.entry);
        Ok(())
    }

    fn last_checkpoint(&self, stream: &Stream) -> Millis {
        stream.state.position().checkpoint_at
    }

    fn checkpoint(
        &self,
        stream: &mut Stream,
        now: Millis,
        network: &Network,
        outputs: &mut Vec<Output>,
    ) -> Result<(), String> {
        let signer = self.tools.signers.iter().find(|s| s.in_force(network, now));
        let signer = signer.ok_or_else(|| NoSigningKey(network.version()).to_string())?;
        let origin = stream.state.origin();
        outputs.extend(checkpoints(&stream.state, network, signer, now).iter().map(|checkpoint| Output {
            topic: topics::keys(checkpoint.destination),
            key: Some(Bytes::copy_from_slice(origin.as_str().as_bytes())),
            value: Some(self.codec.encode::<Checkpoint>(checkpoint).into()),
            headers: Vec::new(),
            timestamp: now,
        }));
        stream.state.stated(now, network.version());
        Ok(())
    }

    fn head(&self, stream: &Stream) -> Head {
        stream.state.head()
    }

    fn settle(&self, stream: &mut Stream, committed: bool) {
        let decided = std::mem::take(&mut stream.decided);
        if committed {
            stream.state.commit();
            decided.iter().for_each(|entry| self.metrics.decided(entry));
            self.metrics.seen(stream.state.origin(), stream.state.seen_keys());
        } else {
            stream.state.abort();
        }
    }
}

/// Whether a record can be written again as it is. On a topic with other settings than ours a few thousand compressed
/// bytes may hold more than any record may; refusing to go on over that would stop the origin for ever. What is not kept
/// still stands on the upload topic, at the offset that the headers name.
fn keepable(record: &Record) -> bool {
    let size = |part: &Option<Bytes>| part.as_ref().map_or(0, Bytes::len);
    let headers = record.headers.iter().map(|(name, value)| name.len() + size(value)).sum::<usize>();
    size(&record.key) + size(&record.value) + headers <= topics::MAX_REJECT_BYTES - (64 << 10)
}

fn reject_headers(
    origin: Country,
    record: &Record,
    attempt: u32,
    entry: &LedgerEntry,
    stage: Stage,
) -> Vec<(String, Option<Bytes>)> {
    let own = if keepable(record) { record.headers.as_slice() } else { &[] };
    // Ours are the only ones of their kind: a sender's own could be read for them.
    let kept = own.iter().filter(|(name, _)| !name.starts_with(ERRORS)).cloned();
    let error = |name: &str, value: String| (format!("{ERRORS}{name}"), Some(value.into()));
    let added = [
        error("topic", topics::uploads(origin)),
        error("partition", "0".into()),
        error("offset", record.offset.to_string()),
        error("timestamp", record.timestamp.0.to_string()),
        error("stage", stage.name().into()),
        error("code", entry.code.clone().unwrap_or_default()),
        error("message", entry.detail.clone().unwrap_or_default()),
        error("policy.version", entry.network_version.to_string()),
        error("attempt", attempt.to_string()),
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
    // Kafka would say only much later, and in other words, that a topic is missing.
    let now = SystemClock.now();
    let document = network.current();
    let members =
        document.iter().flat_map(|n| n.countries().filter(|c| n.state(*c, now) != MemberState::Left));
    kafka.insist_on([topics::HEADS.to_owned(), topics::REJECTS.to_owned()])?;
    kafka.insist_on(members.flat_map(topics::of_member).map(|topic| topic.name))?;
    let settings = Settings::new(&config.transactional_id);
    let runner = Runner {
        application: Arc::new(Pipeline::new(config.tools()?, codec.clone())?),
        kafka,
        codec,
        network,
        settings: Settings {
            checkpoint_interval: Some(Duration::from_secs(config.checkpoint_interval_s.into())),
            threads: config.threads.unwrap_or(settings.threads),
            ..settings
        },
        clock: Arc::new(SystemClock),
        beat: health.component("transactions", MAX_SILENCE),
    };
    runner.run(shutdown)
}
