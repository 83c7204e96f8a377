//! The named places at which a role can be stopped.

/// Of the gateway: a request is read, its record stands on Kafka, its answer is known and not sent.
pub const GATEWAY: [&str; 3] = ["upload-read", "upload-written", "upload-decided"];

/// Of the distribution service: before the data object, between data and log object, after the log object.
pub const DISTRIBUTION: [&str; 3] = ["append-begins", "append-data", "append-log"];

/// Of the transaction: between two polls, and at each step up to and after the commit.
pub const TRANSACTION: [&str; 8] = [
    "before-poll",
    "before-begin",
    "after-step",
    "before-drain",
    "before-metadata",
    "before-offsets",
    "before-commit",
    "after-commit",
];

/// Of the take-over of an origin.
pub const TAKEOVER: [&str; 4] = ["takeover-begins", "takeover-committed", "takeover-ledger", "takeover-head"];

/// All of them.
pub const ALL: [&str; 18] = {
    let mut all = [""; 18];
    let groups: [&[&str]; 4] = [&GATEWAY, &DISTRIBUTION, &TRANSACTION, &TAKEOVER];
    let (mut at, mut group) = (0, 0);
    while group < groups.len() {
        let mut i = 0;
        while i < groups[group].len() {
            all[at] = groups[group][i];
            (at, i) = (at + 1, i + 1);
        }
        group += 1;
    }
    all
};
