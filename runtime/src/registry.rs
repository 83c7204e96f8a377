//! A schema registry that speaks Confluent's API. Subjects are the full names of the records (RecordNameStrategy:
//! `keyferry.v1.Upload`), since one topic carries several kinds of records.
//!
//! Ids are looked up by the exact schema and never as "the latest": an old binary would label its bytes with the id
//! of a newer schema.

use std::{collections::HashMap, error::Error, future::Future, time::Duration};

use reqwest::{Client, ClientBuilder, StatusCode, Url};
use schema_registry_converter::{
    async_impl::schema_registry::{
        SrSettings, get_schema_by_id, is_compatible_schema, perform_sr_call, post_schema,
    },
    error::SRCError,
    schema_registry_common::{RawError, SchemaType, SrCall, SuppliedSchema},
};

use crate::{
    codec::{Codec, SCHEMAS, SchemaSource},
    config::RegistryConfig,
    exit::Fatal,
};

/// Old readers of old records must be able to read every later one, and the other way round through all versions.
const COMPATIBILITY: &str = "BACKWARD_TRANSITIVE";
const NAMESPACE: &str = "keyferry.v1";

/// Why the registry is of no help. Each message is one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// It does not answer.
    #[error("the schema registry at {url} does not answer: {why}; check `registry.url`")]
    Unreachable {
        /// Where it should be.
        url: String,
        /// What the client says.
        why: String,
    },
    /// It does not know schemas of this build.
    #[error("the schema registry at {url} does not know {}; run `keyferry schemas register`", subjects.join(", "))]
    Missing {
        /// Where it is.
        url: String,
        /// Which.
        subjects: Vec<String>,
    },
    /// It refused something.
    #[error("the schema registry at {url} refuses to {doing} {subject}: {why}")]
    Refused {
        /// Where it is.
        url: String,
        /// What was attempted.
        doing: &'static str,
        /// With which subject or id.
        subject: String,
        /// Its reason.
        why: String,
    },
    /// No client can be made on this machine.
    #[error("no HTTP client can be made: {0}")]
    Client(String),
}

impl From<RegistryError> for Fatal {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::Unreachable { .. } => Self::unreachable(error),
            RegistryError::Missing { .. } => Self::config(error),
            RegistryError::Refused { .. } | RegistryError::Client(_) => Self::failure(error),
        }
    }
}

/// How the registry takes one schema of this build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// The subject.
    pub subject: String,
    /// The id of exactly this schema, if it is registered.
    pub id: Option<u32>,
    /// Whether it is compatible with every version of the subject so far.
    pub compatible: bool,
}

/// A client. Each call blocks for up to the configured timeout per request and needs no async runtime.
pub struct Registry {
    settings: SrSettings,
    client: Client,
    /// Without a trailing slash.
    url: String,
    /// The same without user and password, for messages.
    shown: String,
}

/// The codec of a role: with the ids of the registry if there is one, else with the fingerprints of the schemas.
/// Blocks for one request per schema.
///
/// # Errors
/// The registry does not answer, or does not know a schema of this build.
pub fn codec(registry: Option<&RegistryConfig>) -> Result<Codec, Fatal> {
    let broken = |e: keyferry_schemas::avro::AvroError| {
        Fatal::failure(format_args!("a schema of this build is broken: {e}"))
    };
    let Some(config) = registry else { return Codec::single_object().map_err(broken) };
    let registry = Registry::new(config)?;
    let ids = registry.ids()?;
    Codec::with_registry(&ids, Box::new(registry)).map_err(broken)
}

impl Registry {
    /// A client of the registry at `config.url`. No I/O.
    ///
    /// # Errors
    /// [`RegistryError::Client`].
    pub fn new(config: &RegistryConfig) -> Result<Self, RegistryError> {
        // A second provider is refused, and the first is the same one.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let url = config.url.trim_end_matches('/').to_owned();
        let timeout = Duration::from_millis(config.timeout_ms);
        let client = |e: reqwest::Error| RegistryError::Client(innermost(&e));
        let settings = SrSettings::new_builder(url.clone())
            .set_timeout(timeout)
            .build_with(builder())
            .map_err(|e| RegistryError::Client(innermost(&e)))?;
        Ok(Self {
            settings,
            client: builder().timeout(timeout).build().map_err(client)?,
            shown: shown(&url),
            url,
        })
    }

    /// Registers every schema of this build and sets the compatibility of its subject. Returns subjects and ids; those
    /// that were registered before keep theirs.
    ///
    /// # Errors
    /// [`RegistryError`], for example if a schema is not compatible with those before it.
    pub fn register(&self) -> Result<Vec<(String, u32)>, RegistryError> {
        SCHEMAS.iter().map(|(name, schema)| self.register_one(&subject(name), schema)).collect()
    }

    fn register_one(&self, subject: &str, schema: &str) -> Result<(String, u32), RegistryError> {
        // First the rule, then what it applies to; but some registries know no rules for a subject that is not there.
        let ruled = self.set_compatibility(subject)?;
        let post = post_schema(&self.settings, subject.to_owned(), supplied(subject, schema));
        let registered = block_on(post)?.map_err(|e| self.error("register", subject, &e))?;
        if !ruled && !self.set_compatibility(subject)? {
            let why = "it answers 404 although the subject was just registered".to_owned();
            return Err(self.refused("set the compatibility of", subject, why));
        }
        Ok((subject.to_owned(), registered.id))
    }

    /// Whether the subject is there to have one.
    fn set_compatibility(&self, subject: &str) -> Result<bool, RegistryError> {
        let body = serde_json::json!({ "compatibility": COMPATIBILITY }).to_string();
        let request = self
            .client
            .put(format!("{}/config/{subject}", self.url))
            .header("content-type", "application/vnd.schemaregistry.v1+json")
            .body(body);
        let answer = block_on(async {
            let answer = request.send().await?;
            Ok::<_, reqwest::Error>((answer.status(), answer.text().await?))
        })?;
        match answer {
            Ok((status, _)) if status.is_success() => Ok(true),
            Ok((StatusCode::NOT_FOUND, _)) => Ok(false),
            Ok((status, text)) => {
                let told = serde_json::from_str::<RawError>(&text).map(|e| format!(", {}", e.message));
                let why = format!("{status}{}", told.unwrap_or_default());
                Err(self.refused("set the compatibility of", subject, why))
            }
            Err(e) => Err(RegistryError::Unreachable { url: self.shown.clone(), why: innermost(&e) }),
        }
    }

    /// Holds every schema of this build against the registry; changes nothing there.
    ///
    /// # Errors
    /// The registry does not answer. That a schema is missing or incompatible is no error but an answer.
    pub fn check(&self) -> Result<Vec<Checked>, RegistryError> {
        let mut all = Vec::with_capacity(SCHEMAS.len());
        for (name, schema) in SCHEMAS {
            let subject = subject(name);
            let asked = is_compatible_schema(&self.settings, subject.clone(), supplied(&subject, schema));
            let compatible = match block_on(asked)? {
                Ok(compatible) => compatible,
                // Nothing is there that it could be incompatible with.
                Err(e) if is_absence(&e) => true,
                Err(e) => return Err(self.error("check", &subject, &e)),
            };
            let id = self.lookup(&subject, schema)?;
            all.push(Checked { subject, id, compatible });
        }
        Ok(all)
    }

    /// The id of exactly this schema under `subject`, if it is registered there.
    ///
    /// # Errors
    /// The registry does not answer, or with something else.
    pub fn lookup(&self, subject: &str, schema: &str) -> Result<Option<u32>, RegistryError> {
        let body = serde_json::json!({ "schema": schema, "schemaType": "AVRO" }).to_string();
        match block_on(perform_sr_call(&self.settings, SrCall::PostForVersion(subject, &body)))? {
            Ok(found) => Ok(found.id),
            Err(e) if is_absence(&e) => Ok(None),
            Err(e) => Err(self.error("look up", subject, &e)),
        }
    }

    /// The ids of all schemas of this build, by the names of their records.
    ///
    /// # Errors
    /// [`RegistryError::Missing`] names all that are not registered.
    pub fn ids(&self) -> Result<HashMap<String, u32>, RegistryError> {
        let mut ids = HashMap::new();
        let mut missing = Vec::new();
        for (name, schema) in SCHEMAS {
            match self.lookup(&subject(name), schema)? {
                Some(id) => _ = ids.insert(name.to_owned(), id),
                None => missing.push(subject(name)),
            }
        }
        if missing.is_empty() {
            Ok(ids)
        } else {
            Err(RegistryError::Missing { url: self.shown.clone(), subjects: missing })
        }
    }

    fn error(&self, doing: &'static str, subject: &str, error: &SRCError) -> RegistryError {
        let source = error.source();
        let lost = source.and_then(|s| s.downcast_ref::<reqwest::Error>()).is_some_and(|e| !e.is_decode());
        match source.and_then(|s| s.downcast_ref::<RawError>()) {
            _ if lost || error.retriable => {
                RegistryError::Unreachable { url: self.shown.clone(), why: innermost(error) }
            }
            // Not even an error of the API: something else listens there.
            Some(told) if told.error_code == 0 => {
                let why = format!(
                    "{}, and not as a schema registry does; check the path in `registry.url`",
                    error.error
                );
                self.refused(doing, subject, why)
            }
            Some(told) => self.refused(doing, subject, told.message.clone()),
            None => self.refused(doing, subject, error.error.clone()),
        }
    }

    fn refused(&self, doing: &'static str, subject: &str, why: String) -> RegistryError {
        RegistryError::Refused { url: self.shown.clone(), doing, subject: subject.to_owned(), why }
    }
}

impl SchemaSource for Registry {
    fn schema(&self, id: u32) -> Result<Option<String>, String> {
        match block_on(get_schema_by_id(id, &self.settings)).map_err(|e| e.to_string())? {
            Ok(found) => Ok(Some(found.schema)),
            Err(e) if is_absence(&e) => Ok(None),
            Err(e) => Err(self.error("give the schema with id", &id.to_string(), &e).to_string()),
        }
    }
}

fn subject(name: &str) -> String {
    format!("{NAMESPACE}.{name}")
}

fn supplied(subject: &str, schema: &str) -> SuppliedSchema {
    SuppliedSchema::new(Some(subject.to_owned()), SchemaType::Avro, schema.to_owned())
}

fn builder() -> ClientBuilder {
    // Each call has a runtime of its own, with which its connections end.
    Client::builder().pool_max_idle_per_host(0)
}

/// Runs a request to its end on a thread of its own: callers may be threads of a runtime or not.
fn block_on<T: Send>(request: impl Future<Output = T> + Send) -> Result<T, RegistryError> {
    let failed = |e: &dyn std::fmt::Display| RegistryError::Client(e.to_string());
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map(|runtime| runtime.block_on(request)).map_err(|e| failed(&e))
        });
        thread.join().unwrap_or_else(|_| Err(failed(&"the request ended unexpectedly")))
    })
}

/// The crate says this by the text of its error only. What is no registry has no code of its own for it.
fn is_absence(error: &SRCError) -> bool {
    let told = error.source().and_then(|s| s.downcast_ref::<RawError>());
    error.error.contains("status 404") && told.is_some_and(|told| told.error_code != 0)
}

/// The cause behind all wrappings: they repeat the address, which can hold a password.
fn innermost(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

fn shown(url: &str) -> String {
    let Ok(mut parsed) = Url::parse(url) else { return "an address that can not be read".into() };
    // They fail only for addresses that can have neither.
    let _ = (parsed.set_username(""), parsed.set_password(None));
    parsed.to_string().trim_end_matches('/').to_owned()
}

#[cfg(test)]
mod tests;
