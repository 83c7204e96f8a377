//! The thread behind the register: reads the topics, takes part in the group, answers who asks.

use std::{
    collections::BTreeSet,
    sync::{Arc, mpsc::Receiver},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use keyferry_runtime::{
    claims::Claims,
    clients::is_absence,
    codec::Codec,
    exit::Fatal,
    follow::Follower,
    health::{Beat, Health},
    kafka::{Isolation, Kafka},
    tail::{Record, Start},
};
use keyferry_schemas::{country::Country, topics};

use super::{
    book::Book,
    register::{Ask, Shared},
};
use crate::worker::MAX_SILENCE;

/// How long one turn waits for a record; whoever asks waits for a turn.
const TURN: Duration = Duration::from_millis(50);
/// Between two attempts to open a topic.
const RETRY: Duration = Duration::from_secs(5);

/// What the thread works with.
pub(super) struct Reader {
    follower: Follower,
    claims: Claims,
    codec: Codec,
    beat: Beat,
    shared: Arc<Shared>,
    asked: Receiver<Ask>,
    /// Who waits, and for which position.
    waiting: Vec<(Country, i64, oneshot::Sender<()>)>,
    /// What was wanted when topics were last opened, and when that was.
    extended: Option<(BTreeSet<Country>, Instant)>,
    /// Countries of which it was said that they can not be read.
    unread: BTreeSet<Country>,
    /// What was last said to be wrong with the group.
    trouble: Option<String>,
}

impl Reader {
    /// Reads nothing yet. No I/O.
    ///
    /// # Errors
    /// What librdkafka says of the configuration.
    pub(super) fn new(
        kafka: &Kafka,
        codec: Codec,
        health: &Health,
        shared: Arc<Shared>,
        asked: Receiver<Ask>,
    ) -> Result<Self, Fatal> {
        let refused = |e| kafka.fatal("keyferry.callbacks.*", &e);
        Ok(Self {
            follower: Follower::new(kafka, Isolation::Committed).map_err(refused)?,
            claims: Claims::new(kafka).map_err(refused)?,
            codec,
            beat: health.component("callbacks", MAX_SILENCE),
            shared,
            asked,
            waiting: Vec::new(),
            extended: None,
            unread: BTreeSet::new(),
            trouble: None,
        })
    }

    /// Works until it is told to stop. Blocks: for a thread of its own.
    pub(super) fn run(mut self) {
        while !self.shared.stop.is_tripped() {
            self.extend();
            self.claim();
            self.questions();
            self.answers();
            match self.follower.next(TURN) {
                Ok(Some((topic, record))) => {
                    self.take(&topic, record);
                    self.beat.progress();
                }
                Ok(None) => self.beat.idle(),
                Err(error) => self.recover(&error.to_string()),
            }
        }
        self.shared.ours.send_replace(BTreeSet::new());
        self.beat.retire();
    }

    /// Reads what is wanted and no more. What is missing is a country's affair and no reason to be unready.
    fn extend(&mut self) {
        let wanted: BTreeSet<_> = self.shared.books().keys().copied().collect();
        match &self.extended {
            Some((before, at)) if *before == wanted && at.elapsed() < RETRY => return,
            _ => (),
        }
        let before = self.extended.as_ref().map(|(before, _)| before.clone()).unwrap_or_default();
        for gone in before.difference(&wanted) {
            if let Err(error) = self.follower.remove(&topics::callbacks(*gone)) {
                tracing::warn!(destination = %gone, %error, "its callbacks are read on");
            }
        }
        for country in &wanted {
            let topic = topics::callbacks(*country);
            if self.follower.follows(&topic) {
                continue;
            }
            self.beat.idle();
            // From the first record on, whatever was known before.
            if let Some(kept) = self.shared.books().get_mut(country) {
                kept.book = Book::default();
            }
            match self.follower.add(&topic, Start::Earliest) {
                Ok(()) => drop(self.unread.remove(country)),
                Err(error) => {
                    if self.unread.insert(*country) {
                        tracing::error!(destination = %country, topic, %error, "its callbacks can not be read; trying again");
                    }
                    // The others would only take as long to say the same.
                    if !is_absence(&error) {
                        break;
                    }
                }
            }
        }
        self.extended = Some((wanted, Instant::now()));
        self.beat.ready(true);
    }

    /// Takes part in the group, and tells for which countries this instance is in charge.
    fn claim(&mut self) {
        let wanted = self.shared.books().keys().copied().collect::<BTreeSet<_>>();
        let held = self
            .claims
            .want(wanted.iter().map(|c| topics::callbacks(*c)).collect())
            .and_then(|()| self.claims.held(Duration::ZERO));
        let trouble = held.as_ref().err().map(ToString::to_string);
        if let Some(error) = trouble.as_ref().filter(|error| self.trouble.as_ref() != Some(error)) {
            tracing::error!(error, "this instance can not take part in calling members");
        }
        self.trouble = trouble;
        let held = held.unwrap_or_default();
        let ours: BTreeSet<_> =
            wanted.into_iter().filter(|c| held.contains(&topics::callbacks(*c))).collect();
        self.shared.ours.send_if_modified(|before| {
            let differs = *before != ours;
            *before = ours;
            differs
        });
    }

    fn questions(&mut self) {
        while let Ok(Ask { country, offset, tell }) = self.asked.try_recv() {
            let topic = topics::callbacks(country);
            // Whoever is not answered is told so by the drop of `tell`.
            if !self.follower.follows(&topic) {
                continue;
            }
            match offset.map_or_else(|| self.follower.end(&topic), |offset| Ok(offset + 1)) {
                Ok(position) => self.waiting.push((country, position, tell)),
                Err(error) => {
                    tracing::warn!(destination = %country, %error, "the end of its callbacks is not known")
                }
            }
        }
    }

    fn answers(&mut self) {
        for (country, position, tell) in std::mem::take(&mut self.waiting) {
            match self.follower.position(&topics::callbacks(country)) {
                // Nobody may be waiting any more.
                Some(at) if at >= position => drop(tell.send(())),
                Some(_) if !tell.is_closed() => self.waiting.push((country, position, tell)),
                _ => (),
            }
        }
    }

    fn take(&mut self, topic: &str, record: Record) {
        if let Some(value) = &record.value {
            let shared = &self.shared;
            self.codec.await_schema(value, || {
                self.beat.idle();
                !shared.stop.is_tripped()
            });
        }
        let mut books = self.shared.books();
        let kept = books.iter_mut().find(|(country, _)| topics::callbacks(**country) == topic);
        let Some((_, kept)) = kept else { return };
        match kept.book.take(&self.codec, record.key.as_deref(), record.value) {
            Ok(false) => (),
            Ok(true) => kept.changes.send_modify(|n| *n = n.wrapping_add(1)),
            Err(reason) => tracing::error!(topic, offset = record.offset, reason, "a record is passed over"),
        }
    }

    fn recover(&mut self, error: &str) {
        tracing::warn!(error, "the callbacks can not be read at the moment");
        std::thread::sleep(TURN * 10);
        match self.follower.recover() {
            Ok(gone) if !gone.is_empty() => tracing::warn!(?gone, "topics are gone"),
            Ok(_) => (),
            Err(error) => tracing::warn!(%error, "the callbacks can not be read yet"),
        }
    }
}
