//! Whether the parts of a process move, and whether they can serve.
//!
//! Alive means that something advances: a consumer that sends heartbeats and does not turn its loop is dead. A part
//! with nothing to do says so ([`Beat::idle`]); a part that says nothing for too long is stalled.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// The parts of one process. Clones are the same; cheap.
#[derive(Debug, Clone)]
pub struct Health {
    role: Arc<str>,
    process: Arc<Process>,
}

#[derive(Debug)]
struct Process {
    begun: Instant,
    components: Mutex<Vec<Arc<Component>>>,
    leaving: AtomicBool,
}

#[derive(Debug)]
struct Component {
    role: Arc<str>,
    name: String,
    begun: Instant,
    max_silence: Duration,
    // Milliseconds since `begun`, so that a beat is one store and takes no lock.
    last_beat: AtomicU64,
    idle: AtomicBool,
    ready: AtomicBool,
    failed: Mutex<Option<String>>,
}

/// With this a part tells how it is. Clones are the same part. Each call is an atomic store, except [`Beat::fail`].
///
/// It stays known when it is dropped: a thread that panicked must be missed.
#[derive(Debug, Clone)]
pub struct Beat {
    component: Arc<Component>,
    process: Arc<Process>,
}

/// An answer to "are you alive" or "are you ready": its `Display` is one line per part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Whether the answer is yes.
    pub ok: bool,
    lines: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

/// Poisoned or not: every change under these locks is one assignment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Health {
    /// A process without parts yet, whose first role is `role`.
    #[must_use]
    pub fn new(role: &str) -> Self {
        let process =
            Process { begun: Instant::now(), components: Mutex::default(), leaving: AtomicBool::new(false) };
        Self { role: role.into(), process: Arc::new(process) }
    }

    /// The same process, seen from another role in it.
    #[must_use]
    pub fn role(&self, role: &str) -> Self {
        Self { role: role.into(), process: Arc::clone(&self.process) }
    }

    /// Registers a part of this role: just begun, and not ready. `max_silence` is how long it may stay without a
    /// [`Beat::progress`] or [`Beat::idle`]; [`Duration::MAX`] for a part without a loop, which others call. A part of
    /// the same name is replaced.
    #[must_use]
    pub fn component(&self, name: &str, max_silence: Duration) -> Beat {
        let component = Arc::new(Component {
            role: Arc::clone(&self.role),
            name: name.into(),
            begun: self.process.begun,
            max_silence,
            last_beat: AtomicU64::new(since(self.process.begun)),
            idle: AtomicBool::new(true),
            ready: AtomicBool::new(false),
            failed: Mutex::default(),
        });
        let mut components = lock(&self.process.components);
        components.retain(|c| (&c.role, &c.name) != (&component.role, &component.name));
        components.push(Arc::clone(&component));
        Beat { component, process: Arc::clone(&self.process) }
    }

    /// From now on the process is not ready, whatever its parts say: it is about to stop.
    pub fn leave(&self) {
        self.process.leaving.store(true, Ordering::Release);
    }

    /// Whether no part has failed or stalled.
    #[must_use]
    pub fn live(&self) -> Report {
        self.report(true, |c| match c.trouble() {
            Some(trouble) => Err(trouble),
            None if c.max_silence == Duration::MAX => Ok("ok".into()),
            None if c.idle.load(Ordering::Relaxed) => Ok(format!("ok, idle {:.1?} ago", c.silence())),
            None => Ok(format!("ok, progress {:.1?} ago", c.silence())),
        })
    }

    /// Whether there are parts, all of them are ready and have not failed, and the process is to go on. A stalled part
    /// does not count here: `livez` has it restarted.
    #[must_use]
    pub fn ready(&self) -> Report {
        let some = !lock(&self.process.components).is_empty();
        let leaving = self.process.leaving.load(Ordering::Acquire);
        self.report(some, |c| match lock(&c.failed).as_ref() {
            Some(reason) => Err(format!("failed: {reason}")),
            None if leaving => Err("about to stop".into()),
            None if c.ready.load(Ordering::Acquire) => Ok("ready".into()),
            None => Err("not ready".into()),
        })
    }

    /// Per role, how long ago the part of it spoke that has been silent longest. Parts without a loop do not count.
    #[must_use]
    pub fn silences(&self) -> Vec<(String, Duration)> {
        let mut silences: Vec<(String, Duration)> = Vec::new();
        for c in lock(&self.process.components).iter().filter(|c| c.max_silence < Duration::MAX) {
            match silences.iter_mut().find(|(role, _)| **role == *c.role) {
                Some((_, longest)) => *longest = c.silence().max(*longest),
                None => silences.push((c.role.to_string(), c.silence())),
            }
        }
        silences
    }

    fn report(&self, mut ok: bool, judge: impl Fn(&Component) -> Result<String, String>) -> Report {
        let mut lines = Vec::new();
        for c in lock(&self.process.components).iter() {
            let judged = judge(c);
            ok &= judged.is_ok();
            let (Ok(text) | Err(text)) = judged;
            lines.push(format!("{}/{}: {text}", c.role, c.name));
        }
        if lines.is_empty() {
            lines.push("nothing runs yet".into());
        }
        Report { ok, lines }
    }
}

impl Component {
    fn silence(&self) -> Duration {
        Duration::from_millis(since(self.begun).saturating_sub(self.last_beat.load(Ordering::Acquire)))
    }

    fn trouble(&self) -> Option<String> {
        let failed = lock(&self.failed).as_ref().map(|reason| format!("failed: {reason}"));
        failed.or_else(|| {
            let silence = self.silence();
            (silence > self.max_silence)
                .then(|| format!("stalled: silent for {silence:.1?}, at most {:.1?}", self.max_silence))
        })
    }
}

impl Beat {
    /// A piece of work is done.
    pub fn progress(&self) {
        self.beat(false);
    }

    /// The loop turned and there was nothing to do. To be called on every turn: a loop that stops turning is stalled,
    /// with or without work.
    pub fn idle(&self) {
        self.beat(true);
    }

    /// Says whether this part can serve now.
    pub fn ready(&self, ready: bool) {
        self.component.ready.store(ready, Ordering::Release);
    }

    /// This part has failed and will not recover without a restart. The first reason stays. No key material in it.
    pub fn fail(&self, reason: impl fmt::Display) {
        lock(&self.component.failed).get_or_insert_with(|| reason.to_string().replace('\n', " "));
    }

    /// This part ended as it should and is not missed.
    pub fn retire(self) {
        lock(&self.process.components).retain(|c| !Arc::ptr_eq(c, &self.component));
    }

    fn beat(&self, idle: bool) {
        self.component.idle.store(idle, Ordering::Relaxed);
        self.component.last_beat.store(since(self.component.begun), Ordering::Release);
    }
}

fn since(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::thread::sleep;

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn a_silent_part_is_stalled_and_a_beat_revives_it() {
        let health = Health::new("process");
        let beat = health.component("loop", Duration::from_millis(50));
        beat.progress();
        assert!(health.live().ok);
        sleep(Duration::from_millis(80));
        let report = health.live();
        assert!(
            !report.ok && report.to_string().starts_with("process/loop: stalled: silent for "),
            "{report}"
        );
        beat.idle();
        assert!(health.live().ok);
        drop(beat);
        sleep(Duration::from_millis(80));
        assert!(!health.live().ok, "a part that vanished is missed");
    }

    #[test]
    fn ready_means_all_parts_and_at_least_one() {
        let health = Health::new("gateway");
        assert!(!health.ready().ok && health.live().ok);
        let (one, two) = (health.component("tail", LONG), health.role("distribute").component("tail", LONG));
        one.ready(true);
        assert_eq!(health.ready().to_string(), "gateway/tail: ready\ndistribute/tail: not ready\n");
        two.ready(true);
        assert!(health.ready().ok);
        two.fail("no such topic");
        two.fail("and more");
        assert!(!health.ready().ok);
        assert!(health.live().to_string().ends_with("distribute/tail: failed: no such topic\n"));
        two.retire();
        assert!(health.ready().ok && health.live().ok);
        health.role("distribute").leave();
        assert_eq!(health.ready().to_string(), "gateway/tail: about to stop\n");
        assert!(!health.ready().ok && health.live().ok);
    }

    #[test]
    fn a_part_begun_again_replaces_the_old_one() {
        let health = Health::new("process");
        health.component("loop", LONG).fail("fenced");
        let old = health.component("loop", LONG);
        old.ready(true);
        assert!(health.ready().ok);
    }

    #[test]
    fn silence_is_that_of_the_most_silent_part() {
        let health = Health::new("process");
        let (_slow, _listener) = (health.component("a", LONG), health.component("http", Duration::MAX));
        sleep(Duration::from_millis(30));
        health.component("b", LONG).progress();
        let silences = health.silences();
        assert_eq!(silences.len(), 1);
        assert!(silences[0].1 >= Duration::from_millis(25));
    }
}
