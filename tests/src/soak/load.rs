//! The load: every country uploads without a pause and one upload at a time, and every country downloads.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
        mpsc,
    },
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use tokio::{
    runtime::Runtime,
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::JoinHandle,
};

use super::{
    client::{Answer, Clients, Trouble},
    fetch::{Fetched, fetch, walk},
    scene::{COUNTRIES, Scene},
    stage::Stage,
    stream::{Ready, Uploads},
};

/// How long it may take until all is well again. A transaction that a killed processor left open hides batches for 20 s.
const RECOVERY: Duration = Duration::from_secs(150);

/// An upload that was answered.
#[derive(Debug, Clone)]
pub struct Sent {
    /// What was sent.
    pub ready: Arc<Ready>,
    /// When it was sent first.
    pub begun: Instant,
    /// What came back.
    pub answer: Answer,
}

/// Asks a country to send a probe, and to tell when it was answered.
type Ask = mpsc::Sender<Sent>;

/// What all tasks share.
pub struct Shared {
    scene: Arc<Scene>,
    clients: Clients,
    /// By origin: everything that was answered, in order.
    journals: BTreeMap<&'static str, Mutex<Vec<Sent>>>,
    /// By destination: what was downloaded.
    pub fetched: BTreeMap<&'static str, Mutex<Fetched>>,
    stop: AtomicBool,
    failure: Mutex<Option<String>>,
}

/// A running load.
pub struct Load {
    shared: Arc<Shared>,
    runtime: Runtime,
    asks: Vec<UnboundedSender<Ask>>,
    tasks: Vec<JoinHandle<()>>,
    services: Vec<SocketAddr>,
}

/// A value under a lock that a failed task may have held.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Load {
    /// Begins.
    ///
    /// # Errors
    /// A client can not be made.
    pub fn start(stage: &Stage, seed: u64) -> Result<Self> {
        // It was installed already, perhaps.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let shared = Arc::new(Shared {
            scene: Arc::clone(&stage.scene),
            clients: Clients::new(&stage.scene, stage.gates())?,
            journals: COUNTRIES.into_iter().map(|c| (c, Mutex::default())).collect(),
            fetched: COUNTRIES.into_iter().map(|c| (c, Mutex::default())).collect(),
            stop: AtomicBool::new(false),
            failure: Mutex::default(),
        });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let (mut asks, mut tasks) = (Vec::new(), Vec::new());
        for (n, country) in COUNTRIES.into_iter().enumerate() {
            let (ask, asked) = unbounded_channel();
            asks.push(ask);
            let (of, uploads) = (Arc::clone(&shared), Uploads::new(seed, country));
            tasks.push(runtime.spawn(async move {
                let ended = upload(&of, country, uploads, asked, n).await;
                of.note(ended, country);
            }));
            let (of, services) = (Arc::clone(&shared), stage.services());
            tasks.push(runtime.spawn(async move {
                let certificate = of.scene.client(country).map(hex::encode).unwrap_or_default();
                let stop = || of.stop.load(SeqCst);
                let ended = fetch(&of.fetched[country], country, &certificate, &services, stop).await;
                of.note(ended, country);
            }));
        }
        Ok(Self { shared, runtime, asks, tasks, services: stage.services() })
    }

    /// What went wrong on the way, counted.
    #[must_use]
    pub fn trouble(&self) -> &Trouble {
        &self.shared.clients.trouble
    }

    /// That nothing has failed so far.
    ///
    /// # Errors
    /// An upload that nobody answers, a download that changed.
    pub fn check(&self) -> Result<()> {
        locked(&self.shared.failure).clone().map_or(Ok(()), |why| bail!(why))
    }

    /// How many uploads were answered.
    #[must_use]
    pub fn answered(&self) -> usize {
        self.shared.journals.values().map(|j| locked(j).len()).sum()
    }

    /// Everything that `origin` has sent and got an answer to, in order.
    #[must_use]
    pub fn journal(&self, origin: &str) -> Vec<Sent> {
        self.shared.journals.get(origin).map(|j| locked(j).clone()).unwrap_or_default()
    }

    /// How many keys `destination` has downloaded.
    #[must_use]
    pub fn fetched_keys(&self, destination: &str) -> usize {
        self.shared.fetched.get(destination).map_or(0, |f| locked(f).keys.len())
    }

    /// Waits until every origin has sent something that was answered and that everybody has downloaded; how long that
    /// took.
    ///
    /// # Errors
    /// It does not come about.
    pub fn recovered(&self) -> Result<Duration> {
        let begun = Instant::now();
        let (tell, told) = mpsc::channel();
        let ask =
            |n: usize| self.asks[n].send(tell.clone()).map_err(|_| anyhow::anyhow!("a client has ended"));
        let mut probes = COUNTRIES.map(|_| (Vec::<Vec<u8>>::new(), begun, false));
        (0..COUNTRIES.len()).try_for_each(ask)?;
        loop {
            self.check()?;
            if let Ok(sent) = told.recv_timeout(Duration::from_millis(10)) {
                let n = COUNTRIES.iter().position(|c| *c == sent.ready.upload.origin).unwrap_or_default();
                let taken = sent.answer.status == 201;
                let data = sent.ready.upload.keys.iter().map(|k| k.key_data.to_vec());
                probes[n].0.extend(data.filter(|_| taken));
                probes[n].1 = Instant::now();
                if !taken {
                    ask(n)?;
                }
            }
            for (n, (keys, answered, done)) in probes.iter_mut().enumerate() {
                *done = *done || keys.iter().any(|key| self.is_everywhere(COUNTRIES[n], key));
                // It was decided while an earlier version of the network document still counted, perhaps.
                if !*done && !keys.is_empty() && answered.elapsed() > Duration::from_secs(5) {
                    *answered = Instant::now();
                    ask(n)?;
                }
            }
            if probes.iter().all(|(_, _, done)| *done) {
                return Ok(begun.elapsed());
            }
            let waits: Vec<_> = COUNTRIES.iter().zip(&probes).filter(|(_, p)| !p.2).map(|(c, _)| c).collect();
            ensure!(begun.elapsed() < RECOVERY, "no way from {waits:?} after {RECOVERY:?}");
        }
    }

    fn is_everywhere(&self, origin: &str, key: &[u8]) -> bool {
        // NL has no agreement with IT.
        let gets = |c: &str| c != origin && (origin, c) != ("IT", "NL");
        self.shared.fetched.iter().all(|(c, f)| !gets(c) || locked(f).keys.contains(key))
    }

    /// Lets every upload that is under way be answered, and ends.
    ///
    /// # Errors
    /// One is not.
    pub fn stop(&mut self) -> Result<()> {
        self.shared.stop.store(true, SeqCst);
        for task in self.tasks.drain(..) {
            self.runtime.block_on(task)?;
        }
        self.check()
    }
}

impl Load {
    /// Waits until each distribution service serves a country exactly these bytes, under names that never changed.
    ///
    /// # Errors
    /// One does not.
    pub(super) fn downloads(&self, scene: &Scene, destination: &str, bytes: &[u8]) -> Result<()> {
        let certificate = hex::encode(scene.client(destination)?);
        for service in &self.services {
            let begun = Instant::now();
            let walked = loop {
                let walked = self.runtime.block_on(walk(*service, destination, &certificate))?;
                let length: usize = walked.iter().map(|(_, body)| body.len()).sum();
                if length >= bytes.len() {
                    break walked;
                }
                ensure!(begun.elapsed() < RECOVERY, "{service} serves {length} of {} bytes", bytes.len());
                std::thread::sleep(Duration::from_millis(200));
            };
            let served: Vec<_> = walked.iter().map(|(_, body)| body.as_ref()).collect();
            let same = served.concat() == bytes;
            ensure!(same, "{service} serves {} bytes that are not those of the topic", served.concat().len());
            let fetched = self.shared.fetched.get(destination);
            fetched.map_or(Ok(()), |f| locked(f).holds(&walked))?;
        }
        Ok(())
    }
}

impl Shared {
    fn note(&self, ended: Result<()>, country: &str) {
        if let Err(error) = ended {
            locked(&self.failure).get_or_insert(format!("{country}: {error:#}"));
        }
    }
}

async fn upload(
    of: &Shared,
    country: &'static str,
    mut uploads: Uploads,
    mut asked: UnboundedReceiver<Ask>,
    turn: usize,
) -> Result<()> {
    let mut turn = turn;
    while !of.stop.load(SeqCst) {
        turn += 1;
        let probe = asked.try_recv().ok();
        let ready = if probe.is_some() { uploads.probe(&of.scene)? } else { uploads.next(&of.scene)? };
        let begun = Instant::now();
        let answer = of.clients.send(country, &ready, turn).await?;
        let sent = Sent { ready, begun, answer };
        locked(&of.journals[country]).push(sent.clone());
        match probe {
            // Nobody waits for it any more, perhaps.
            Some(tell) => drop(tell.send(sent)),
            None => tokio::time::sleep(Duration::from_millis(uploads.pause_ms())).await,
        }
    }
    Ok(())
}
