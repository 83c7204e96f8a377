//! The records of the topics `callbacks`: who wants to be called, and how far that has gone. Two records under two keys,
//! because two write them: who subscribes, and who calls.

use std::fmt;

use crate::{avro::record, time::Millis};

/// What follows the callback id in the key of a [`CallbackProgress`]. No id has a slash.
pub const PROGRESS_SUFFIX: &str = "/progress";

record! {
    /// A subscription; the record's key is its id.
    Callback: "Callback" {
        /// Where to call, as it was given.
        url: String,
        /// When it was made or changed.
        created_at: Millis,
        /// Number of the last batch before the first that is called for; 0 if there was none.
        after_number: i64,
        /// Tag of that batch; empty if there was none.
        after_tag: String,
    }
}

record! {
    /// How far a subscription has been called; the record's key is its id and [`PROGRESS_SUFFIX`].
    #[derive(Debug)]
    CallbackProgress: "CallbackProgress" {
        /// Number of the last batch that was acknowledged or skipped, from 1.
        number: i64,
        /// Tag of that batch.
        tag: String,
    }
}

impl fmt::Debug for Callback {
    /// Without the path: some put a secret there.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Callback({} bytes of address, after {})", self.url.len(), self.after_number)
    }
}
