//! `network check`.

use std::path::Path;

use keyferry_runtime::{
    clock::{Clock as _, SystemClock},
    exit::Fatal,
};
use keyferry_schemas::network::Network;

use super::show::ended;
use crate::cli::{ConfigArgs, files, out};

pub(super) fn run(file: &Path, config: &ConfigArgs) -> Result<(), Fatal> {
    let anchors = config.anchors()?;
    let bytes = files::read("the network document", file)?.into();
    let network = Network::read(&bytes, &anchors).map_err(|e| files::untrusted(file, &e))?;
    // No fault: a certificate may stand there for what it once signed.
    for ended in ended(&network, SystemClock.now()) {
        out(ended)?;
    }
    let shown = file.display();
    let about = format!("{shown} is good: network {}, version {}", network.name(), network.version());
    if !files::beside(file, ".cms").exists() {
        return out(format_args!("{about}; not signed yet: `keyferry network sign` does that"));
    }
    // A signature that is there and does not hold is one of an earlier text.
    let record = files::signed(file, None)?;
    Network::open(&record, &anchors).map_err(|e| files::untrusted(file, &e))?;
    out(format_args!("{about}; its signature holds"))
}
