//! The transaction loop and the take-over, as they are, over a log that is simulated: thousands of histories in the time
//! in which a cluster shows one.
//!
//! | module | what it holds |
//! |---|---|
//! | [`campaign`] | many histories |
//! | `baton` | threads, one at a time, as the seed says; simulated time |
//! | `cluster`, `strikes` | what happens by itself, and what befalls instances |
//! | `topics` | topics, transactions, markers that land late |
//! | `group` | the consumer group: members, generations, rebalances |
//! | `clients`, `writer` | what the loop holds of all this: the traits of [`keyferry_runtime::transaction::log`] |
//! | `plan` | what one history is about |
//! | `exact`, `real` | an application without keys, for most histories; the pipeline, for the others |
//! | `oracle` | what must hold at the end |

mod baton;
pub mod campaign;
mod clients;
mod cluster;
mod exact;
mod group;
mod oracle;
mod plan;
mod real;
mod strikes;
mod topics;
mod writer;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::Result;
use keyferry_runtime::{
    codec::Codec,
    health::{Beat, Health},
    network::NetworkFeed,
    transaction::{Application, Runner},
};
use keyferry_schemas::{
    country::Country,
    world::{Rng, World},
};

use baton::{Pool, SECOND, Sim, Starter};
use clients::SimLog;
use cluster::Cluster;
use exact::Exact;
use plan::Plan;
use real::Real;

/// What histories share: made once, as it costs more than many histories.
#[derive(Clone)]
pub struct Stage {
    codec: Codec,
    network: NetworkFeed,
    countries: Arc<Vec<Country>>,
    beat: Beat,
    pool: Arc<Pool>,
    real: Arc<Real>,
    patient: bool,
}

/// One history in so many runs the pipeline.
const REAL: u64 = 16;

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
        let now = jiff::Timestamp::now();
        let world = World::new(&["DE", "FR", "NL", "ES"], now)?;
        let network = world.network()?;
        let codec = Codec::single_object()?;
        let countries: Vec<_> = world.nations.keys().copied().collect();
        Ok(Self {
            real: Arc::new(Real::new(&world, &codec, &countries, now.into())?),
            codec,
            network: NetworkFeed::fixed([(network.version(), network)].into()),
            countries: Arc::new(countries),
            beat: Health::new("process").component("transactions", Duration::MAX),
            pool: Arc::default(),
            patient: false,
        })
    }

    /// The same with a broker that leaves open transactions open for ten minutes: whoever waits for it waits too long.
    #[must_use]
    pub fn patient(self) -> Self {
        Self { patient: true, ..self }
    }

    /// The same, with threads of its own: one history at a time is played on each.
    fn lane(&self) -> Self {
        Self { pool: Arc::default(), ..self.clone() }
    }

    /// Plays the history of a seed, and judges it. `traced`: keeps what happened.
    #[must_use]
    pub fn play(&self, seed: u64, traced: bool) -> History {
        let mut rng = Rng::new(seed);
        let real = seed.is_multiple_of(REAL);
        let mut plan = Plan::draw(&mut rng, &self.countries);
        if self.patient {
            plan.transaction_timeout = 600 * SECOND;
        }
        plan.epoch = self.real.epoch;
        if real {
            plan.payloads = Arc::clone(&self.real.payloads);
        }
        let stage = self.clone();
        let starter: Starter = Arc::new(move |log: SimLog| {
            let stage = stage.clone();
            Box::new(move || stage.live(log, real))
        });
        let sim = Sim::new(Cluster::new(plan, rng, traced), starter, Arc::clone(&self.pool));
        let mut cluster = sim.run();
        cluster.settle();
        let pipeline_told = |value: &[u8]| real::told(&self.codec, value);
        let tell: oracle::Tell<'_> = if real { &pipeline_told } else { &exact::told };
        let judged = oracle::judge(&cluster, &self.codec, &self.countries, tell);
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

    /// One life of an instance.
    fn live(&self, log: SimLog, real: bool) {
        let writer = log.sim.peek().lives[log.life].name.clone();
        let codec = self.codec.clone();
        if !real {
            let (countries, sim) = (Arc::clone(&self.countries), Arc::clone(&log.sim));
            return self.run(log, Exact { codec, countries, writer, sim, secrets: exact::secrets() });
        }
        match self.real.application(&codec, &writer) {
            Ok(pipeline) => self.run(log, pipeline),
            Err(e) => log.sim.peek().violated(format!("there is no pipeline: {e}")),
        }
    }

    /// The real loop, to its end.
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
