//! `network check`.

use std::path::Path;

use keyferry_runtime::exit::Fatal;
use keyferry_schemas::network::Network;

use crate::cli::{ConfigArgs, files, out};

pub(super) fn run(file: &Path, config: &ConfigArgs) -> Result<(), Fatal> {
    let anchors = config.anchors()?;
    let bytes = files::read("the network document", file)?.into();
    let network = Network::read(&bytes, &anchors).map_err(|e| files::untrusted(file, &e))?;
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
