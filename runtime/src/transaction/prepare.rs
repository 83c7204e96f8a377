//! What of a decision needs no state is done ahead of its turn by other threads, while the loop decides and waits for the
//! broker. Each record has its own answer, so their order is that of the queues and no thread waits for another.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
};

use keyferry_schemas::{country::Country, network::Network};

#[cfg(test)]
mod tests;

use super::{
    Application,
    decide::{Origin, Queued},
};
use crate::tail::Record;

/// Records are prepared ahead to about this many bytes: many times that is what they take when they are prepared, and it
/// has to last while a transaction is committed.
const MAX_AHEAD_BYTES: usize = 8 << 20;
/// A record counts for at least this much, because a small one may still become large.
const MIN_BYTES: usize = 64 << 10;

/// The threads that prepare. They end when this is dropped.
pub(super) struct Preparation<A: Application> {
    application: Arc<A>,
    /// None where everything is prepared when its turn comes.
    jobs: Option<Sender<Job<A::Prepared>>>,
    /// Bytes of the records that are prepared ahead, or will be.
    ahead: Arc<AtomicUsize>,
}

enum Job<P> {
    Prepare {
        origin: Country,
        record: Record,
        network: Arc<Network>,
        answer: Sender<Result<P, String>>,
    },
    /// It is of no use any more. To free it takes a while, too.
    Drop {
        _prepared: P,
    },
}

/// A record that is being prepared.
pub(super) struct Pending<P> {
    answer: Receiver<Result<P, String>>,
    _place: Place,
}

/// What a record takes of [`MAX_AHEAD_BYTES`], for as long as it does.
struct Place {
    bytes: usize,
    ahead: Arc<AtomicUsize>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.ahead.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl<A: Application> Preparation<A> {
    /// With this many threads; below two there is none, and the loop does it all.
    pub fn start(application: &Arc<A>, threads: usize) -> Self {
        let (sender, receiver) = channel();
        let receiver = Arc::new(Mutex::new(receiver));
        let mut started = 0;
        for _ in 0..if threads < 2 { 0 } else { threads } {
            let (application, receiver) = (Arc::clone(application), Arc::clone(&receiver));
            let thread = std::thread::Builder::new().name("prepare".into());
            match thread.spawn(move || work(application.as_ref(), &receiver)) {
                Ok(_) => started += 1,
                Err(e) => tracing::warn!(error = %e, "one thread less prepares uploads"),
            }
        }
        let jobs = (started > 0).then_some(sender);
        Self { application: Arc::clone(application), jobs, ahead: Arc::default() }
    }

    /// Has the next records prepared, origins in turn, as far ahead as is allowed.
    pub fn ahead(&self, origins: &mut BTreeMap<Country, Origin<A>>, network: Option<&Arc<Network>>) {
        let (Some(jobs), Some(network)) = (&self.jobs, network) else { return };
        let mut more = true;
        while std::mem::take(&mut more) {
            for (name, slot) in &mut *origins {
                if self.ahead.load(Ordering::Relaxed) >= MAX_AHEAD_BYTES {
                    return;
                }
                let Some(queued) = slot.queue.get_mut(slot.begun) else { continue };
                queued.prepared = Some(self.begin(jobs, *name, &queued.record, network));
                slot.begun += 1;
                more = true;
            }
        }
    }

    fn begin(
        &self,
        jobs: &Sender<Job<A::Prepared>>,
        origin: Country,
        record: &Record,
        network: &Arc<Network>,
    ) -> Pending<A::Prepared> {
        let (sender, answer) = channel();
        let bytes = record.size().max(MIN_BYTES);
        self.ahead.fetch_add(bytes, Ordering::Relaxed);
        let job =
            Job::Prepare { origin, record: record.clone(), network: Arc::clone(network), answer: sender };
        // Without a thread there is no answer either, and that is how it shows.
        let _ = jobs.send(job);
        Pending { answer, _place: Place { bytes, ahead: Arc::clone(&self.ahead) } }
    }

    /// A record whose turn it is, prepared. Waits for it, or does it here and now.
    ///
    /// # Errors
    /// It can not be prepared now, in one line.
    pub fn take(
        &self,
        origin: Country,
        queued: &mut Queued<A>,
        network: &Network,
    ) -> Result<A::Prepared, String> {
        let begun = queued.prepared.take().and_then(|pending| pending.answer.recv().ok());
        begun.unwrap_or_else(|| contained(self.application.as_ref(), origin, &queued.record, network))
    }

    /// Takes back what is of no use any more.
    pub fn discard(&self, prepared: A::Prepared) {
        if let Some(jobs) = &self.jobs {
            let _ = jobs.send(Job::Drop { _prepared: prepared });
        }
    }
}

fn work<A: Application>(application: &A, jobs: &Mutex<Receiver<Job<A::Prepared>>>) {
    loop {
        // Whoever holds the lock waits for the next job; nothing else happens under it.
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match job {
            Ok(Job::Prepare { origin, record, network, answer }) => {
                // Nobody may want it any more.
                let _ = answer.send(contained(application, origin, &record, &network));
            }
            Ok(Job::Drop { .. }) => (),
            Err(_) => return,
        }
    }
}

/// A panic over one record is no reason for the others to wait.
fn contained<A: Application>(
    application: &A,
    origin: Country,
    record: &Record,
    network: &Network,
) -> Result<A::Prepared, String> {
    catch_unwind(AssertUnwindSafe(|| application.prepare(origin, record, network)))
        .unwrap_or_else(|_| Err("it panicked; see the log".into()))
}
