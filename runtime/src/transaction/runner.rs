//! The loop itself: one thread polls, decides and commits; others restore origins that were newly assigned.

mod doubt;

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    time::Duration,
};

use keyferry_schemas::{country::Country, time::Millis, topics};

use super::{
    Application, Settings,
    assignment::Generation,
    decide::{Origin, Phase, decide},
    fault::{Fault, Remedy},
    guard,
    log::{Input, Log, Reader, Writer},
    metrics::TransactionMetrics,
    prepare::Preparation,
    step::{StepFault, Transaction},
    takeover::{Restored, Takeover, TakeoverFault},
};
use crate::{
    clock::SharedClock,
    codec::Codec,
    exit::{Exit, Fatal},
    health::Beat,
    kafka::Kafka,
    network::NetworkFeed,
    shutdown::Shutdown,
    skew::BrokerClock,
    tail::BROKER_TIMEOUT,
};

/// Records read and not yet decided are kept to about this many bytes.
const MAX_BUFFERED_BYTES: usize = 64 << 20;
/// A take-over that failed for a passing reason is tried again after this time.
const TAKEOVER_PAUSE: Duration = Duration::from_secs(1);
/// Clocks that are right differ by less than this.
const FUTURE_MS: i64 = 60_000;

/// Runs an [`Application`] over the upload topics of its consumer group.
pub struct Runner<A, L = Kafka> {
    /// What decides.
    pub application: Arc<A>,
    /// Makes the clients.
    pub kafka: L,
    /// Reads and writes records.
    pub codec: Codec,
    /// The network document.
    pub network: NetworkFeed,
    /// Limits and names.
    pub settings: Settings,
    /// Tells when checkpoints are due, once it is held against the broker's. What is decided about uploads does not
    /// depend on it.
    pub clock: SharedClock,
    /// Where progress is reported.
    pub beat: Beat,
}

struct Ended<S> {
    origin: Country,
    generation: Generation,
    took: Duration,
    result: Result<Restored<S>, TakeoverFault>,
}

impl<A: Application, L: Log> Runner<A, L> {
    /// Runs until `shutdown`. Blocks its thread.
    ///
    /// # Errors
    /// [`Fatal`] where only an operator can help: missing rights, wrong credentials, a broker that is not reachable
    /// at the start.
    pub fn run(self, shutdown: &Shutdown) -> Result<(), Fatal> {
        let metrics = TransactionMetrics::register()?;
        let preparation = Preparation::start(&self.application, self.settings.threads);
        let clock = Arc::new(BrokerClock::register(Arc::clone(&self.clock))?);
        let mut first = true;
        while !shutdown.is_tripped() {
            let clients = match self.connect(first, &clock) {
                Ok(clients) => clients,
                Err(fatal) if first || fatal.exit == Exit::Failure => return Err(fatal),
                Err(fatal) => {
                    tracing::error!(error = %fatal, "the clients can not be rebuilt yet");
                    self.kafka.sleep(TAKEOVER_PAUSE);
                    continue;
                }
            };
            first = false;
            let (sender, receiver) = channel();
            let mut session = Session {
                runner: &self,
                preparation: &preparation,
                clock: Arc::clone(&clock),
                consumer: clients.0,
                producer: clients.1,
                origins: BTreeMap::new(),
                buffered: 0,
                reachable: true,
                turn: 0,
                sender,
                receiver,
                metrics: &metrics,
            };
            match session.run(shutdown) {
                Ok(()) => break,
                Err(fault) if fault.remedy() == Remedy::Exit => return Err(Fatal::failure(fault)),
                Err(fault) => {
                    self.beat.ready(false);
                    metrics.fenced();
                    tracing::warn!(reason = %fault, "this instance was fenced or lost its clients: building them anew");
                }
            }
        }
        self.beat.ready(false);
        Ok(())
    }

    /// Whether it is time to state the chains of an origin.
    pub(super) fn is_due(&self, state: &A::State, patience: Millis, now: Millis) -> bool {
        let interval =
            self.settings.checkpoint_interval.map(|i| i64::try_from(i.as_millis()).unwrap_or(i64::MAX));
        let last = self.application.last_checkpoint(state);
        // One from the future was made by a clock that was wrong, and would hold up all others until then.
        interval.is_some_and(|i| now >= patience && (now.since(last) >= i || last.since(now) > FUTURE_MS))
    }

    /// Transactions first, subscription after: an older self that still writes is fenced before anything is read.
    fn connect(&self, first: bool, clock: &Arc<BrokerClock>) -> Result<(L::Input, L::Writer), Fatal> {
        let unreachable = |e: Fault| match e.remedy {
            Remedy::Exit => Fatal::failure(format!("{}: {e}", self.settings.transactional_id)),
            _ => Fatal::unreachable(format!("the broker does not answer: {e}")),
        };
        let producer = self.kafka.writer(&self.settings.transactional_id, clock).map_err(Fatal::config)?;
        producer.init(if first { 3 * BROKER_TIMEOUT } else { BROKER_TIMEOUT }).map_err(unreachable)?;
        let consumer = self.kafka.input().map_err(Fatal::config)?;
        consumer.subscribe().map_err(unreachable)?;
        Ok((consumer, producer))
    }
}

/// One life of a pair of clients.
struct Session<'a, A: Application, L: Log> {
    runner: &'a Runner<A, L>,
    preparation: &'a Preparation<A>,
    /// The broker's clock.
    clock: Arc<BrokerClock>,
    consumer: L::Input,
    producer: L::Writer,
    origins: BTreeMap<Country, Origin<A>>,
    buffered: usize,
    /// Whether the broker answered when it was last asked.
    reachable: bool,
    turn: usize,
    sender: Sender<Ended<A::State>>,
    receiver: Receiver<Ended<A::State>>,
    metrics: &'a TransactionMetrics,
}

impl<A: Application, L: Log> Session<'_, A, L> {
    fn run(&mut self, shutdown: &Shutdown) -> Result<(), StepFault> {
        while !shutdown.is_tripped() {
            if self.buffered > 0 {
                guard::pass("before-poll", &self.runner.settings.transactional_id);
            }
            self.gather()?;
            self.follow_assignment();
            self.finish_takeovers()?;
            self.preparation.ahead(&mut self.origins, self.runner.network.current().as_ref());
            self.doubt()?;
            let live = self.origins.values().all(|o| matches!(o.phase, Phase::Live(_)));
            let joined = self.consumer.assignment().has_joined();
            self.runner.beat.ready(live && joined && self.reachable);
            if self.origins.values().any(|o| !o.queue.is_empty()) || self.checkpoints_are_due() {
                self.transact()?;
            } else {
                self.runner.beat.idle();
            }
        }
        Ok(())
    }

    /// Reads what is there without waiting, or waits for a moment if there is nothing.
    fn gather(&mut self) -> Result<(), StepFault> {
        let consumer = &self.consumer;
        let mut wait = if self.buffered == 0 { Duration::from_millis(20) } else { Duration::ZERO };
        while self.buffered < MAX_BUFFERED_BYTES {
            let Some((origin, record)) = consumer.poll(wait)? else { return Ok(()) };
            wait = Duration::ZERO;
            let Some(slot) = self.origins.get_mut(&origin) else { continue };
            if consumer.assignment().still_owns(origin, slot.generation)
                && matches!(slot.phase, Phase::Live(_))
            {
                self.buffered += record.size();
                slot.push(record, self.runner.kafka.now());
            }
        }
        Ok(())
    }

    /// Forgets origins that were revoked, and starts to take over those that were assigned.
    fn follow_assignment(&mut self) {
        let owned = self.consumer.assignment().owned();
        self.metrics.rebalanced(self.consumer.assignment().take_rebalances());
        let buffered = &mut self.buffered;
        self.origins.retain(|origin, slot| {
            let kept = owned.get(origin) == Some(&slot.generation) || !guard::stands("guard-revoked");
            if !kept {
                *buffered -= slot.queue.iter().map(|q| q.record.size()).sum::<usize>();
            }
            kept
        });
        for (origin, generation) in owned {
            if !self.origins.contains_key(&origin) {
                self.metrics.origin(origin);
                self.origins.insert(origin, Origin::assigned(generation, self.runner.kafka.now()));
                self.start_takeover(origin, generation, Duration::ZERO);
            }
        }
    }

    fn start_takeover(&self, origin: Country, generation: Generation, pause: Duration) {
        let runner = self.runner;
        let (application, kafka, codec) =
            (Arc::clone(&runner.application), runner.kafka.clone(), runner.codec.clone());
        let (network, instance) = (runner.network.clone(), runner.settings.transactional_id.clone());
        let (sender, clock) = (self.sender.clone(), Arc::clone(&self.clock));
        runner.kafka.spawn(move || {
            kafka.sleep(pause);
            let takeover = Takeover {
                application: application.as_ref(),
                kafka: &kafka,
                codec: &codec,
                network: &network,
                instance: &instance,
                clock: &clock,
            };
            let started = kafka.now();
            let restored = catch_unwind(AssertUnwindSafe(|| takeover.run(origin)));
            let result =
                restored.unwrap_or_else(|_| Err(TakeoverFault::Late("it panicked; see the log".into())));
            // Nobody listens any more if the clients were rebuilt meanwhile.
            let _ = sender.send(Ended { origin, generation, took: kafka.now() - started, result });
        });
    }

    fn finish_takeovers(&mut self) -> Result<(), StepFault> {
        while let Ok(Ended { origin, generation, took, result }) = self.receiver.try_recv() {
            let Some(slot) = self.origins.get_mut(&origin).filter(|o| o.generation == generation) else {
                continue;
            };
            match result {
                Ok(restored) => {
                    let topic = topics::uploads(origin);
                    match go_on(&self.consumer, &topic, restored.next_offset) {
                        Ok(()) => {
                            let (next_offset, seconds) = (restored.next_offset, took.as_secs_f64());
                            tracing::info!(%origin, next_offset, seconds, "origin taken over");
                            self.metrics.restored(origin, took);
                            slot.phase = Phase::Live(restored.state);
                            (slot.next_offset, slot.heard) = (next_offset, self.runner.kafka.now());
                        }
                        Err(e) => {
                            tracing::warn!(%origin, error = %e, "the input can not be positioned yet");
                            self.start_takeover(origin, generation, TAKEOVER_PAUSE);
                        }
                    }
                }
                Err(TakeoverFault::Broken(why)) => {
                    tracing::error!(%origin, reason = %why, "ORIGIN STOPPED: its ledger does not continue; nothing of it is decided until an operator has looked at it");
                    self.metrics.chain_break(origin);
                    slot.phase = Phase::Stopped;
                }
                Err(TakeoverFault::Kafka(e)) if e.remedy == Remedy::Exit => return Err(e.into()),
                Err(passing) => {
                    tracing::warn!(%origin, reason = %passing, "taking over again");
                    self.start_takeover(origin, generation, TAKEOVER_PAUSE);
                }
            }
        }
        Ok(())
    }

    fn checkpoints_are_due(&self) -> bool {
        let now = self.clock.now();
        let due = |o: &Origin<A>| match &o.phase {
            Phase::Live(state) => self.runner.is_due(state, o.patience, now),
            _ => false,
        };
        self.origins.values().any(due)
    }

    /// One transaction over what was read, origins in turn.
    fn transact(&mut self) -> Result<(), StepFault> {
        let runner = self.runner;
        let started = runner.kafka.now();
        let transaction = Transaction {
            producer: &self.producer,
            consumer: &self.consumer,
            kafka: &runner.kafka,
            instance: &runner.settings.transactional_id,
            clock: &self.clock,
        };
        guard::pass("before-begin", transaction.instance);
        transaction.begin()?;
        // Whoever came first in this transaction comes last in the next.
        self.turn = self.turn.wrapping_add(1);
        let mut counts = BTreeMap::new();
        let decided =
            decide(runner, self.preparation, &transaction, &mut self.origins, self.turn, &mut counts);
        let deciding = runner.kafka.now() - started;
        let result =
            decided.and_then(|consumed| transaction.commit(&consumed).map(|()| !consumed.is_empty()));
        let committed = result.is_ok();
        for (origin, count) in counts {
            let Some(slot) = self.origins.get_mut(&origin) else { continue };
            if let Phase::Live(state) = &mut slot.phase {
                runner.application.settle(state, committed);
            }
            if committed {
                self.buffered -= slot.done(count);
            }
        }
        match result {
            Ok(moved) => {
                self.reachable = true;
                let took = runner.kafka.now() - started;
                self.metrics.committed(took, took - deciding);
                if moved {
                    runner.beat.progress();
                } else {
                    // Nothing could be decided, and the reason stands in the log: not a thousand times a second.
                    runner.kafka.sleep(TAKEOVER_PAUSE);
                }
                Ok(())
            }
            Err(fault) if fault.remedy() == Remedy::Abort || fault.remedy() == Remedy::Retry => {
                tracing::warn!(reason = %fault, "transaction aborted");
                self.metrics.aborted(runner.kafka.now() - started);
                // The records stay in their queues, whose heads are the committed offsets: nothing has to be read again.
                transaction.abort()?;
                runner.kafka.sleep(Duration::from_millis(50));
                Ok(())
            }
            Err(fault) => Err(fault),
        }
    }
}

fn go_on(consumer: &impl Input, topic: &str, offset: i64) -> Result<(), Fault> {
    consumer.seek(topic, offset)?;
    // Left out, this is a consumer that keeps up its heartbeats and gets nothing.
    if guard::stands("input-resumes") { consumer.resume(topic) } else { Ok(()) }
}
