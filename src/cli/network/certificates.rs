//! `network certificates`: where each stands, and which countries will be without one.

use std::{
    cmp::Reverse,
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;
use keyferry_runtime::{
    clock::{Clock as _, SystemClock},
    exit::Fatal,
};
use keyferry_schemas::{
    network::{MemberState, Network, Registered},
    time::{MILLIS_PER_DAY, Millis},
};
use serde_json::{Value, json};

use super::{
    history,
    show::{day, days, short},
};
use crate::cli::{KafkaArgs, files, out, table};

/// Whose certificates to list.
#[derive(Args)]
pub struct Certificates {
    /// A document (YAML) instead of the version in force; if FILE.cms is there, it has to hold
    file: Option<PathBuf>,
    #[command(flatten)]
    pub(super) kafka: KafkaArgs,
    /// Ends with exit code 5 if a country will be without a certificate for a use within so many days
    #[arg(long, value_name = "DAYS")]
    within: Option<u32>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Certificates) -> Result<(), Fatal> {
    let network = match &args.file {
        Some(file) => read(file, args)?,
        None => {
            let newest = history::read(&args.kafka.connect()?)?.pop().ok_or_else(history::none)?;
            newest.network
        }
    };
    let now = SystemClock.now();
    let listed = sorted(&network, now);
    if args.json {
        let all: Vec<_> = listed.iter().map(|r| as_json(&network, r, now)).collect();
        out(Value::from(all))?;
    } else {
        out(render(&network, &listed, now))?;
    }
    for left_out in network.left_out() {
        let (country, usage, fault) = (left_out.country, left_out.usage.name(), &left_out.fault);
        eprintln!("{country}: a {usage} certificate does not count: {fault}");
    }
    let due = args.within.map_or_else(Vec::new, |within| due(&network, now, i64::from(within)));
    if due.is_empty() { Ok(()) } else { Err(Fatal::due(due.join("; "))) }
}

fn read(file: &Path, args: &Certificates) -> Result<Arc<Network>, Fatal> {
    let anchors = args.kafka.file.anchors()?;
    let read = if files::beside(file, ".cms").exists() {
        Network::open(&files::signed(file, None)?, &anchors)
    } else {
        Network::read(&files::read("the network document", file)?.into(), &anchors)
    };
    read.map(Arc::new).map_err(|e| files::untrusted(file, &e))
}

/// What ends first at the top; behind it what has ended, the last one first.
fn sorted(network: &Network, now: Millis) -> Vec<&Registered> {
    let mut listed: Vec<_> = network.certificates().iter().collect();
    listed.sort_by_key(|r| {
        let end = r.term().end();
        let ended = end <= now;
        (ended, if ended { Millis(0) } else { end }, Reverse(end), r.country, r.usage)
    });
    listed
}

fn render(network: &Network, listed: &[&Registered], now: Millis) -> String {
    let rows: Vec<_> = listed
        .iter()
        .map(|r| {
            let (state, term) = (network.certificate_state(r, now), r.term());
            let left = if now < term.end() { days(r, now).to_string() } else { "-".into() };
            let certificate = &r.certificate;
            [
                r.country.to_string(),
                r.usage.name().into(),
                short(r),
                certificate.algorithm(),
                state.name().into(),
                day(term.from),
                day(term.until),
                left,
                r.revoked.map_or_else(|| "-".into(), day),
                certificate.subject(),
            ]
        })
        .collect();
    let head =
        ["country", "use", "sha256", "key", "state", "from", "until", "days left", "revoked", "subject"];
    let about = format!("network {}, version {}", network.name(), network.version());
    format!("{about}\n\n{}", table(head, &rows))
}

fn as_json(network: &Network, r: &Registered, now: Millis) -> Value {
    let (term, certificate) = (r.term(), &r.certificate);
    json!({
        "country": r.country.as_str(),
        "use": r.usage.name(),
        "sha256": hex::encode(certificate.sha256()),
        "serial": certificate.serial_number(),
        "subject": certificate.subject(),
        "key": certificate.algorithm(),
        "state": network.certificate_state(r, now).name(),
        "from": term.from.to_string(),
        "until": term.until.to_string(),
        "revoked": r.revoked.map(|at| at.to_string()),
        "days_left": (now < term.end()).then(|| days(r, now)),
    })
}

/// A line for each country and use that will be without a certificate within so many days, or is. What follows without
/// a gap counts; who has left needs none.
fn due(network: &Network, now: Millis, within_days: i64) -> Vec<String> {
    let uses: BTreeSet<_> = network.certificates().iter().map(|r| (r.country, r.usage)).collect();
    let limit = now.plus(within_days.saturating_mul(MILLIS_PER_DAY));
    uses.into_iter()
        .filter(|(country, _)| network.state(*country, now) != MemberState::Left)
        .filter_map(|(country, usage)| {
            Some((country, usage.name(), network.certified_until(country, usage, now)?))
        })
        .filter(|(_, _, until)| *until <= limit)
        .map(|(country, usage, until)| {
            let on = day(until);
            if until <= now {
                format!("{country} has had no {usage} certificate in force since {on}")
            } else {
                format!("{country} has no {usage} certificate in force from {on} on")
            }
        })
        .collect()
}

#[cfg(test)]
#[cfg(feature = "embedded-broker")]
mod tests {
    use jiff::Timestamp;
    use keyferry_schemas::{
        network::{StateSince, Use},
        world::{Algorithm, Identity, World},
    };

    use super::*;

    const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

    fn day_of(n: i64) -> Timestamp {
        Millis::from(NOW).plus(n * MILLIS_PER_DAY).timestamp()
    }

    /// DE has to sign with: one that ends in 20 days, one that follows it, one that was revoked. FR's ended.
    fn world() -> World {
        let mut world = World::new(&["DE", "FR"], NOW).unwrap();
        let mut register = |country: &str, from: i64, until: i64, revoked: Option<i64>| {
            let identity = Identity::new(country, "More", Algorithm::P256, NOW).unwrap();
            let mut entry = world.register(&identity, Use::Signing, day_of(from), day_of(until)).unwrap();
            entry.revoked = revoked.map(day_of);
            world.member_mut(country).unwrap().certificates.push(entry);
        };
        register("DE", -10, 20, None);
        register("DE", 20, 90, None);
        register("DE", -10, 200, Some(-1));
        register("FR", -10, -2, None);
        for member in &mut world.document.members {
            let first = member.certificates.iter().position(|c| c.usage == Use::Signing).unwrap();
            member.certificates.remove(first);
        }
        world
    }

    #[test]
    fn what_ends_first_is_at_the_top_and_what_has_ended_at_the_bottom() {
        let (network, now) = (world().network().unwrap(), NOW.into());
        let listed = sorted(&network, now);
        let text = render(&network, &listed, now);
        let rows: Vec<Vec<_>> = text.lines().skip(3).map(|l| l.split_whitespace().collect()).collect();
        let of = |columns: [usize; 5]| rows.iter().map(|r| columns.map(|c| r[c])).collect::<Vec<_>>();
        // Country, use, state, days left, revoked.
        assert_eq!(
            of([0, 1, 5, 8, 9]),
            [
                ["DE", "signing", "retiring", "20", "-"],
                ["DE", "signing", "pending", "90", "-"],
                ["DE", "authentication", "active", "300", "-"],
                ["FR", "authentication", "active", "300", "-"],
                ["DE", "signing", "revoked", "-", "2027-01-14"],
                ["FR", "signing", "expired", "-", "-"],
            ]
        );
        assert!(text.contains("EC P-256") && text.contains("C=DE, O=Keyferry demo, CN=More"), "{text}");
        let json = as_json(&network, listed[0], now);
        assert_eq!((&json["state"], &json["days_left"]), (&"retiring".into(), &20.into()));
        assert_eq!(json["sha256"].as_str().unwrap().len(), 64);
        assert_eq!(as_json(&network, listed[5], now)["days_left"], Value::Null);
    }

    #[test]
    fn due_is_what_has_no_successor_in_time() {
        let mut world = world();
        let due_within = |world: &World, days| due(&world.network().unwrap(), NOW.into(), days);
        let fr = "FR has had no signing certificate in force since 2027-01-13";
        assert_eq!(due_within(&world, 30), [fr], "DE's successor begins when the other ends");
        let de = "DE has no signing certificate in force from 2027-04-15 on";
        assert_eq!(due_within(&world, 89), [fr]);
        assert_eq!(due_within(&world, 90), [de, fr]);
        let successor = |c: &&mut keyferry_schemas::network::CertificateEntry| c.until == day_of(90);
        let of_de = &mut world.member_mut("DE").unwrap().certificates;
        of_de.iter_mut().find(successor).unwrap().from = day_of(21);
        assert_eq!(due_within(&world, 20).len(), 2, "a day without one");
        assert_eq!(due_within(&world, 19), [fr]);
        let left = StateSince { state: MemberState::Left, from: NOW };
        world.member_mut("FR").unwrap().states.push(left);
        assert!(due_within(&world, 19).is_empty());
    }
}
