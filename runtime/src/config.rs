//! Configuration: one YAML file per role, and environment variables over it.
//!
//! `KEYFERRY_KAFKA__BOOTSTRAP_SERVERS` replaces `kafka.bootstrap_servers`: the prefix, then the path in upper case with
//! `__` between its levels; what a name can not hold (dots, hyphens) is `_`. The text is taken as it is, without
//! YAML in it; a list is written with commas; an empty variable counts as not set. Secrets come this way.
//!
//! Whoever edits a file sees all that is wrong with it at once: every unknown field, and every value that makes no
//! sense. Only a value of the wrong type ends the reading early, since nothing behind it can be judged.
//!
//! Structs of configurations must not use `flatten`, `untagged` or `tag`: serde reads those through a buffer of its
//! own, in which unknown fields and places get lost. A choice is an enum as serde writes it by default
//! (`store: {s3: {...}}`).

mod overrides;
mod reader;
mod sections;
mod tree;

use std::{
    cell::RefCell,
    collections::BTreeMap,
    env, fmt, fs,
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;

pub use sections::{AdminConfig, KafkaConfig, LogConfig, LogFormat, RegistryConfig, TrustConfig};

use reader::{Reader, join};
use tree::{Content, Node, Place};

/// What a section of a configuration knows about itself beyond the types of its fields.
pub trait Check {
    /// Adds all that is wrong. May read files that the section names; asks nothing over the network.
    fn check(&self, faults: &mut Faults);
}

impl<T: Check> Check for Option<T> {
    fn check(&self, faults: &mut Faults) {
        if let Some(section) = self {
            section.check(faults);
        }
    }
}

impl<T: Check> Check for Vec<T> {
    fn check(&self, faults: &mut Faults) {
        for (i, item) in self.iter().enumerate() {
            faults.below(&format!("[{i}]"), |faults| item.check(faults));
        }
    }
}

/// Collects what a [`Check`] finds.
#[derive(Debug, Default)]
pub struct Faults {
    path: String,
    found: Vec<Fault>,
}

impl Faults {
    /// Adds that `field` (of this section; empty for the section itself) is wrong, and what is wrong with it. No
    /// secrets in `what`.
    pub fn add(&mut self, field: &str, what: impl fmt::Display) {
        self.below(field, |faults| faults.found.push(Fault::new(&faults.path, what, None)));
    }

    /// Checks the section that stands in `field` of this one.
    pub fn section(&mut self, field: &str, section: &impl Check) {
        self.below(field, |faults| section.check(faults));
    }

    /// Whether nothing was found.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    fn below(&mut self, field: &str, check: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        self.path =
            if field.starts_with('[') { format!("{}{field}", self.path) } else { join(&self.path, field) };
        check(self);
        self.path.truncate(length);
    }
}

/// One fault of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Which field, as a path (`kafka.options.acks`), or which environment variable; empty for the whole file.
    pub path: String,
    /// What is wrong.
    pub what: String,
    place: Option<Place>,
}

impl Fault {
    fn new(path: &str, what: impl fmt::Display, place: Option<Place>) -> Self {
        Self { path: path.into(), what: what.to_string().replace('\n', " "), place }
    }
}

/// Why a role has no configuration. Its `Display` is one line per fault, without a line break at the end.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// There is no such file, or it can not be read.
    #[error("the configuration of {role}, {}, can not be read: {source}", path.display())]
    Unreadable {
        /// Whose.
        role: String,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is wrong.
    #[error("{}", Listed(path, faults))]
    Faults {
        /// Whose.
        role: String,
        /// Which file.
        path: PathBuf,
        /// All that was found, in the order of the file as far as it is known; never empty.
        faults: Vec<Fault>,
    },
}

struct Listed<'a>(&'a Path, &'a [Fault]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.1.iter().enumerate() {
            f.write_str(if i == 0 { "" } else { "\n" })?;
            match &fault.place {
                Some(Place::File(line, column)) => write!(f, "{}:{line}:{column}: ", self.0.display())?,
                Some(Place::Variable(name)) => write!(f, "{name}: ")?,
                None if fault.path.starts_with("KEYFERRY_") => (),
                None => write!(f, "{}: ", self.0.display())?,
            }
            let colon = if fault.path.is_empty() { "" } else { ": " };
            write!(f, "{}{colon}{}", fault.path, fault.what)?;
        }
        Ok(())
    }
}

/// Loads and checks the configuration of `role` (named in errors only) from the file at `path` and the environment of
/// this process. Blocks on reading that file and those it names.
///
/// # Errors
/// [`ConfigError`].
pub fn load<T: DeserializeOwned + Check>(path: &Path, role: &str) -> Result<T, ConfigError> {
    // Names and values that are not Unicode are none of ours: nothing here could take them.
    load_with(
        path,
        role,
        env::vars_os().filter_map(|(n, v)| Some((n.into_string().ok()?, v.into_string().ok()?))),
    )
}

/// [`load`], with the environment given.
///
/// # Errors
/// [`ConfigError`].
pub fn load_with<T: DeserializeOwned + Check>(
    path: &Path,
    role: &str,
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<T, ConfigError> {
    let text = fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
        role: role.into(),
        path: path.into(),
        source,
    })?;
    parse(&text, variables).map_err(|faults| ConfigError::Faults {
        role: role.into(),
        path: path.into(),
        faults,
    })
}

fn parse<T: DeserializeOwned + Check>(
    text: &str,
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<T, Vec<Fault>> {
    let mut root = Node::parse(text).map_err(|e| vec![Fault::new("", e.what, Some(e.place))])?;
    let mut found = Vec::new();
    overrides::apply(&mut root, variables, &mut found);
    let unknown = RefCell::new(found);
    let read = T::deserialize(Reader::new(&root, &unknown));
    let mut found = unknown.into_inner();
    let config = match read {
        Ok(config) => {
            let mut faults = Faults::default();
            config.check(&mut faults);
            let mut places = BTreeMap::new();
            locate(&root, String::new(), &mut places);
            found.extend(faults.found.into_iter().map(|mut fault| {
                fault.place = places.get(&overrides::folded(&fault.path)).map(|p| (*p).clone());
                fault
            }));
            Some(config)
        }
        Err(stop) => {
            found.push(stop.into());
            None
        }
    };
    // As somebody reads the file who puts the faults right; what has no place comes last.
    found.sort_by_key(|fault| match &fault.place {
        Some(Place::File(line, column)) => (*line, *column),
        _ => (usize::MAX, 0),
    });
    match config {
        Some(config) if found.is_empty() => Ok(config),
        _ => Err(found),
    }
}

/// The place of each path, so that a fault that a [`Check`] found has a line as well.
fn locate<'a>(node: &'a Node, path: String, places: &mut BTreeMap<String, &'a Place>) {
    match &node.content {
        Content::Mapping(entries) => {
            entries.iter().for_each(|e| locate(&e.value, join(&path, &e.name), places));
        }
        Content::Sequence(items) => {
            items.iter().enumerate().for_each(|(i, item)| locate(item, format!("{path}[{i}]"), places));
        }
        Content::Scalar { .. } => (),
    }
    places.insert(overrides::folded(&path), &node.place);
}
