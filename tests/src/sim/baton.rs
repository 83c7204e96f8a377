//! Who runs: the threads of all instances, one at any moment, as the seed chooses at every call into the log.
//!
//! Time is simulated. It moves when nobody can go on without it.

use std::{
    any::Any,
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{Sender, channel},
    },
    thread::Thread,
    time::{Duration, Instant},
};

use super::{clients::SimLog, cluster::Cluster};

/// Microseconds of simulated time.
pub(super) type Micros = u64;
/// Number of a thread of an instance.
pub(super) type Fiber = usize;
/// Number of an instance's life.
pub(super) type Life = usize;

pub(super) const MS: Micros = 1_000;
pub(super) const SECOND: Micros = 1_000_000;

type Job = Box<dyn FnOnce() + Send>;
/// Makes the work of a life.
pub(super) type Starter = Arc<dyn Fn(SimLog) -> Job + Send + Sync>;

thread_local! {
    static FIBER: Cell<Fiber> = const { Cell::new(0) };
}

/// What a crash unwinds with: no panic hook hears of it.
struct Crash;

/// One history: the cluster, and who may touch it.
pub(super) struct Sim {
    cluster: Mutex<Cluster>,
    current: AtomicUsize,
    over: AtomicBool,
    running: Mutex<usize>,
    ended: Condvar,
    threads: Mutex<Vec<Option<Thread>>>,
    pool: Arc<Pool>,
    pub base: Instant,
    starter: Starter,
}

/// Nobody runs.
const NOBODY: Fiber = usize::MAX;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sim {
    pub fn new(cluster: Cluster, starter: Starter, pool: Arc<Pool>) -> Arc<Self> {
        Arc::new(Self {
            cluster: Mutex::new(cluster),
            current: AtomicUsize::new(NOBODY),
            over: AtomicBool::new(false),
            running: Mutex::new(0),
            ended: Condvar::new(),
            threads: Mutex::default(),
            pool,
            base: Instant::now(),
            starter,
        })
    }

    /// Runs the history to its end, and gives the cluster back.
    pub fn run(self: &Arc<Self>) -> MutexGuard<'_, Cluster> {
        self.pass_on(lock(&self.cluster), None);
        let mut running = lock(&self.running);
        while !(self.over.load(Ordering::Acquire) && *running == 0) {
            running = self.ended.wait(running).unwrap_or_else(PoisonError::into_inner);
        }
        drop(running);
        lock(&self.cluster)
    }

    /// The cluster, without giving others a turn.
    pub fn peek(&self) -> MutexGuard<'_, Cluster> {
        lock(&self.cluster)
    }

    /// A call into the log: others may run before it is answered, for `wait` at least. The caller may crash in it, which
    /// unwinds its thread, or be frozen for long.
    pub fn turn(self: &Arc<Self>, wait: Micros) -> MutexGuard<'_, Cluster> {
        let me = FIBER.get();
        let mut cluster = lock(&self.cluster);
        if self.over.load(Ordering::Acquire) {
            drop(cluster);
            resume_unwind(Box::new(Crash));
        }
        let struck = cluster.strike(me);
        let until = cluster.latency() + cluster.now + wait + struck.unwrap_or_default();
        cluster.fibers[me].wake = until;
        let dead = cluster.is_dead(me);
        if struck.is_none() && until == cluster.now && cluster.rng.chance(2, 3) {
            return cluster;
        }
        if self.pass_on(cluster, Some(me)) != me {
            while !dead && self.current.load(Ordering::Acquire) != me && !self.over.load(Ordering::Acquire) {
                std::thread::park();
            }
        }
        if dead || self.over.load(Ordering::Acquire) {
            resume_unwind(Box::new(Crash));
        }
        lock(&self.cluster)
    }

    /// Chooses who runs next.
    fn pass_on(self: &Arc<Self>, mut cluster: MutexGuard<'_, Cluster>, me: Option<Fiber>) -> Fiber {
        let next = loop {
            let next = cluster.next_fiber();
            let starts = std::mem::take(&mut cluster.starts);
            if starts.is_empty() {
                break next;
            }
            for life in starts {
                let job = (self.starter)(SimLog { sim: Arc::clone(self), life });
                self.add(&mut cluster, life, job);
            }
        };
        let Some(next) = next else {
            drop(cluster);
            self.over.store(true, Ordering::Release);
            lock(&self.threads).iter().flatten().for_each(Thread::unpark);
            let _running = lock(&self.running);
            self.ended.notify_all();
            return NOBODY;
        };
        drop(cluster);
        if Some(next) != me {
            self.current.store(next, Ordering::Release);
            if let Some(Some(thread)) = lock(&self.threads).get(next) {
                thread.unpark();
            }
        }
        next
    }

    /// Adds a thread to a life.
    pub fn spawn(self: &Arc<Self>, life: Life, job: Job) {
        self.add(&mut lock(&self.cluster), life, job);
    }

    fn add(self: &Arc<Self>, cluster: &mut Cluster, life: Life, job: Job) {
        let fiber = cluster.add_fiber(life);
        *lock(&self.running) += 1;
        lock(&self.threads).push(None);
        let sim = Arc::clone(self);
        self.pool.run(Box::new(move || {
            FIBER.set(fiber);
            lock(&sim.threads)[fiber] = Some(std::thread::current());
            while sim.current.load(Ordering::Acquire) != fiber && !sim.over.load(Ordering::Acquire) {
                std::thread::park();
            }
            if !sim.over.load(Ordering::Acquire) {
                sim.ended_with(fiber, catch_unwind(AssertUnwindSafe(job)));
            }
            *lock(&sim.running) -= 1;
            sim.ended.notify_all();
        }));
    }

    fn ended_with(self: &Arc<Self>, fiber: Fiber, result: Result<(), Box<dyn Any + Send>>) {
        let mut cluster = lock(&self.cluster);
        if self.over.load(Ordering::Acquire) || cluster.is_dead(fiber) {
            return;
        }
        if let Err(panic) = result {
            let why = panic.downcast_ref::<String>().cloned();
            let why = why.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            cluster.violated(format!("an instance panicked: {}", why.unwrap_or_default()));
        }
        cluster.end_fiber(fiber);
        self.pass_on(cluster, None);
    }

    /// The time of the history, as the loop asks for it.
    pub fn now(&self) -> Instant {
        self.base + Duration::from_micros(lock(&self.cluster).now)
    }
}

/// Threads that are used again: a history has dozens of them, and lasts a millisecond.
#[derive(Default)]
pub(super) struct Pool {
    idle: Arc<Mutex<Vec<Sender<Job>>>>,
}

impl Pool {
    fn run(&self, job: Job) {
        let Some(idle) = lock(&self.idle).pop() else {
            let (sender, receiver) = channel::<Job>();
            let _ = sender.send(job);
            let all = Arc::clone(&self.idle);
            std::thread::spawn(move || {
                while let Ok(job) = receiver.recv() {
                    job();
                    lock(&all).push(sender.clone());
                }
            });
            return;
        };
        let _ = idle.send(job);
    }
}
