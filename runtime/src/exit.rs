//! How a process ends: the exit codes that scripts and supervisors may rely on, and the one line that goes with them.

use std::{fmt, process::ExitCode};

use crate::config::ConfigError;

/// Everything went well.
pub const EXIT_OK: i32 = 0;
/// Something failed while running.
pub const EXIT_FAILURE: i32 = 1;
/// Usage or configuration: starting again changes nothing until somebody edits something.
pub const EXIT_CONFIG: i32 = 2;
/// A broker, a registry or a store can not be reached: starting again later may help.
pub const EXIT_UNREACHABLE: i32 = 3;
/// Data were verified and are not to be trusted.
pub const EXIT_UNTRUSTED: i32 = 4;
/// What was asked about is due: somebody has to renew something.
pub const EXIT_DUE: i32 = 5;
/// A second signal came before the first was obeyed (128 + SIGINT, as shells count).
pub const EXIT_IMPATIENT: i32 = 130;

/// Why a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// [`EXIT_OK`]
    Ok,
    /// [`EXIT_FAILURE`]
    Failure,
    /// [`EXIT_CONFIG`]
    Config,
    /// [`EXIT_UNREACHABLE`]
    Unreachable,
    /// [`EXIT_UNTRUSTED`]
    Untrusted,
    /// [`EXIT_DUE`]
    Due,
}

impl Exit {
    /// Every way to end but [`EXIT_IMPATIENT`], which is no decision of ours.
    pub const ALL: [Self; 6] =
        [Self::Ok, Self::Failure, Self::Config, Self::Unreachable, Self::Untrusted, Self::Due];

    /// The exit code.
    #[must_use]
    pub fn code(self) -> i32 {
        match self {
            Self::Ok => EXIT_OK,
            Self::Failure => EXIT_FAILURE,
            Self::Config => EXIT_CONFIG,
            Self::Unreachable => EXIT_UNREACHABLE,
            Self::Untrusted => EXIT_UNTRUSTED,
            Self::Due => EXIT_DUE,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        // All are below 256; a wrong one must not read as success.
        u8::try_from(exit.code()).map_or(Self::FAILURE, Self::from)
    }
}

/// What ends a role. Its `Display` is one line (faults of a configuration: one line each), to be printed as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Fatal {
    /// With which code.
    pub exit: Exit,
    /// What an operator reads.
    pub message: String,
}

impl Fatal {
    /// Something failed while running.
    pub fn failure(what: impl fmt::Display) -> Self {
        Self::new(Exit::Failure, what)
    }

    /// The usage or the configuration is wrong.
    pub fn config(what: impl fmt::Display) -> Self {
        Self::new(Exit::Config, what)
    }

    /// A broker, registry or store can not be reached.
    pub fn unreachable(what: impl fmt::Display) -> Self {
        Self::new(Exit::Unreachable, what)
    }

    /// Data are not to be trusted.
    pub fn untrusted(what: impl fmt::Display) -> Self {
        Self::new(Exit::Untrusted, what)
    }

    /// Something has to be renewed.
    pub fn due(what: impl fmt::Display) -> Self {
        Self::new(Exit::Due, what)
    }

    fn new(exit: Exit, what: impl fmt::Display) -> Self {
        // Whatever an underlying library says: in a log, one event is one line.
        let message = what.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join(" ");
        Self { exit, message }
    }
}

impl From<ConfigError> for Fatal {
    fn from(error: ConfigError) -> Self {
        Self { exit: Exit::Config, message: error.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_stable() {
        assert_eq!(Exit::ALL.map(Exit::code), [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_message_is_one_line() {
        let fatal = Fatal::unreachable("broker gone\nall of them");
        assert_eq!((fatal.to_string().as_str(), fatal.exit), ("broker gone all of them", Exit::Unreachable));
    }
}
