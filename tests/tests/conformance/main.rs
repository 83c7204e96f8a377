//! The contract of EFGS, row by row: every request that a national backend may make, its answer, and what the other
//! countries receive for it. Through gateway, processor, topics and distribution service, over real HTTP: each row once
//! over mutual TLS and once through the headers of a proxy.
//!
//! Operations: uploads in both encodings, one after another; downloads and audits of what came of them. Failures: all
//! that the contract has a status for; a processor that is not there, a broker that is away.
//! Not here: callbacks; uploads at the same time (`uploads.rs`); how clients go on (`clients`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod deliveries;
mod downloads;
mod identity;
mod keys;
mod row;
mod scene;
mod undecided;
mod uploads;

use std::time::Duration;

use deliveries::Deliveries;
use keyferry_producers::GatewayConfig;
use keyferry_tests::{exchange::Exchange, front::Door};
use row::Row;
use scene::{Scene, world};
use undecided::Undecided;

/// How long for what has to come.
const PATIENCE: Duration = Duration::from_secs(60);

type Table = fn(&Scene) -> Vec<Row>;

/// Each table is made when its turn has come. Some rows build on those before them; the others are sent some at a time.
const UPLOADS: [(Table, Order); 9] = [
    (uploads::tags, Order::Strict),
    (uploads::headers, Order::Any),
    (uploads::bodies, Order::Any),
    (uploads::signatures, Order::Any),
    (identity::certificates, Order::Any),
    (identity::spellings, Order::Any),
    (keys::fields, Order::Any),
    (keys::again, Order::Strict),
    (uploads::sizes, Order::Strict),
];

#[derive(Clone, Copy, PartialEq)]
enum Order {
    Strict,
    Any,
}

/// Sends all rows; what is wrong with them.
fn run(rows: &[Row], order: Order, scene: &Scene, exchange: &Exchange) -> Vec<String> {
    // Fewer than a member may send at a time.
    let lanes = if order == Order::Any { 6 } else { 1 };
    let (door, lane) = (scene.door, rows.len().div_ceil(lanes).max(1));
    let failures =
        |rows: &[Row]| rows.iter().filter_map(|row| row.run(door, exchange).err()).collect::<Vec<_>>();
    std::thread::scope(|scope| {
        let lanes: Vec<_> = rows.chunks(lane).map(|rows| scope.spawn(move || failures(rows))).collect();
        lanes.into_iter().flat_map(|lane| lane.join().unwrap()).collect()
    })
}

#[test]
fn every_row_of_the_contract_holds_behind_both_doors() {
    let (world, people) = world();
    // What a wait that is too short leads to is not asked here, nor who sends too much.
    let config = GatewayConfig {
        decision_wait_ms: 15_000,
        uploads_per_minute_per_member: 60_000,
        ..GatewayConfig::default()
    };
    let mut exchange = Exchange::start(world, config).unwrap();
    exchange.process().unwrap();
    let (mut failures, mut rows) = (Vec::new(), 0);
    let mut deliveries = Deliveries::default();
    for door in [Door::Proxy, Door::Tls] {
        let scene = Scene::new(door, &exchange.hub.world, &people);
        for (table, order) in UPLOADS {
            let table = table(&scene);
            failures.extend(run(&table, order, &scene, &exchange));
            table.iter().for_each(|row| deliveries.expect(row));
            rows += table.len();
        }
    }
    failures.extend(deliveries.topics(&exchange));

    for door in [Door::Proxy, Door::Tls] {
        let scene = Scene::new(door, &exchange.hub.world, &people);
        for code in ["FR", "NL", "DE"] {
            // What is missing already is not waited for.
            let patience = if failures.is_empty() { PATIENCE } else { Duration::ZERO };
            let pages =
                downloads::walk(&scene, &exchange, code, patience, |pages| deliveries.are_in(code, pages));
            if !deliveries.are_in(code, &pages) {
                failures.push(format!("{door:?}: {code} does not download all: {} batches", pages.len()));
            }
            failures.extend(deliveries.downloads(code, &pages));
            let proven: usize = pages
                .iter()
                .map(|page| {
                    downloads::audit(&scene, &exchange, code, page).unwrap_or_else(|e| {
                        failures.push(e);
                        0
                    })
                })
                .sum();
            if proven == 0 {
                failures.push(format!("{door:?}: {code} was shown no proof"));
            }
            if code == "FR" && pages.len() > 1 {
                let table = downloads::table(&scene, &pages);
                failures.extend(run(&table, Order::Any, &scene, &exchange));
                rows += table.len();
                failures
                    .extend(pages.iter().filter_map(|p| downloads::encodings(&scene, &exchange, p).err()));
                failures.extend(successor(&scene, &exchange, &mut deliveries, &pages));
            }
        }
    }
    assert!(failures.is_empty(), "{} of {rows} rows:\n{}", failures.len(), failures.join("\n"));
}

/// Who polls the last tag is told the next one once there is one.
fn successor(
    s: &Scene,
    exchange: &Exchange,
    deliveries: &mut Deliveries,
    pages: &[downloads::Page],
) -> Option<String> {
    let last = &pages.last().unwrap().tag;
    let row = s.de("one more", s.keys::<1>()).created();
    if let Err(e) = row.run(s.door, exchange) {
        return Some(e);
    }
    deliveries.expect(&row);
    let all = downloads::walk(s, exchange, "FR", PATIENCE, |all| all.len() > pages.len());
    let (day, number) = last.split_once('-').unwrap();
    let next = format!("{day}-{}", number.parse::<u64>().unwrap() + 1);
    if all.len() == pages.len() {
        return Some(format!("nothing comes after {last}"));
    }
    let told = downloads::download(s, exchange, "FR", Some(last)).header("nextBatchTag").to_owned();
    let fits = told == all[pages.len()].tag && (told == next || told.ends_with("-1"));
    (!fits).then(|| format!("after {last} comes {told:?}"))
}

/// 503 is no refusal: sending again is safe and gets the answer, whether it was the decision that did not come in time
/// or the broker that could not be reached.
#[test]
fn undecided_and_unreachable_are_503_and_sent_again() {
    let (world, people) = world();
    // Longer than the gateway needs to see that there is no broker: two seconds.
    let config = GatewayConfig { decision_wait_ms: 4000, ..GatewayConfig::default() };
    let mut exchange = Exchange::start(world, config).unwrap();
    let mut doors = [Door::Proxy, Door::Tls].map(|door| {
        let scene = Scene::new(door, &exchange.hub.world, &people);
        Undecided::new(&scene)
    });
    let mut failures = at_both(&mut doors, |door| door.ask(&exchange));
    failures.extend(at_both(&mut doors, |door| door.ask_for_receipt(&exchange)));
    exchange.process().unwrap();
    failures.extend(at_both(&mut doors, |door| door.learn(&exchange)));
    exchange.hub.broker.kill().unwrap();
    failures.extend(at_both(&mut doors, |door| door.miss_broker(&exchange)));
    exchange.hub.broker.start_again().unwrap();
    failures.extend(at_both(&mut doors, |door| door.insist(&door.unreachable, &exchange)));

    let mut deliveries = Deliveries::default();
    doors.iter().flat_map(Undecided::rows).for_each(|row| deliveries.expect(row));
    failures.extend(deliveries.topics(&exchange));
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Does this at both doors at the same time; what is wrong.
fn at_both(
    doors: &mut [Undecided; 2],
    what: impl Fn(&mut Undecided) -> Result<(), String> + Sync,
) -> Vec<String> {
    std::thread::scope(|scope| {
        let lanes = doors.each_mut().map(|door| scope.spawn(|| what(door)));
        lanes.into_iter().filter_map(|lane| lane.join().unwrap().err()).collect()
    })
}
