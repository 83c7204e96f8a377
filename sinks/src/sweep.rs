//! Erasure: keys go when their time is over, log objects stay.
//!
//! The name of a data object says when its oldest upload was made, so a listing is all that this needs; it finds what a
//! killed instance left behind as well.

use keyferry_schemas::{country::Country, time::Millis};

use crate::{
    log::oldest_in,
    store::{Store, StoreError, data_prefix},
};

/// What a sweep did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// How many objects it erased.
    pub erased: usize,
    /// The time of the oldest upload that is still there.
    pub oldest: Option<Millis>,
}

/// Erases every data object of `country` with an upload from `until` or before. Reads one listing.
///
/// # Errors
/// [`StoreError`]; what was erased until then stays so.
pub async fn sweep(store: &Store, country: Country, until: Millis) -> Result<Swept, StoreError> {
    let mut swept = Swept::default();
    for path in store.list(&data_prefix(country)).await? {
        match path.filename().and_then(oldest_in) {
            Some(time) if time <= until => {
                store.delete(&path).await?;
                swept.erased += 1;
            }
            Some(time) => swept.oldest = Some(swept.oldest.map_or(time, |oldest| oldest.min(time))),
            None => tracing::warn!(%path, "not a data object of Keyferry; left alone"),
        }
    }
    swept.erased += unfinished(store, country, until)?;
    Ok(swept)
}

/// A local store writes into `name#1` and renames; whoever is killed in between leaves that file, which no listing shows.
fn unfinished(store: &Store, country: Country, until: Millis) -> Result<usize, StoreError> {
    let Some(directory) = &store.directory else { return Ok(0) };
    let Ok(files) = std::fs::read_dir(directory.join(data_prefix(country).as_ref())) else { return Ok(0) };
    let mut erased = 0;
    for file in files.flatten() {
        let name = file.file_name();
        let due =
            name.to_str().filter(|n| n.contains('#')).and_then(oldest_in).is_some_and(|time| time <= until);
        if due {
            std::fs::remove_file(file.path()).map_err(|e| StoreError::Unavailable(e.to_string()))?;
            erased += 1;
        }
    }
    Ok(erased)
}
