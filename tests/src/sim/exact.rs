//! The application of most histories: it decides what no key has a part in. It remembers, restores, overlays and chains
//! with the pipeline's own [`OriginState`]; what it leaves out is reading, judging and signing keys, which is pure and
//! costs more than everything else together. And it checks what every application relies on.

use std::sync::Arc;

use bytes::Bytes;
use keyferry_processors::{
    fingerprint::{Secret, Secrets},
    state::OriginState,
};
use keyferry_runtime::{
    codec::Codec,
    tail::Record,
    transaction::{Application, Output},
};
use keyferry_schemas::{
    avro::Record as _,
    batch::sha256,
    country::Country,
    network::Network,
    records::{Delivery, Hash, Head, LedgerEntry, Outcome},
    time::Millis,
    topics,
};

use super::{baton::Sim, oracle::Told};

pub(super) struct Exact {
    pub codec: Codec,
    pub countries: Arc<Vec<Country>>,
    pub writer: String,
    pub sim: Arc<Sim>,
    pub secrets: Secrets,
}

pub(super) fn secrets() -> Secrets {
    Secrets { current: Secret::new("s1", &[7; 32]), previous: None }
}

impl Exact {
    fn others(&self, origin: Country) -> impl Iterator<Item = Country> {
        self.countries.iter().copied().filter(move |c| *c != origin)
    }
}

fn output(topic: String, origin: Country, value: Vec<u8>, timestamp: Millis) -> Output {
    let key = Some(Bytes::copy_from_slice(origin.as_str().as_bytes()));
    Output { topic, key, value: Some(value.into()), headers: Vec::new(), timestamp }
}

/// A made-up batch or checkpoint: what it is, its number, and the hash before it or of the last.
fn paper(kind: u8, sequence: i64, hash: &Hash) -> Vec<u8> {
    [&[kind][..], &sequence.to_be_bytes(), hash].concat()
}

/// What a record on a topic of keys says of its chain.
pub(super) fn told(value: &[u8]) -> Option<Told> {
    let (kind, rest) = value.split_first()?;
    let (sequence, hash) = rest.split_first_chunk::<8>()?;
    let (sequence, hash) = (i64::from_be_bytes(*sequence), hash.try_into().ok()?);
    Some(match kind {
        b'B' => Told::Batch { sequence, previous: hash, manifest: sha256(value) },
        _ => Told::Checkpoint { sequence, manifest: hash },
    })
}

impl Application for Exact {
    type State = OriginState;
    type Prepared = ();

    fn blank(&self, origin: Country, first_offset: i64) -> OriginState {
        OriginState::new(origin, first_offset)
    }

    fn replay(&self, state: &mut OriginState, entry: &LedgerEntry, first: bool) -> Result<(), String> {
        state.replay(entry, first).map_err(|e| e.to_string())
    }

    fn restored(&self, state: &mut OriginState, head: Option<&Head>, empty: bool) -> Result<(), String> {
        state.finish(head, empty, &self.secrets).map_err(|e| e.to_string())
    }

    fn prepare(&self, _: Country, _: &Record, _: &Network) -> Result<(), String> {
        Ok(())
    }

    fn step(
        &self,
        state: &mut OriginState,
        record: &Record,
        (): &(),
        _: u32,
        network: &Network,
        outputs: &mut Vec<Output>,
    ) -> Result<(), String> {
        let (origin, last) = (state.origin(), state.position().source_offset);
        if record.offset != last + 1 {
            self.sim
                .peek()
                .violated(format!("{}: {origin} offset {} after {last}", self.writer, record.offset));
        }
        state.advance(record.timestamp);
        let value = record.value.as_deref().unwrap_or_default();
        // Some uploads go nowhere, some not everywhere.
        let receives =
            |at: usize| value.first().is_some_and(|first| !(usize::from(*first) + at).is_multiple_of(3));
        let mut batches = Vec::new();
        for (_, destination) in self.others(origin).enumerate().filter(|(at, _)| receives(*at)) {
            let (sequence, previous) = state.position().chains.get(&destination).copied().unwrap_or_default();
            let paper = paper(b'B', sequence + 1, &previous);
            batches.push((
                Delivery { destination, sequence: sequence + 1, manifest: sha256(&paper), new_keys: 1 },
                paper,
            ));
        }
        let position = state.position();
        let entry = LedgerEntry {
            sequence: position.sequence + 1,
            previous: position.entry,
            origin,
            source_offset: record.offset,
            now: position.now,
            writer: self.writer.clone(),
            network_version: network.version(),
            signing_key: String::new(),
            upload_id: None,
            batch_tag: None,
            outcome: Outcome::Accepted,
            code: None,
            detail: None,
            first_offset: None,
            content: None,
            accepted_content: None,
            keys: 1,
            keys_accepted: 1,
            keys_revised: 0,
            verdicts: Vec::new(),
            odd_onsets: 0,
            unknown_countries: 0,
            deliveries: batches.iter().map(|(delivery, _)| delivery.clone()).collect(),
            withheld: Vec::new(),
            fingerprint_key: self.secrets.current.name().to_owned(),
            fingerprints: Bytes::new(),
        };
        let bytes = entry.to_avro();
        state.apply(&entry, sha256(&bytes), &[]);
        let framed = self.codec.frame::<LedgerEntry>(&bytes);
        outputs.push(output(topics::ledger(origin), origin, framed, record.timestamp));
        for (delivery, paper) in batches {
            outputs.push(output(topics::keys(delivery.destination), origin, paper, record.timestamp));
        }
        Ok(())
    }

    fn last_checkpoint(&self, state: &OriginState) -> Millis {
        state.position().checkpoint_at
    }

    fn checkpoint(
        &self,
        state: &mut OriginState,
        now: Millis,
        network: &Network,
        outputs: &mut Vec<Output>,
    ) -> Result<(), String> {
        let origin = state.origin();
        for destination in self.others(origin) {
            let (sequence, manifest) = state.position().chains.get(&destination).copied().unwrap_or_default();
            outputs.push(output(topics::keys(destination), origin, paper(b'C', sequence, &manifest), now));
        }
        state.stated(now, network.version());
        Ok(())
    }

    fn head(&self, state: &OriginState) -> Head {
        state.head()
    }

    fn settle(&self, state: &mut OriginState, committed: bool) {
        if committed { state.commit() } else { state.abort() }
    }
}
