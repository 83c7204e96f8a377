//! Watches the store: when an upload can be downloaded in every country it goes to.
//!
//! A download looks for the next log object before it says that there is none, so whatever has a log object can be had.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use keyferry_schemas::{avro::Record as _, batch::Manifest, country::Country};
use keyferry_sinks::{log::Sealed, store::log_path};

use super::scene::{COUNTRIES, destinations};

/// How often it looks, which every figure may be too high by.
const TURN: Duration = Duration::from_micros(500);

/// For each batch tag: in how many countries it still lacks, and when it came to the last of them.
type Seen = HashMap<String, (usize, Instant)>;

/// A thread that watches.
pub(super) struct Watch {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Watch {
    /// Begins where each log ends.
    pub fn start(store: PathBuf) -> Result<Self> {
        let (seen, stop) = (Arc::<Mutex<Seen>>::default(), Arc::new(AtomicBool::new(false)));
        let mut logs: Vec<(Country, u64)> =
            COUNTRIES.iter().map(|c| Ok((c.parse()?, 1))).collect::<Result<_>>()?;
        for (country, next) in &mut logs {
            while file(&store, *country, *next).exists() {
                *next += 1;
            }
        }
        let (all, stopped) = (Arc::clone(&seen), Arc::clone(&stop));
        let thread = std::thread::Builder::new().name("load-watch".into()).spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                for (country, next) in &mut logs {
                    let Ok(bytes) = fs::read(file(&store, *country, *next)) else { continue };
                    let at = Instant::now();
                    take(
                        &mut all.lock().unwrap_or_else(PoisonError::into_inner),
                        &bytes,
                        (*country, *next),
                        at,
                    )?;
                    *next += 1;
                }
                std::thread::sleep(TURN);
            }
            Ok(())
        })?;
        Ok(Self { seen, stop, thread: Some(thread) })
    }

    /// When each of these uploads had come to all countries it goes to, in their order.
    ///
    /// # Errors
    /// One does not within a minute.
    pub fn all(&self, tags: &[String]) -> Result<Vec<Instant>> {
        let give_up = Instant::now() + Duration::from_secs(60);
        loop {
            {
                let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                let whole = |tag| seen.get(tag).filter(|(lacking, _)| *lacking == 0).map(|(_, at)| *at);
                if let Some(times) = tags.iter().map(whole).collect() {
                    return Ok(times);
                }
            }
            ensure!(Instant::now() < give_up, "what was accepted can not be downloaded");
            ensure!(self.thread.as_ref().is_some_and(|t| !t.is_finished()), "nobody watches the store");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn take(seen: &mut Seen, log: &[u8], (country, number): (Country, u64), at: Instant) -> Result<()> {
    let sealed = Sealed::read(log, country, number)?;
    for upload in sealed.entry.uploads {
        let manifest = Manifest::from_avro(upload.manifest.0)?;
        let known = seen.entry(manifest.batch_tag);
        let (lacking, last) = known.or_insert_with(|| (destinations(upload.origin.as_str()).count(), at));
        *lacking = lacking.checked_sub(1).context("an upload came twice")?;
        *last = at;
    }
    Ok(())
}

fn file(store: &Path, country: Country, number: u64) -> PathBuf {
    store.join(log_path(country, number).as_ref())
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // What it died of was said by `all`.
            let _ = thread.join();
        }
    }
}
