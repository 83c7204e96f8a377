//! The transaction loop and the take-over, as they are, over a log that is simulated: thousands of histories in the time
//! in which a cluster shows one.
//!
//! | module | what it holds |
//! |---|---|
//! | [`campaign`] | many histories |
//! | `baton` | threads, one at a time, as the seed says; simulated time |
//! | `cluster` | what happens by itself, and what befalls instances |
//! | `topics` | topics, transactions, markers that land late |
//! | `group` | the consumer group: members, generations, rebalances |
//! | `clients` | what the loop holds of all this: the traits of [`keyferry_runtime::transaction::log`] |
//! | `plan` | what one history is about |
//! | `exact` | an application without keys |
//! | `oracle` | what must hold at the end |
//! | `rng` | chance |

mod baton;
pub mod campaign;
mod clients;
mod cluster;
mod exact;
mod group;
mod oracle;
mod plan;
mod rng;
mod topics;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::Result;
use keyferry_runtime::{
    codec::Codec,
    health::{Beat, Health},
    network::NetworkFeed,
    transaction::{Application, Runner},
};
use keyferry_schemas::{country::Country, world::World};

use baton::{Pool, Sim, Starter};
use clients::SimLog;
use cluster::Cluster;
use exact::Exact;
use plan::{Payloads, Plan};
use rng::Rng;

/// What histories share: made once, as it costs more than many histories.
#[derive(Clone)]
pub struct Stage {
    codec: Codec,
    network: NetworkFeed,
    countries: Arc<Vec<Country>>,
    beat: Beat,
    pool: Arc<Pool>,
    payloads: Payloads,
}

/// What became of a history.
pub struct History {
    /// Plays it again.
    pub seed: u64,
    /// What did not hold; nothing of it should be here.
    pub violations: Vec<String>,
    /// What happened, if it was asked for; else the last of it is not known.
    pub trace: Vec<String>,
    /// Calls into the log.
    pub calls: u64,
    /// Simulated time.
    pub lasted: Duration,
    /// How often what befell the instances.
    pub counts: BTreeMap<&'static str, u64>,
}

impl Stage {
    /// A network of four countries.
    ///
    /// # Errors
    /// OpenSSL fails.
    pub fn new() -> Result<Self> {
        let world = World::new(&["DE", "FR", "NL", "ES"], jiff::Timestamp::now())?;
        let network = world.network()?;
        Ok(Self {
            codec: Codec::single_object()?,
            network: NetworkFeed::fixed([(network.version(), network)].into()),
            countries: Arc::new(world.nations.keys().copied().collect()),
            beat: Health::new("process").component("transactions", Duration::MAX),
            pool: Arc::default(),
            payloads: Arc::default(),
        })
    }

    /// The same, with threads of its own: one history at a time is played on each.
    fn lane(&self) -> Self {
        Self { pool: Arc::default(), ..self.clone() }
    }

    /// Plays the history of a seed, and judges it. `traced`: keeps what happened.
    #[must_use]
    pub fn play(&self, seed: u64, traced: bool) -> History {
        let mut rng = Rng(seed);
        let plan = Plan::draw(&mut rng, &self.countries, Arc::clone(&self.payloads));
        let stage = self.clone();
        let starter: Starter = Arc::new(move |log: SimLog| {
            let stage = stage.clone();
            Box::new(move || {
                let writer = log.sim.peek().lives[log.life].name.clone();
                let (codec, countries) = (stage.codec.clone(), Arc::clone(&stage.countries));
                let sim = Arc::clone(&log.sim);
                stage.run(log, Exact { codec, countries, writer, sim, secrets: exact::secrets() });
            })
        });
        let sim = Sim::new(Cluster::new(plan, rng, traced), starter, Arc::clone(&self.pool));
        let mut cluster = sim.run();
        cluster.settle();
        let judged = oracle::judge(&cluster, &self.codec, &self.countries, &exact::told);
        cluster.violations.extend(judged);
        History {
            seed,
            violations: std::mem::take(&mut cluster.violations),
            trace: cluster.trace.take().unwrap_or_default(),
            calls: cluster.calls,
            lasted: Duration::from_micros(cluster.now),
            counts: std::mem::take(&mut cluster.counts),
        }
    }

    /// One life of an instance: the real loop.
    fn run<A: Application>(&self, log: SimLog, application: A) {
        let (settings, shutdown) = {
            let cluster = log.sim.peek();
            let life = &cluster.lives[log.life];
            (cluster.plan.settings(&life.name), life.shutdown.clone())
        };
        let runner = Runner {
            application: Arc::new(application),
            clock: Arc::new(log.clone()),
            kafka: log.clone(),
            codec: self.codec.clone(),
            network: self.network.clone(),
            settings,
            beat: self.beat.clone(),
        };
        if let Err(fatal) = runner.run(&shutdown) {
            log.sim.peek().note(|c| format!("{} gives up: {fatal}", c.lives[log.life].name));
        }
    }
}

/// Takes out a guard for as long as this is held, in all histories of this process.
pub fn without(guard: &str) -> fail::FailScenario<'static> {
    let scenario = fail::FailScenario::setup();
    let _ = fail::cfg(guard, "return");
    scenario
}
