//! What is broken, and how it is put right again. A new kind is a type that implements [`Fault`], and a line in [`any`].
//!
//! | file | what it holds |
//! |---|---|
//! | `brokers` | of three brokers one is killed, cut off, hangs, has a full disk; or two, or all are gone |
//! | `process` | processes that are killed, ended, stopped and woken, at random and at named points |
//! | `fleet` | all of one role gone, more and fewer processors, rolling restarts |
//! | `network` | the network document changes in the middle of the stream |

mod brokers;
mod fleet;
mod network;
mod process;

use anyhow::Result;
use keyferry_schemas::world::Rng;

pub use brokers::Broken;
pub use fleet::{Gone, Rolling, Scaled};
pub use network::{Agreement, Certificate, HubKey, Paused};
pub use process::{Ended, Frozen};

use super::{
    points,
    stage::{Role, Stage},
};

/// Something that breaks.
pub trait Fault: Send {
    /// Its name, with what a repetition needs to know.
    fn name(&self) -> String;

    /// Breaks it.
    ///
    /// # Errors
    /// It can not be broken, or something else broke by it.
    fn inject(&mut self, stage: &mut Stage, rng: &mut Rng) -> Result<()>;

    /// Puts it right. Nothing has to be ready when this returns.
    ///
    /// # Errors
    /// It can not be put right.
    fn heal(&mut self, stage: &mut Stage, rng: &mut Rng) -> Result<()>;

    /// How long it stays broken, in milliseconds.
    fn lasts_ms(&self, rng: &mut Rng) -> u64 {
        rng.below(3000)
    }

    /// Whether no client may notice it but by late answers. Comes alone, then.
    fn is_gentle(&self) -> bool {
        false
    }
}

/// A fault of any kind, by chance; of brokers too, where there are three.
#[must_use]
pub fn any(rng: &mut Rng, brokers: bool) -> Box<dyn Fault> {
    match rng.below(if brokers { 20 } else { 16 }) {
        0..=3 => Box::new(Ended::any(rng)),
        4 | 5 => Box::new(Ended { role: Role::Processor, ..Ended::at_a_point(rng) }),
        6..=8 => Box::new(Frozen::any(rng)),
        9 => Box::new(Gone { role: pick(rng, &Role::ALL) }),
        10 => Box::new(Scaled::default()),
        11 => Box::new(Rolling),
        12 => Box::new(Paused { country: pick(rng, &["DE", "FR", "NL"]) }),
        13 => Box::new(Agreement { id: 1 + rng.below(3) as i32 }),
        14 => Box::new(HubKey),
        15 => Box::new(Certificate { country: pick(rng, &super::scene::COUNTRIES) }),
        _ => Box::new(Broken::any(rng)),
    }
}

/// Every kind once, with points that chance seldom meets: what there is time for in every run of the tests.
#[must_use]
pub fn each(rng: &mut Rng) -> Vec<Box<dyn Fault>> {
    let kill = |role, point| Ended { role, term: false, point };
    vec![
        Box::new(kill(Role::Gateway, Some("upload-written"))),
        Box::new(kill(Role::Processor, Some(pick(rng, &points::TRANSACTION)))),
        Box::new(Certificate { country: "FR" }),
        Box::new(Frozen { role: Role::Processor, point: Some("before-offsets") }),
        Box::new(kill(Role::Processor, Some(pick(rng, &points::TAKEOVER)))),
        Box::new(kill(Role::Distribution, Some("append-data"))),
        Box::new(Frozen { role: Role::Gateway, point: Some("upload-read") }),
        Box::new(Paused { country: "NL" }),
        Box::new(Rolling),
        Box::new(HubKey),
        Box::new(Scaled::default()),
        Box::new(Frozen { role: Role::Distribution, point: None }),
        Box::new(Agreement { id: 3 }),
        Box::new(Gone { role: Role::Processor }),
        Box::new(Ended { role: Role::Processor, term: true, point: None }),
    ]
}

fn pick<T: Copy>(rng: &mut Rng, of: &[T]) -> T {
    of[rng.below(of.len() as u64) as usize]
}
