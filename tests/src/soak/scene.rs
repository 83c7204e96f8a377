//! Where it plays: a hub on real Kafka, four countries with different policies, and a network document that changes.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use anyhow::{Context, Result};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use ed25519_dalek::SigningKey;
use jiff::{SignedDuration, Timestamp};
use keyferry_runtime::clock::{Clock as _, SystemClock};
use keyferry_schemas::{
    cms,
    network::{
        Agreement, DataClassName, Document, InvalidKeys, Member, MemberState, OriginProof, ReportTypeName,
        Routing, SigningKeyEntry, StateSince, Use,
    },
    records::{Hash, NetworkRecord},
    topics,
    world::{Algorithm, HUB_KEY, Identity, World},
};

use crate::{
    hub::Hub,
    trio::{TOPICS, Trio},
};

/// The countries. Each receives in another way.
pub const COUNTRIES: [&str; 4] = ["DE", "FR", "IT", "NL"];
/// The hub's other signing key.
pub const OTHER_KEY: &str = "hub-2";

/// A hub and its countries.
pub struct Scene {
    /// The hub. Its own idea of the document is the first version.
    pub hub: Hub,
    /// What the hub stands on, if that is three brokers.
    pub trio: Option<Mutex<Trio>>,
    /// The hub's second key.
    pub other_key: SigningKey,
    changing: Mutex<Changing>,
}

/// What changes while uploads flow.
struct Changing {
    document: Document,
    versions: BTreeMap<i64, (Document, Instant)>,
    /// With what each country signs now.
    signing: BTreeMap<String, Identity>,
}

impl Scene {
    /// Starts the broker, if there are not three already, and publishes the first version. Takes some seconds.
    ///
    /// # Errors
    /// The broker does not start.
    pub fn start(trio: Option<Trio>) -> Result<Self> {
        let now = moment();
        let mut world = World::new(&COUNTRIES, now)?;
        let other_key = SigningKey::from_bytes(&[9; 32]);
        policies(&mut world)?;
        let versions = BTreeMap::from([(world.document.version, (world.document.clone(), Instant::now()))]);
        let signing = world.nations.iter().map(|(c, n)| (c.to_string(), n.signing.clone())).collect();
        let changing = Mutex::new(Changing { document: world.document.clone(), versions, signing });
        let hub = match &trio {
            None => Hub::start(world)?,
            Some(trio) => {
                let hub = Hub::over(&trio.bootstrap(), world, TOPICS)?;
                trio.await_whole();
                hub
            }
        };
        Ok(Self { hub, trio: trio.map(Mutex::new), other_key, changing })
    }

    fn lock(&self) -> MutexGuard<'_, Changing> {
        // Nothing under this lock leaves it half changed.
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the document and publishes the next version.
    ///
    /// # Errors
    /// The broker does not take it.
    pub fn publish(&self, change: impl FnOnce(&mut Document) -> Result<()>) -> Result<i64> {
        let mut changing = self.lock();
        let mut document = changing.document.clone();
        change(&mut document)?;
        document.version += 1;
        let text = serde_saphyr::to_string(&document)?.into_bytes();
        let anchor = &self.hub.world.anchor;
        let record = NetworkRecord {
            network: document.network.clone(),
            version: document.version,
            signature: cms::sign(&text, &anchor.key, anchor.certificate.x509())?.into(),
            document: text.into(),
        };
        let version = document.version;
        changing.versions.insert(version, (document.clone(), Instant::now()));
        changing.document = document;
        self.hub.put(topics::NETWORK, self.hub.codec.encode(&record))?;
        Ok(version)
    }

    /// Every version that was published.
    #[must_use]
    pub fn versions(&self) -> BTreeMap<i64, Document> {
        self.lock().versions.iter().map(|(version, (document, _))| (*version, document.clone())).collect()
    }

    /// Those that were the newest at some moment from `since` on: any of them a role may have applied since.
    #[must_use]
    pub fn versions_since(&self, since: Instant) -> Vec<Document> {
        let changing = self.lock();
        let first = changing.versions.values().rposition_before(since);
        changing.versions.values().skip(first).map(|(document, _)| document.clone()).collect()
    }

    /// With what a country signs its uploads now.
    ///
    /// # Errors
    /// There is no such country.
    pub fn signing(&self, country: &str) -> Result<Identity> {
        self.lock().signing.get(country).cloned().context("a country")
    }

    /// SHA-256 of the certificate with which a country comes.
    ///
    /// # Errors
    /// There is no such country.
    pub fn client(&self, country: &str) -> Result<Hash> {
        Ok(self.hub.world.nation(country)?.authentication.certificate.sha256())
    }

    /// Sets the state of a member from now on.
    ///
    /// # Errors
    /// The broker does not take it.
    pub fn set_state(&self, country: &str, state: MemberState) -> Result<i64> {
        self.publish(|d| {
            member(d, country)?.states.push(StateSince { state, from: moment() });
            Ok(())
        })
    }

    /// Gives a country another certificate to sign with, and revokes the one before. The country signs with the new one
    /// at once, so that some uploads may come too early, and then with the new one only.
    ///
    /// # Errors
    /// The broker does not take it.
    pub fn replace_signing(&self, country: &str) -> Result<i64> {
        let now = moment();
        let new = Identity::new(country, "Batch signing", Algorithm::P256, now)?;
        let until = now.saturating_add(SignedDuration::from_hours(24 * 100))?;
        let registered = self.hub.world.register(&new, Use::Signing, now, until)?;
        let version = self.publish(|d| {
            let certificates = &mut member(d, country)?.certificates;
            let old = certificates.iter_mut().filter(|c| c.usage == Use::Signing && c.revoked.is_none());
            old.for_each(|c| c.revoked = Some(now));
            certificates.push(registered);
            Ok(())
        })?;
        self.lock().signing.insert(country.to_owned(), new);
        Ok(version)
    }

    /// Whether the first signing key of the hub is in force, or the other one.
    ///
    /// # Errors
    /// The broker does not take it.
    pub fn rotate_hub_key(&self) -> Result<i64> {
        let now = moment();
        let far = now.saturating_add(SignedDuration::from_hours(24 * 100))?;
        let keys = [(HUB_KEY, &self.hub.world.hub_key), (OTHER_KEY, &self.other_key)];
        self.publish(|d| {
            let current = d.signing_keys.iter().find(|k| k.until > now).map(|k| k.id.clone());
            let next = keys.iter().find(|(id, _)| Some(*id) != current.as_deref()).context("two keys")?;
            // A key that was in force before keeps its past: batches that it signed have to verify.
            d.signing_keys.iter_mut().filter(|k| k.until > now).for_each(|k| k.until = now);
            let from = d.signing_keys.iter().filter(|k| k.id == next.0).map(|k| k.from).min();
            d.signing_keys.retain(|k| k.id != next.0);
            d.signing_keys.push(SigningKeyEntry {
                id: next.0.into(),
                public_key: STANDARD.encode(next.1.verifying_key().as_bytes()),
                from: from.unwrap_or(now),
                until: far,
            });
            Ok(())
        })
    }

    /// Ends the agreement with this number now, or puts it in force again.
    ///
    /// # Errors
    /// The broker does not take it.
    pub fn set_agreement(&self, id: i32, in_force: bool) -> Result<i64> {
        let now = moment();
        let until = if in_force { now.saturating_add(SignedDuration::from_hours(24 * 100))? } else { now };
        self.publish(|d| {
            d.agreements.iter_mut().find(|a| a.id == id).context("an agreement")?.until = until;
            Ok(())
        })
    }
}

/// Now, in whole milliseconds: no upload may come between a date and what Kafka can say of it.
fn moment() -> Timestamp {
    SystemClock.now().timestamp()
}

trait Before {
    fn rposition_before(self, since: Instant) -> usize;
}

impl<'a, I: Iterator<Item = &'a (Document, Instant)>> Before for I {
    /// How many came before the one that was the newest at `since`.
    fn rposition_before(self, since: Instant) -> usize {
        self.take_while(|(_, at)| *at <= since).count().saturating_sub(1)
    }
}

fn member<'d>(document: &'d mut Document, country: &str) -> Result<&'d mut Member> {
    document.members.iter_mut().find(|m| m.country.as_str() == country).context("a member")
}

/// DE is as EFGS was. FR takes parts, and leaves bad keys out. IT takes what names it, and not all of that. NL takes
/// whole uploads only, and nothing from IT.
fn policies(world: &mut World) -> Result<()> {
    let fr = world.member_mut("FR")?;
    (fr.invalid_keys, fr.origin_proof) = (InvalidKeys::RejectKey, OriginProof::Hub);
    let it = world.member_mut("IT")?;
    (it.routing, it.origin_proof) = (Routing::Visited, OriginProof::Hub);
    it.invalid_keys = InvalidKeys::RejectKey;
    let codes = |list: &[&str]| list.iter().map(|c| Ok(c.parse()?)).collect::<Result<Vec<_>>>();
    let first = world.document.agreements.first_mut().context("an agreement")?;
    first.parties = codes(&["DE", "FR", "NL"])?;
    let one_way = |id, from: &[&str], to: &[&str]| {
        anyhow::Ok(Agreement {
            id,
            parties: Vec::new(),
            origins: codes(from)?,
            destinations: codes(to)?,
            data_class: DataClassName::Pseudonymous,
            ..first.clone()
        })
    };
    let mut into_it = one_way(2, &["DE", "FR", "NL"], &["IT"])?;
    into_it.report_types = vec![ReportTypeName::ConfirmedTest, ReportTypeName::Revoked];
    let from_it = one_way(3, &["IT"], &["DE", "FR"])?;
    world.document.agreements.extend([into_it, from_it]);
    Ok(())
}
