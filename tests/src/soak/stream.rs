//! What one country uploads: seeded, and of every kind that there is.

use std::sync::Arc;

use anyhow::Result;
use bytes::Bytes;
use keyferry_runtime::clock::{Clock as _, SystemClock};
use keyferry_schemas::{
    canonical::Canonical,
    efgs::{self, DiagnosisKey},
    world::{Rng, key},
};

use super::{
    model::Upload,
    scene::{COUNTRIES, Scene},
};

/// An upload that is ready to be sent, as often as it takes.
#[derive(Debug)]
pub struct Ready {
    /// What the model has to know of it.
    pub upload: Upload,
    /// Its body.
    pub body: Bytes,
    /// Its signature.
    pub signature: Vec<u8>,
    /// The code with which the gateway must refuse it, without writing anything.
    pub refused: Option<&'static str>,
}

/// The uploads of one country.
pub struct Uploads {
    rng: Rng,
    origin: &'static str,
    number: usize,
    /// Keys that were sent, in the form in which they were sent last.
    sent: Vec<DiagnosisKey>,
    past: Vec<Arc<Ready>>,
}

impl Uploads {
    /// Those of `origin`, by this seed.
    #[must_use]
    pub fn new(seed: u64, origin: &'static str) -> Self {
        let own = origin.bytes().fold(seed, |seed, b| seed.wrapping_mul(31).wrapping_add(b.into()));
        Self { rng: Rng::new(own), origin, number: 0, sent: Vec::new(), past: Vec::new() }
    }

    /// How long the country rests before its next upload, in milliseconds.
    pub fn pause_ms(&mut self) -> u64 {
        self.rng.below(200)
    }

    fn chance(&mut self, n: u64) -> bool {
        self.rng.below(n) == 0
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> Option<T> {
        of.get(self.rng.below(of.len() as u64) as usize).cloned()
    }

    fn tag(&mut self) -> String {
        self.number += 1;
        format!("{}-{}", self.origin, self.number)
    }

    /// One new key that goes to everybody, alone: by this it is seen that the way is open.
    ///
    /// # Errors
    /// OpenSSL fails.
    pub fn probe(&mut self, scene: &Scene) -> Result<Arc<Ready>> {
        let visited: Vec<_> = COUNTRIES.into_iter().filter(|c| *c != self.origin).collect();
        let keys = vec![key(&mut self.rng, self.origin, &visited, SystemClock.now())];
        let tag = self.tag();
        Ok(Arc::new(self.sign(scene, tag, keys, true)?))
    }

    /// The next upload.
    ///
    /// # Errors
    /// OpenSSL fails.
    pub fn next(&mut self, scene: &Scene) -> Result<Arc<Ready>> {
        let ready = match self.rng.below(20) {
            0 | 1 => self.again(scene)?,
            2 => self.tag_conflict(scene)?,
            3 => self.forged(scene)?,
            4 => self.refused(scene)?,
            5 => self.foreign(scene)?,
            kind => self.mixed(scene, kind)?,
        };
        self.past.push(Arc::clone(&ready));
        if self.past.len() > 60 {
            self.past.remove(0);
        }
        Ok(ready)
    }

    fn fresh(&mut self, most: u64) -> Vec<DiagnosisKey> {
        let n = 1 + self.rng.below(most);
        (0..n)
            .map(|_| {
                let others: Vec<_> = ["DE", "FR", "IT", "NL", "XX"]
                    .into_iter()
                    .filter(|c| *c != self.origin && self.rng.below(2) == 0)
                    .collect();
                let report_type = if self.chance(3) { 2 } else { 1 };
                DiagnosisKey { report_type, ..key(&mut self.rng, self.origin, &others, SystemClock.now()) }
            })
            .collect()
    }

    /// New keys, beside them known ones, revisions, conflicts, doubles and bad ones, by chance.
    fn mixed(&mut self, scene: &Scene, kind: u64) -> Result<Arc<Ready>> {
        let known = self.sent.clone();
        let mut keys = if kind == 6 && !known.is_empty() { Vec::new() } else { self.fresh(12) };
        let (good, plain) = (keys.clone(), kind > 12);
        for _ in 0..self.rng.below(if plain { 1 } else { 4 }) + u64::from(keys.is_empty()) {
            let Some(old) = self.pick(&known) else { continue };
            keys.push(match self.rng.below(if kind == 6 { 2 } else { 5 }) {
                0 | 1 => old,
                2 => DiagnosisKey { report_type: 1, ..old },
                3 => DiagnosisKey { report_type: 5, ..old },
                _ => DiagnosisKey { rolling_period: 1 + old.rolling_period % 144, ..old },
            });
        }
        if !plain && self.chance(3) {
            keys.extend(self.bad());
        }
        if !plain && self.chance(6) {
            keys.extend(keys.first().cloned());
        }
        for i in (1..keys.len()).rev() {
            keys.swap(i, self.rng.below(i as u64 + 1) as usize);
        }
        self.sent.extend(good);
        if self.sent.len() > 400 {
            self.sent.drain(..200);
        }
        let tag = self.tag();
        Ok(Arc::new(self.sign(scene, tag, keys, true)?))
    }

    fn bad(&mut self) -> Option<DiagnosisKey> {
        let key = self.fresh(1).pop()?;
        Some(match self.rng.below(6) {
            0 => DiagnosisKey { key_data: vec![1; 15].into(), ..key },
            1 => DiagnosisKey { rolling_period: 145, ..key },
            2 => DiagnosisKey { transmission_risk_level: 9, ..key },
            3 => DiagnosisKey { visited_countries: ["DE,FR"].into_iter().collect(), ..key },
            4 => DiagnosisKey {
                rolling_start_interval_number: key.rolling_start_interval_number - 3000,
                ..key
            },
            _ => DiagnosisKey {
                rolling_start_interval_number: key.rolling_start_interval_number + 3000,
                ..key
            },
        })
    }

    /// An earlier upload as it was, or in another order, or without the keys that were bad.
    fn again(&mut self, scene: &Scene) -> Result<Arc<Ready>> {
        let past = self.past.clone();
        let Some(old) = self.pick(&past) else { return self.mixed(scene, 19) };
        if old.refused.is_some() || self.chance(2) {
            return Ok(old);
        }
        let mut keys = old.upload.keys.clone();
        if self.chance(2) {
            keys.reverse();
        } else if keys.len() > 1 {
            keys.pop();
        }
        Ok(Arc::new(self.sign(scene, old.upload.tag.clone(), keys, true)?))
    }

    fn tag_conflict(&mut self, scene: &Scene) -> Result<Arc<Ready>> {
        let past = self.past.clone();
        let Some(old) = self.pick(&past) else { return self.mixed(scene, 19) };
        let keys = self.fresh(3);
        Ok(Arc::new(self.sign(scene, old.upload.tag.clone(), keys, true)?))
    }

    fn forged(&mut self, scene: &Scene) -> Result<Arc<Ready>> {
        let (tag, keys) = (self.tag(), self.fresh(5));
        Ok(Arc::new(self.sign(scene, tag, keys, false)?))
    }

    fn foreign(&mut self, scene: &Scene) -> Result<Arc<Ready>> {
        let (tag, mut keys) = (self.tag(), self.fresh(5));
        if let Some(first) = keys.first_mut() {
            first.origin = COUNTRIES.into_iter().find(|c| *c != self.origin).unwrap_or_default().into();
        }
        Ok(Arc::new(self.sign(scene, tag, keys, true)?))
    }

    fn refused(&mut self, scene: &Scene) -> Result<Arc<Ready>> {
        let tag = self.tag();
        let ready = self.sign(scene, tag, Vec::new(), true)?;
        Ok(Arc::new(if self.chance(2) {
            Ready { refused: Some("no-keys"), ..ready }
        } else {
            Ready { body: Bytes::from_static(b"\xff no keys"), refused: Some("body-unreadable"), ..ready }
        }))
    }

    fn sign(&mut self, scene: &Scene, tag: String, keys: Vec<DiagnosisKey>, signed: bool) -> Result<Ready> {
        let identity = scene.signing(self.origin)?;
        let mut covered = Canonical::of(&keys).bytes().to_vec();
        if !signed {
            covered.push(b'.');
        }
        Ok(Ready {
            body: efgs::encode_protobuf(&keys).into(),
            signature: identity.sign(&covered)?,
            refused: None,
            upload: Upload {
                origin: self.origin.to_owned(),
                tag,
                keys,
                signed,
                signer: identity.certificate.sha256(),
            },
        })
    }
}
