//! Certificates whose time is over: those of a country, and that of the server.
//!
//! Failures: certificates and registrations that ended, a server's certificate that ended, a key of another certificate.
//! Not here: revoked ones and X.509 v1 (`policies`, `commands`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use jiff::{SignedDuration, Timestamp};
use keyferry_runtime::clock::{Clock, SystemClock};
use keyferry_schemas::{
    network::Use,
    world::{Identity, Rng, World, key},
};
use keyferry_tests::{
    front::{Door, Front},
    hub::Hub,
    operator::{configuration, keyferry, prepare, write},
    role::{Role, address},
    wait::wait_until,
};
use openssl::pkey::{PKey, Private};

fn key_pair() -> PKey<Private> {
    PKey::from_rsa(openssl::rsa::Rsa::generate(2048).unwrap()).unwrap()
}

fn days_ago(days: i64) -> Timestamp {
    Timestamp::now() - SignedDuration::from_hours(24 * days)
}

fn expired(country: &str) -> Identity {
    let (from, until) = (days_ago(10).as_second(), days_ago(2).as_second());
    Identity::with_dates(country, "Ended", key_pair(), from, until).unwrap()
}

/// DE authenticates with an expired certificate, ES with one whose registration ended, FR signs with an expired one; IT
/// has nothing that ended.
fn world() -> World {
    let mut world = World::new(&["DE", "ES", "FR", "IT"], Timestamp::now()).unwrap();
    for (code, usage) in [("DE", Use::Authentication), ("FR", Use::Signing)] {
        let identity = expired(code);
        let until = world.document.agreements[0].until;
        let entry = world.register(&identity, usage, days_ago(100), until).unwrap();
        let nation = world.nations.get_mut(&code.parse().unwrap()).unwrap();
        match usage {
            Use::Authentication => nation.authentication = identity,
            _ => nation.signing = identity,
        }
        world.member_mut(code).unwrap().certificates.push(entry);
    }
    let es = world.member_mut("ES").unwrap();
    es.certificates.iter_mut().find(|c| c.usage == Use::Authentication).unwrap().until = days_ago(1);
    world
}

#[test]
fn what_has_expired_is_refused_and_named() {
    let front = Front::behind(Door::Tls, world()).unwrap();
    let mut rng = Rng::new(1);
    for (code, status, why) in [
        ("DE", 403, "client-certificate-not-in-force"),
        ("ES", 403, "client-certificate-not-in-force"),
        ("FR", 400, "signing-certificate-not-in-force"),
        ("IT", 201, ""),
    ] {
        let answer = front.send(code, "tag", &[key(&mut rng, code, &[], SystemClock.now())]).unwrap();
        assert_eq!((answer.status, answer.code()), (status, why), "{code}: {answer:?}");
    }
    // Only what FR has signed got as far as the processor.
    let entries = |code| front.hub.ledger(code).unwrap().len();
    assert_eq!(["DE", "ES", "FR", "IT"].map(entries), [0, 0, 1, 1]);
    assert!(front.hub.delivered("IT").unwrap().is_empty());

    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().display().to_string();
    prepare(folder.path(), &front.hub.world);
    let checked = keyferry(&format!("network check {dir}/network.yaml --anchor {dir}/anchor.pem"));
    assert_eq!((checked.code, checked.err.as_str()), (Some(0), ""), "{checked:?}");
    let shown = keyferry(&format!(
        "network show --bootstrap {} --anchor {dir}/anchor.pem",
        front.hub.broker.bootstrap_servers()
    ));
    assert_eq!((shown.code, shown.err.as_str()), (Some(0), ""), "{shown:?}");
    let short = |identity: &Identity| hex::encode(&identity.certificate.sha256()[..8]);
    let world = &front.hub.world;
    let ends = |identity: &Identity| identity.certificate.not_after();
    let of_es = &world.document.members[1].certificates[0];
    assert_eq!(of_es.usage, Use::Authentication);
    for (code, what, ended) in [
        ("DE", "authentication certificate", ends(&world.nation("DE").unwrap().authentication)),
        ("ES", "registration of the authentication certificate", of_es.until.into()),
        ("FR", "signing certificate", ends(&world.nation("FR").unwrap().signing)),
    ] {
        let nation = world.nation(code).unwrap();
        let name = short(if code == "FR" { &nation.signing } else { &nation.authentication });
        let day = ended.day().date();
        let line = format!("{code}: the {what} {name} expired on {day}\n");
        assert!(checked.out.contains(&line), "{line}{}", checked.out);
        let row = shown.out.lines().find(|line| line.contains(&name)).unwrap();
        assert!(row.starts_with(code) && row.trim_end().ends_with("expired"), "{row}");
    }
    assert_eq!(checked.out.matches(" expired on ").count(), 3, "{}", checked.out);
    assert_eq!(
        shown.out.lines().filter(|line| line.trim_end().ends_with("expired")).count(),
        3,
        "{}",
        shown.out
    );
}

#[test]
fn a_server_certificate_that_has_expired_is_used_with_a_warning() {
    let hub = Hub::start(World::new(&["DE", "FR"], Timestamp::now()).unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().display().to_string();
    prepare(folder.path(), &hub.world);
    write(folder.path(), "roles.yaml", configuration(&dir, hub.broker.bootstrap_servers(), "anchor"));
    let check = || keyferry(&format!("gateway --config {dir}/roles.yaml --check-config"));
    assert_eq!(check().err, "");

    let server = expired("EU");
    write(folder.path(), "server.pem", server.certificate_pem().unwrap());
    let foreign = check();
    assert_eq!((foreign.code, foreign.err.lines().count()), (Some(2), 1), "{foreign:?}");
    assert!(foreign.err.contains("http.tls: certificate and key can not be used"), "{foreign:?}");

    write(folder.path(), "server.key", server.key_pem().unwrap());
    let warned = check();
    assert_eq!((warned.code, warned.err.lines().count()), (Some(0), 1), "{warned:?}");
    let warning = format!("http.tls: the certificate {dir}/server.pem has expired on ");
    assert!(warned.err.starts_with(&format!("warning: {warning}")), "{warned:?}");
    assert!(warned.out.ends_with("roles.yaml is good\n"), "{warned:?}");

    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut role = Role::start("gateway", folder.path(), &hub, &address());
    role.wait_until_ready(&runtime);
    wait_until("the warning", || role.says(&warning).len() == 1);
    assert!(role.says(&warning)[0].contains("WARN"), "{:?}", role.says(&warning));
}
