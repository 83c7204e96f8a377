//! When certificates and signing keys end, as metrics: by the network document, kept up to date as time passes.
//!
//! What an alert needs to know is not when a certificate ends but when its country would be left without one.

use std::collections::BTreeSet;

use keyferry_schemas::{
    country::Country,
    network::{LeftOut, MemberState, Network, Use},
    time::Millis,
};
use prometheus::{Gauge, GaugeVec, IntGaugeVec};

use crate::{exit::Fatal, metrics};

/// The metrics of one process.
pub(crate) struct Expiry {
    certificates: GaugeVec,
    left_out: IntGaugeVec,
    signing_keys: Gauge,
    /// What the first two show, so that it can be taken back.
    shown: [BTreeSet<(Country, Use)>; 2],
}

impl Expiry {
    /// # Errors
    /// A metric of the same name is something else already: a mistake in the program.
    pub(crate) fn new() -> Result<Self, Fatal> {
        let labels = ["country", "use"];
        let help = "When a country will have no certificate in force for this use, successors that are registered \
            counted in; a past time if it has none now. No series if it never had one, or has left.";
        let certificates =
            metrics::float_gauge("keyferry_certificate_expiry_timestamp_seconds", help, &labels)?;
        let help = "Certificates in the network document in force that do not count, because no trust anchor of this \
            configuration has signed their text.";
        let left_out = metrics::gauge("keyferry_certificates_left_out", help, &labels)?;
        let help = "When the hub will have no signing key in force by the network document, successors counted in; \
            a past time if it has none now, 0 if it never had one.";
        let signing_keys = metrics::float_gauge("keyferry_signing_key_expiry_timestamp_seconds", help, &[])?;
        let signing_keys = signing_keys.with_label_values::<&str>(&[]);
        Ok(Self { certificates, left_out, signing_keys, shown: Default::default() })
    }

    /// Shows what `network` says at `now`.
    pub(crate) fn show(&mut self, network: &Network, now: Millis) {
        let before = std::mem::take(&mut self.shown);
        let [certified, counted] = &mut self.shown;
        for country in network.countries().filter(|c| network.state(*c, now) != MemberState::Left) {
            for usage in Use::ALL {
                let labels = [country.as_str(), usage.name()];
                let of_these = |l: &&LeftOut| (l.country, l.usage) == (country, usage);
                let left_out = network.left_out().iter().filter(of_these).count();
                self.left_out.with_label_values(&labels).set(i64::try_from(left_out).unwrap_or(i64::MAX));
                counted.insert((country, usage));
                if let Some(until) = network.certified_until(country, usage, now) {
                    self.certificates.with_label_values(&labels).set(seconds(until));
                    certified.insert((country, usage));
                }
            }
        }
        // They are there, since they were shown.
        for (country, usage) in before[0].difference(certified) {
            let _ = self.certificates.remove_label_values(&[country.as_str(), usage.name()]);
        }
        for (country, usage) in before[1].difference(counted) {
            let _ = self.left_out.remove_label_values(&[country.as_str(), usage.name()]);
        }
        self.signing_keys.set(network.signs_until(now).map_or(0.0, seconds));
    }
}

fn seconds(at: Millis) -> f64 {
    at.0 as f64 / 1000.0
}

/// When the server's own certificate ends.
///
/// # Errors
/// As [`Expiry::new`].
pub(crate) fn server_certificate() -> Result<Gauge, Fatal> {
    let help = "When the certificate with which this process serves TLS ends.";
    let gauge = metrics::float_gauge("keyferry_server_certificate_expiry_timestamp_seconds", help, &[])?;
    Ok(gauge.with_label_values::<&str>(&[]))
}

#[cfg(test)]
mod tests {
    use jiff::{SignedDuration, Timestamp};
    use keyferry_schemas::{
        network::StateSince,
        time::MILLIS_PER_DAY,
        world::{Algorithm, Identity, World},
    };
    use prometheus::core::Collector;

    use super::*;

    const NOW: Timestamp = Timestamp::constant(1_700_000_000, 0);

    #[test]
    fn what_is_shown_follows_the_document_and_the_time() {
        let day = |n: i64| Millis::from(NOW).plus(n * MILLIS_PER_DAY);
        let at = |n: i64| day(n).timestamp();
        let mut world = World::new(&["DE", "FR"], NOW).unwrap();
        let mut expiry = Expiry::new().unwrap();
        let certificates = expiry.certificates.clone();
        let signing = |country: &str| {
            let series = certificates.collect();
            let of = |l: &&prometheus::proto::Metric| {
                let values: Vec<_> = l.get_label().iter().map(|l| l.value().to_owned()).collect();
                values == [country, "signing"]
            };
            let found = series[0].get_metric().iter().find(of);
            found.map(|m| (m.get_gauge().get_value() * 1000.0) as i64)
        };
        expiry.show(&world.network().unwrap(), day(0));
        assert_eq!(signing("DE"), Some(day(300).0));
        assert_eq!(certificates.collect()[0].get_metric().len(), 4, "none for callbacks, as there is none");
        assert_eq!(expiry.signing_keys.get(), day(300).0 as f64 / 1000.0);

        // Its successor is registered, and begins too late.
        let next =
            Identity::new("DE", "Next", Algorithm::P256, NOW + SignedDuration::from_hours(24 * 200)).unwrap();
        let entry = world.register(&next, Use::Signing, at(310), at(400)).unwrap();
        world.member_mut("DE").unwrap().certificates.push(entry);
        expiry.show(&world.network().unwrap(), day(0));
        assert_eq!(signing("DE"), Some(day(300).0));
        expiry.show(&world.network().unwrap(), day(305));
        assert_eq!(signing("DE"), Some(day(300).0), "it has none now");
        expiry.show(&world.network().unwrap(), day(310));
        assert_eq!(signing("DE"), Some(day(400).0), "by the passing of time alone");
        world.member_mut("DE").unwrap().certificates.last_mut().unwrap().from = at(290);
        expiry.show(&world.network().unwrap(), day(0));
        assert_eq!(signing("DE"), Some(day(400).0));

        world.member_mut("DE").unwrap().certificates.last_mut().unwrap().anchor_signature.clear();
        expiry.show(&world.network().unwrap(), day(0));
        assert_eq!(signing("DE"), Some(day(300).0));
        let left_out = |usage: &str| expiry.left_out.with_label_values(&["DE", usage]).get();
        assert_eq!((left_out("signing"), left_out("authentication")), (1, 0));

        world.member_mut("FR").unwrap().states.push(StateSince { state: MemberState::Left, from: NOW });
        expiry.show(&world.network().unwrap(), day(0));
        assert_eq!((signing("FR"), signing("DE")), (None, Some(day(300).0)));
        assert_eq!(expiry.left_out.collect()[0].get_metric().len(), Use::ALL.len(), "of DE");
    }
}
