//! Why a broker does not start.

use std::{io, path::PathBuf};

/// Why the embedded broker could not be started or stopped. Each message is one line.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The folder of jars does not exist or holds no Kafka.
    #[error("no Kafka jars in {}: run `make setup`, or set KEYFERRY_KAFKA_JARS", .0.display())]
    JarsMissing(PathBuf),
    /// No Java runtime under `JAVA_HOME` or on the `PATH`.
    #[error("java not found: install a Java runtime (17 or later), or set JAVA_HOME")]
    JavaNotFound,
    /// The port that was asked for is held by another process.
    #[error("port {0} is taken by another process")]
    PortTaken(u16),
    /// Kafka ended before it was ready.
    #[error("the broker died at start ({status}); {} says: {last_lines}", .log.display())]
    Died {
        /// Exit code or signal.
        status: String,
        /// The log, which is kept.
        log: PathBuf,
        /// The last errors in it, or its last lines.
        last_lines: String,
    },
    /// Kafka runs, but did not answer a metadata request in time.
    #[error("the broker was not ready after {after_s} s; see {}", .log.display())]
    NotReady {
        /// Seconds waited.
        after_s: u64,
        /// The log, which is kept.
        log: PathBuf,
    },
    /// The operating system refused something.
    #[error("{doing}: {source}")]
    Io {
        /// What was attempted.
        doing: String,
        /// What the system said.
        source: io::Error,
    },
}

/// Makes `map_err` on an I/O result read well: `.map_err(io_error("write the properties"))`.
pub(super) fn io_error(doing: impl Into<String>) -> impl FnOnce(io::Error) -> BrokerError {
    let doing = doing.into();
    move |source| BrokerError::Io { doing, source }
}
