//! Countries that upload without a pause, and remember what they were told.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, RwLock, RwLockWriteGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use keyferry_runtime::clock::{Clock as _, SystemClock};
use keyferry_schemas::{
    records::Upload,
    world::{Rng, key},
};
use keyferry_tests::front::{Answer, Front};

/// Between two uploads of a country.
const PAUSE_MS: u64 = 60;
/// Faults last for seconds, and their ends are to be seen.
pub const RECOVERY: Duration = Duration::from_secs(240);

/// What a country was told about an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Told {
    /// 201.
    Decided,
    /// It is stored, and will be decided.
    Stored,
    /// It may be stored.
    Unknown,
    /// It is not stored.
    Refused,
}

impl Told {
    fn of(answer: &Answer) -> Result<Self, String> {
        match (answer.status, answer.code()) {
            (201, _) => Ok(Self::Decided),
            (503, "not-yet-decided") => Ok(Self::Stored),
            (503, "not-confirmed") => Ok(Self::Unknown),
            (503, "broker-unreachable") => Ok(Self::Refused),
            _ => Err(format!("{answer:?}")),
        }
    }
}

/// An upload, sent once or more often.
pub struct Sent {
    pub tag: String,
    pub keys: Vec<Vec<u8>>,
    /// Each attempt: when it began, when it was answered, and how.
    pub attempts: Vec<(Instant, Instant, Told)>,
}

/// What all countries have sent, in order.
pub struct Load<'a> {
    front: &'a Front,
    sent: Mutex<BTreeMap<&'static str, Vec<Sent>>>,
    // Whoever sends reads it; whoever wants silence writes.
    silence: RwLock<()>,
    over: AtomicBool,
    wrong: Mutex<Vec<String>>,
}

impl<'a> Load<'a> {
    pub fn new(front: &'a Front) -> Self {
        let (sent, silence, wrong) = Default::default();
        Self { front, sent, silence, over: AtomicBool::new(false), wrong }
    }

    /// Uploads for a country until it is over.
    pub fn run(&self, origin: &'static str, mut rng: Rng) {
        for n in 0.. {
            if self.over.load(Ordering::Relaxed) {
                return;
            }
            let keys: Vec<_> =
                (0..1 + rng.below(20)).map(|_| key(&mut rng, origin, &[], SystemClock.now())).collect();
            let tag = format!("tag-{n}");
            let upload = self.front.hub.world.upload(origin, &tag, &keys).unwrap();
            let keys = keys.iter().map(|k| k.key_data.to_vec()).collect();
            {
                let _sending = self.silence.read().unwrap();
                let attempts = self.send(&upload, &mut rng);
                let sent = Sent { tag, keys, attempts };
                self.sent.lock().unwrap().entry(origin).or_default().push(sent);
            }
            thread::sleep(Duration::from_millis(rng.below(2 * PAUSE_MS)));
        }
    }

    /// As a backend does: what was not confirmed is sent again, by some.
    fn send(&self, upload: &Upload, rng: &mut Rng) -> Vec<(Instant, Instant, Told)> {
        let mut attempts = Vec::new();
        loop {
            let begun = Instant::now();
            let told = match self.front.post(upload).map(|answer| Told::of(&answer)) {
                Ok(Ok(told)) => told,
                Ok(Err(why)) => return self.complain(why, attempts),
                Err(e) => return self.complain(format!("{e:#}"), attempts),
            };
            attempts.push((begun, Instant::now(), told));
            if told == Told::Decided || rng.below(2) == 0 || self.over.load(Ordering::Relaxed) {
                return attempts;
            }
        }
    }

    fn complain<T>(&self, why: String, attempts: T) -> T {
        self.wrong.lock().unwrap().push(why);
        attempts
    }

    /// Ends it. Whoever sends finishes first.
    pub fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Nobody sends while this is held.
    pub fn silence(&self) -> RwLockWriteGuard<'_, ()> {
        self.silence.write().unwrap()
    }

    /// What all have sent; to be looked at in silence.
    pub fn sent<T>(&self, look: impl FnOnce(&BTreeMap<&'static str, Vec<Sent>>) -> T) -> T {
        look(&self.sent.lock().unwrap())
    }

    /// Answers that nobody expected.
    pub fn wrong(&self) -> Vec<String> {
        self.wrong.lock().unwrap().clone()
    }

    /// Waits until each of these countries has had an upload decided that it sent after `since`; how long that took.
    pub fn recovered(&self, origins: &[&str], since: Instant) -> Duration {
        loop {
            let first = |sent: &BTreeMap<_, Vec<Sent>>, origin: &str| {
                let attempts = sent.get(origin)?.iter().rev().flat_map(|s| &s.attempts);
                let good = attempts.filter(|(begun, _, told)| *begun >= since && *told == Told::Decided);
                good.map(|(_, answered, _)| *answered - since).min()
            };
            let times: Vec<_> = self.sent(|sent| origins.iter().map(|o| first(sent, o)).collect());
            if let Some(times) = times.iter().copied().collect::<Option<Vec<_>>>() {
                return times.into_iter().max().unwrap_or_default();
            }
            assert!(since.elapsed() < RECOVERY, "no recovery: {origins:?} {times:?}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// How often each was told about what was sent since then.
    pub fn told_since(&self, since: Instant) -> BTreeMap<Told, usize> {
        let mut counts = BTreeMap::new();
        self.sent(|sent| {
            for (_, _, told) in sent.values().flatten().flat_map(|s| &s.attempts).filter(|a| a.0 >= since) {
                *counts.entry(*told).or_default() += 1;
            }
        });
        counts
    }
}
