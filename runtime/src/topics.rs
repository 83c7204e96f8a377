//! Makes topics be as they have to be: creates those that are missing, alters settings that differ, refuses what only
//! an operator can decide. Running it again changes nothing.

use std::{collections::BTreeMap, fmt, time::Duration};

use futures::executor::block_on;
use rdkafka::{
    Offset, TopicPartitionList,
    admin::{
        AdminClient, AdminOptions, AlterConfig, ConfigResource, ConfigSource, NewTopic, ResourceSpecifier,
        TopicReplication,
    },
    client::DefaultClientContext,
    consumer::Consumer,
    error::{KafkaError, RDKafkaErrorCode as Code},
};
use serde::Deserialize;

use keyferry_schemas::{
    country::Country,
    topics::{self, Topic},
};

use crate::{
    clients::{bounds, is_absence},
    config::{Check, Faults},
    exit::Fatal,
    kafka::{Isolation, Kafka},
    tail::BROKER_TIMEOUT,
};

/// How long the controller may take for all of one request.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(30);
/// Every topic of ours begins with this.
const PREFIX: &str = "keyferry.";
const MIN_INSYNC: &str = "min.insync.replicas";

/// `topics:` how safely topics are kept, which depends on the cluster and not on Keyferry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct TopicsConfig {
    /// Copies of each new topic; -1, the default, leaves it to the broker.
    #[serde(default = "TopicsConfig::default_replication_factor")]
    pub replication_factor: i32,
    /// Copies that must have a record before it counts as written. Left to the broker unless given; 2 of 3 is usual.
    #[serde(default)]
    pub min_insync_replicas: Option<i32>,
}

impl TopicsConfig {
    fn default_replication_factor() -> i32 {
        -1
    }

    fn settings(self, topic: &Topic) -> BTreeMap<&str, String> {
        let own = topic.settings.iter().map(|(key, value)| (*key, value.clone()));
        own.chain(self.min_insync_replicas.map(|n| (MIN_INSYNC, n.to_string()))).collect()
    }
}

impl Default for TopicsConfig {
    fn default() -> Self {
        Self { replication_factor: Self::default_replication_factor(), min_insync_replicas: None }
    }
}

impl Check for TopicsConfig {
    fn check(&self, faults: &mut Faults) {
        if self.replication_factor != -1 && self.replication_factor < 1 {
            faults.add("replication_factor", "is neither -1 (the broker's default) nor 1 or more");
        }
        if self.min_insync_replicas.is_some_and(|n| n < 1) {
            faults.add("min_insync_replicas", "is below 1");
        }
        if self.replication_factor > 0
            && self.min_insync_replicas.is_some_and(|n| n > self.replication_factor)
        {
            faults.add(
                "min_insync_replicas",
                "is more than `replication_factor`: nothing could ever be written",
            );
        }
    }
}

/// What was changed, or would be. Its `Display` is one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Records that are gone, since their member has left.
    Purged {
        /// The topic.
        topic: String,
        /// Up to this offset, exclusive.
        before: i64,
    },
    /// A topic that was not there.
    Created {
        /// Its name.
        topic: String,
    },
    /// A setting that was another, or the broker's default.
    Altered {
        /// Of which topic.
        topic: String,
        /// By its Kafka name.
        setting: String,
        /// What it was, if the broker told.
        from: Option<String>,
        /// What it is now.
        to: String,
    },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Purged { topic, before } => {
                write!(f, "delete the records of {topic} before offset {before}")
            }
            Self::Created { topic } => write!(f, "create {topic}"),
            Self::Altered { topic, setting, from, to } => {
                let from = from.as_deref().unwrap_or("not set");
                if from == to {
                    write!(f, "alter {topic}: {setting} = {to} (was the broker's default)")
                } else {
                    write!(f, "alter {topic}: {setting} = {to} (was {from})")
                }
            }
        }
    }
}

/// Why topics are not as they have to be.
#[derive(Debug, thiserror::Error)]
pub enum TopicsError {
    /// No broker answers, or none with more than a refusal.
    #[error(transparent)]
    Brokers(Fatal),
    /// A topic is there in a form that can not be altered. Nothing was changed.
    #[error("{}", .0.join("\n"))]
    Unfit(Vec<String>),
    /// The broker refused a change; those before it were made.
    #[error("the broker refuses to {doing} {topic}: {code}")]
    Refused {
        /// What was attempted.
        doing: &'static str,
        /// With which topic.
        topic: String,
        /// Its reason.
        code: Code,
    },
}

impl From<TopicsError> for Fatal {
    fn from(error: TopicsError) -> Self {
        match error {
            TopicsError::Brokers(fatal) => fatal,
            // One line each, as the faults of a configuration.
            TopicsError::Unfit(_) => Self { message: error.to_string(), ..Self::config("") },
            TopicsError::Refused { .. } => Self::failure(error),
        }
    }
}

/// A topic as it is.
#[derive(Debug, Clone)]
pub struct Found {
    /// Its name.
    pub name: String,
    /// Number of partitions.
    pub partitions: usize,
    /// Copies of the first partition.
    pub replicas: usize,
    /// Settings made for this topic, by their Kafka names; those it inherits are not here.
    pub settings: BTreeMap<String, String>,
    /// Every setting in force.
    effective: BTreeMap<String, String>,
}

/// Every topic of Keyferry, by name. Blocks for up to some 40 s.
///
/// # Errors
/// [`TopicsError::Brokers`], or a topic may not be described.
pub fn list(kafka: &Kafka) -> Result<Vec<Found>, TopicsError> {
    let admin = kafka.admin().map_err(|e| brokers(kafka, e))?;
    find(kafka, &admin)
}

/// Makes the topics `wanted` be as they say; with `dry_run` the broker checks every change and makes none. Returns the
/// changes. Blocks for up to some minutes, usually well below a second; needs no async runtime.
///
/// # Errors
/// [`TopicsError`]; [`TopicsError::Unfit`] names every such topic, and comes before anything is changed.
pub fn apply(
    kafka: &Kafka,
    wanted: &[Topic],
    config: TopicsConfig,
    dry_run: bool,
) -> Result<Vec<Change>, TopicsError> {
    let admin = kafka.admin().map_err(|e| brokers(kafka, e))?;
    let found: BTreeMap<_, _> = find(kafka, &admin)?.into_iter().map(|t| (t.name.clone(), t)).collect();
    let unfit: Vec<_> = wanted.iter().filter_map(|t| unfit(found.get(&t.name)?, config)).collect();
    if !unfit.is_empty() {
        return Err(TopicsError::Unfit(unfit));
    }
    let options = AdminOptions::new()
        .request_timeout(Some(OPERATION_TIMEOUT))
        .operation_timeout(Some(OPERATION_TIMEOUT))
        .validate_only(dry_run);
    let mut changes = Vec::new();
    for topic in wanted {
        match found.get(&topic.name) {
            None => changes.extend(create(kafka, &admin, topic, config, &options)?),
            Some(found) => changes.extend(alter(kafka, &admin, topic, found, config, &options)?),
        }
    }
    Ok(changes)
}

/// Deletes what is there of a member that has left: every key for it, its callbacks, and those of its uploads that are decided. What is
/// not decided yet stays until it is, and expires with its topic. With `dry_run` nothing is deleted. Blocks as [`apply`].
///
/// # Errors
/// [`TopicsError`]
pub fn purge(kafka: &Kafka, country: Country, dry_run: bool) -> Result<Vec<Change>, TopicsError> {
    let admin = kafka.admin().map_err(|e| brokers(kafka, e))?;
    // The processors' group says what is decided.
    let consumer = kafka.in_role("process").reader(Isolation::Committed).map_err(|e| brokers(kafka, e))?;
    let mut changes = Vec::new();
    for topic in [topics::keys(country), topics::callbacks(country), topics::uploads(country)] {
        let (low, high) = match bounds(&consumer, &topic) {
            Ok(bounds) => bounds,
            Err(e) if is_absence(&e) => continue,
            Err(e) => return Err(brokers(kafka, e)),
        };
        let mut offsets = TopicPartitionList::new();
        offsets.add_partition(&topic, 0);
        let before = if topic != topics::uploads(country) {
            high
        } else {
            let committed =
                consumer.committed_offsets(offsets.clone(), BROKER_TIMEOUT).map_err(|e| brokers(kafka, e))?;
            match committed.find_partition(&topic, 0).map(|p| p.offset()) {
                Some(Offset::Offset(offset)) => offset,
                _ => low,
            }
        };
        if before <= low {
            continue;
        }
        if !dry_run {
            let set = offsets.set_partition_offset(&topic, 0, Offset::Offset(before));
            set.map_err(|e| brokers(kafka, e))?;
            let options = AdminOptions::new().operation_timeout(Some(OPERATION_TIMEOUT));
            let deleted =
                block_on(admin.delete_records(&offsets, &options)).map_err(|e| brokers(kafka, e))?;
            if let Some(Err(KafkaError::OffsetFetch(code))) =
                deleted.find_partition(&topic, 0).map(|p| p.error())
            {
                return Err(TopicsError::Refused { doing: "purge", topic, code });
            }
        }
        changes.push(Change::Purged { topic, before });
    }
    Ok(changes)
}

fn unfit(found: &Found, config: TopicsConfig) -> Option<String> {
    let Found { name, partitions, replicas, .. } = found;
    if *partitions != 1 {
        // Order and the chains rest on it, and Kafka can not take partitions away.
        return Some(format!(
            "{name} has {partitions} partitions and must have one: delete it, or move its records to a new one"
        ));
    }
    let differs =
        config.replication_factor > 0 && usize::try_from(config.replication_factor) != Ok(*replicas);
    differs.then(|| {
        format!(
            "{name} has {replicas} replica(s) instead of {}: reassign its partition, or leave the factor out",
            config.replication_factor
        )
    })
}

fn create(
    kafka: &Kafka,
    admin: &AdminClient<DefaultClientContext>,
    topic: &Topic,
    config: TopicsConfig,
    options: &AdminOptions,
) -> Result<Option<Change>, TopicsError> {
    let settings = config.settings(topic);
    let new = NewTopic::new(&topic.name, 1, TopicReplication::Fixed(config.replication_factor));
    let new = settings.iter().fold(new, |new, (key, value)| new.set(key, value));
    for result in block_on(admin.create_topics([&new], options)).map_err(|e| brokers(kafka, e))? {
        match result {
            Ok(_) => (),
            // Somebody else was quicker, for example the same job on another machine.
            Err((_, Code::TopicAlreadyExists)) => return Ok(None),
            Err((topic, code)) => return Err(TopicsError::Refused { doing: "create", topic, code }),
        }
    }
    Ok(Some(Change::Created { topic: topic.name.clone() }))
}

fn alter(
    kafka: &Kafka,
    admin: &AdminClient<DefaultClientContext>,
    topic: &Topic,
    found: &Found,
    config: TopicsConfig,
    options: &AdminOptions,
) -> Result<Vec<Change>, TopicsError> {
    let settings = config.settings(topic);
    let changes: Vec<_> = settings
        .iter()
        .filter(|(key, value)| found.settings.get(**key) != Some(value))
        .map(|(key, value)| Change::Altered {
            topic: topic.name.clone(),
            setting: (*key).to_owned(),
            from: found.effective.get(*key).cloned(),
            to: value.clone(),
        })
        .collect();
    if changes.is_empty() {
        return Ok(changes);
    }
    // This request replaces the whole set: what an operator set besides goes with it.
    let kept = found.settings.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let ours = settings.iter().map(|(key, value)| (*key, value.as_str()));
    let mut request = AlterConfig::new(ResourceSpecifier::Topic(&topic.name));
    request.entries = kept.chain(ours).collect();
    for result in block_on(admin.alter_configs([&request], options)).map_err(|e| brokers(kafka, e))? {
        if let Err((_, code)) = result {
            return Err(TopicsError::Refused { doing: "alter", topic: topic.name.clone(), code });
        }
    }
    Ok(changes)
}

fn find(kafka: &Kafka, admin: &AdminClient<DefaultClientContext>) -> Result<Vec<Found>, TopicsError> {
    // All topics at once: to ask for one by name can create it.
    let metadata = admin.inner().fetch_metadata(None, BROKER_TIMEOUT).map_err(|e| brokers(kafka, e))?;
    let topics = metadata.topics().iter().filter(|t| t.name().starts_with(PREFIX));
    let mut found: BTreeMap<_, _> = topics
        .map(|t| {
            let replicas = t.partitions().first().map_or(0, |p| p.replicas().len());
            let (settings, effective) = Default::default();
            let name = t.name().to_owned();
            (name.clone(), Found { name, partitions: t.partitions().len(), replicas, settings, effective })
        })
        .collect();
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<_> = found.keys().cloned().collect();
    let asked: Vec<_> = names.iter().map(|name| ResourceSpecifier::Topic(name)).collect();
    let options = AdminOptions::new().request_timeout(Some(OPERATION_TIMEOUT));
    let answers = block_on(admin.describe_configs(&asked, &options)).map_err(|e| brokers(kafka, e))?;
    // The answers come in the order of the questions, and each stands for itself.
    for (name, answer) in names.iter().zip(answers) {
        let described =
            answer.map_err(|code| TopicsError::Refused { doing: "describe", topic: name.clone(), code })?;
        if let Some(topic) = found.get_mut(name) {
            (topic.settings, topic.effective) = read(described);
        }
    }
    Ok(found.into_values().collect())
}

fn read(described: ConfigResource) -> (BTreeMap<String, String>, BTreeMap<String, String>) {
    let mut settings = BTreeMap::new();
    let mut effective = BTreeMap::new();
    for entry in described.entries {
        let value = entry.value.unwrap_or_default();
        if entry.source == ConfigSource::DynamicTopic {
            settings.insert(entry.name.clone(), value.clone());
        }
        effective.insert(entry.name, value);
    }
    (settings, effective)
}

fn brokers(kafka: &Kafka, source: KafkaError) -> TopicsError {
    TopicsError::Brokers(kafka.fatal("keyferry.*", &source))
}
