//! Around midnight no batch is skipped, repeated or misdated, whichever way a client walks, and wherever it starts.
//!
//! Two kinds of clients: one follows `nextBatchTag`, one computes `N + 1` and goes to the next day where there is none.
//! A client that computes may leave a day only when there is a batch of a later one and still none of this.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use axum::Router;
use bytes::Bytes;
use common::{
    DAY, HOUR, NOON,
    web::{Answer, Service},
};
use jiff::{ToSpan, civil::Date};
use keyferry_schemas::{
    efgs::{self, Encoding},
    time::Millis,
    world::Rng,
};
use keyferry_sinks::tag::date_of;

/// 2020-10-23T00:00:00Z
const MIDNIGHT: Millis = Millis(NOON.0 - 12 * HOUR);
const MS: i64 = 1;

/// The day this many days after the first one.
fn day(n: i64) -> Date {
    date_of(MIDNIGHT).checked_add(n.days()).unwrap()
}

fn tag(day: Date, number: u64) -> String {
    format!("{}-{number}", day.strftime("%Y%m%d"))
}

/// The data of the keys in an answer.
fn data(answer: &Answer) -> Vec<Bytes> {
    let keys = efgs::decode(Encoding::Protobuf, answer.body.clone()).unwrap();
    keys.into_iter().map(|key| key.key_data).collect()
}

/// What a client has so far: its place, and the keys.
#[derive(Default, Clone)]
struct Walked {
    at: Option<(Date, u64)>,
    keys: Vec<Bytes>,
}

fn place(tag: &str) -> (Date, u64) {
    let (day, number) = tag.split_once('-').unwrap();
    (Date::strptime("%Y%m%d", day).unwrap(), number.parse().unwrap())
}

/// From `start`, or from the last batch on, along `nextBatchTag` to `null`. Returns the first status that is no batch.
fn follow(service: &Service, router: &Router, start: Date, walked: &mut Walked) -> Option<u16> {
    let mut ask = match walked.at {
        // It has the last one; that names its successor, if there is one.
        Some((day, n)) => {
            let last = service.download(router, &day.to_string(), Some(&tag(day, n)));
            let next = last.header("nextBatchTag").to_owned();
            assert!(!next.is_empty(), "{}", last.status);
            (next != "null").then_some(Some(next))
        }
        None => Some(None),
    };
    let mut erased = false;
    while let Some(wanted) = ask {
        let date = wanted.as_deref().map_or(start, |tag| place(tag).0);
        let answer = service.download(router, &date.to_string(), wanted.as_deref());
        match (answer.status, answer.header("nextBatchTag")) {
            (200, _) => {
                let (day, n) = place(answer.header("batchTag"));
                // The next number of its day, or the first one of a later day; unless something was erased between them.
                if let Some((before, last)) = walked.at.filter(|_| !erased) {
                    assert!((before, last + 1) == (day, n) || (before < day && n == 1), "{before} {last}");
                }
                (walked.at, erased) = (Some((day, n)), false);
                walked.keys.extend(data(&answer));
            }
            // Erased, and it says where to go on.
            (410, next) if !next.is_empty() => erased = true,
            (status, _) => return Some(status),
        }
        let next = answer.header("nextBatchTag").to_owned();
        ask = (next != "null").then_some(Some(next));
    }
    None
}

/// The same by `N + 1`, up to today.
fn compute(service: &Service, router: &Router, start: Date, walked: &mut Walked) {
    let today = date_of(service.now);
    let (mut day, mut n) = walked.at.map_or((start, 1), |(day, n)| (day, n + 1));
    let ask = |day: Date, n: u64| service.download(router, &day.to_string(), Some(&tag(day, n)));
    while day <= today {
        let mut answer = ask(day, n);
        if answer.status == 404 {
            // Whether the day is over shows by a later one, and this one has to be looked at again then.
            let mut later = day.tomorrow().unwrap();
            while later <= today && ask(later, 1).status == 404 {
                later = later.tomorrow().unwrap();
            }
            if later > today {
                return;
            }
            answer = ask(day, n);
            if answer.status == 404 {
                (day, n) = (later, 1);
                continue;
            }
        }
        match (answer.status, (answer.status == 410).then(|| answer.code()).as_deref()) {
            (200, _) => {
                walked.at = Some((day, n));
                walked.keys.extend(data(&answer));
                n += 1;
            }
            (410, Some("batch-erased")) => n += 1,
            (410, Some("date-too-old")) => (day, n) = (day.tomorrow().unwrap(), 1),
            (status, code) => panic!("{day} {n}: {status} {code:?}"),
        }
    }
}

/// Days with and without batches; each batch has as many keys as its place in this list says.
fn history() -> Service {
    let mut service = Service::new();
    let times = [
        MIDNIGHT,
        MIDNIGHT.plus(DAY - MS),
        MIDNIGHT.plus(DAY),
        // Nothing for two days.
        MIDNIGHT.plus(4 * DAY + 12 * HOUR),
        MIDNIGHT.plus(5 * DAY - MS),
        MIDNIGHT.plus(5 * DAY),
    ];
    let numbered: Vec<_> = (1..).zip(times).collect();
    service.publish(&numbered);
    service
}

#[test]
fn clients_of_both_kinds_start_at_any_day() {
    let mut service = history();
    // Now; the day a client starts at; the status of its first request and the tag it gets; the batches that it gets in
    // all, by their number of keys.
    let last = MIDNIGHT.plus(5 * DAY);
    let edge = MIDNIGHT.plus(14 * DAY);
    let table: [(Millis, i64, u16, &str, &[usize]); 21] = [
        (last, -1, 200, "20201023-1", &[1, 2, 3, 4, 5, 6]),
        (last, 0, 200, "20201023-1", &[1, 2, 3, 4, 5, 6]),
        (last, 1, 200, "20201024-1", &[3, 4, 5, 6]),
        (last, 2, 200, "20201027-1", &[4, 5, 6]),
        (last, 3, 200, "20201027-1", &[4, 5, 6]),
        (last, 4, 200, "20201027-1", &[4, 5, 6]),
        (last, 5, 200, "20201028-1", &[6]),
        (last, 6, 404, "", &[]),
        (last, 100, 404, "", &[]),
        // The last day of the window begins, the first batch has just been erased.
        (edge, -1, 410, "", &[2, 3, 4, 5, 6]),
        (edge, 0, 200, "20201023-2", &[2, 3, 4, 5, 6]),
        (edge.plus(-MS), -1, 200, "20201023-1", &[1, 2, 3, 4, 5, 6]),
        (edge.plus(-MS), -2, 410, "", &[1, 2, 3, 4, 5, 6]),
        // It ends: all of its batches are erased, and the day can still be asked for.
        (edge.plus(DAY - MS), -1, 410, "", &[3, 4, 5, 6]),
        (edge.plus(DAY - MS), 0, 200, "20201024-1", &[3, 4, 5, 6]),
        // And is over.
        (edge.plus(DAY), 0, 410, "", &[4, 5, 6]),
        (edge.plus(DAY), 1, 200, "20201027-1", &[4, 5, 6]),
        (edge.plus(5 * DAY - MS), 5, 200, "20201028-1", &[6]),
        (edge.plus(5 * DAY), 5, 404, "", &[]),
        (edge.plus(6 * DAY), 5, 410, "", &[]),
        (edge.plus(6 * DAY), 6, 404, "", &[]),
    ];
    for (now, start, status, first, batches) in table {
        service.now = now;
        let router = service.router("DE");
        let what = format!("from day {start}, {} ms after the first midnight", now.0 - MIDNIGHT.0);
        let start = day(start);
        let answer = service.download(&router, &start.to_string(), None);
        assert_eq!((answer.status, answer.header("batchTag")), (status, first), "{what}");
        let expected: usize = batches.iter().sum();
        let (mut follows, mut computes) = (Walked::default(), Walked::default());
        let refused = follow(&service, &router, start, &mut follows);
        assert_eq!(refused, (status != 200).then_some(status), "{what}");
        assert_eq!(follows.keys.len(), if status == 200 { expected } else { 0 }, "{what}: by nextBatchTag");
        compute(&service, &router, start, &mut computes);
        assert_eq!(computes.keys.len(), expected, "{what}: by N + 1");
        if status == 200 {
            assert_eq!(follows.keys, computes.keys, "{what}");
        }
    }
}

/// Every batch is asked for with every date: with its own or an earlier one it is there, up to the edge of the window.
#[test]
fn each_batch_is_there_under_its_own_date_and_earlier_ones() {
    let mut service = history();
    service.now = MIDNIGHT.plus(15 * DAY - MS);
    let router = service.router("DE");
    let batches = [(0, 1, 410), (0, 2, 410), (1, 1, 200), (4, 1, 200), (4, 2, 200), (5, 1, 200)];
    for (made, n, kept) in batches {
        for asked in -2..=6 {
            let expected = if asked < 0 {
                410
            } else if asked > made {
                400
            } else {
                kept
            };
            let answer = service.download(&router, &day(asked).to_string(), Some(&tag(day(made), n)));
            assert_eq!(answer.status, expected, "batch {n} of day {made}, asked for with day {asked}");
        }
    }
    for (none, n) in [(0, 3), (1, 2), (2, 1), (3, 1), (4, 3), (5, 2), (6, 1)] {
        let answer = service.download(&router, &day(0).to_string(), Some(&tag(day(none), n)));
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (404, "batch-unknown"),
            "batch {n} of day {none}"
        );
    }
}

/// Random histories: uploads at, around and long after midnight, joined or alone, of origins of which one may lag behind;
/// clients of both kinds that ask now and then, and others that come at the end.
#[test]
fn whoever_asks_whenever_gets_every_key_once_and_in_order() {
    for seed in 1..=12 {
        let mut rng = Rng::new(seed);
        let mut service = Service::new();
        let (mut follows, mut computes) = (Walked::default(), Walked::default());
        let mut times = [MIDNIGHT.plus(HOUR); 2];
        service.now = MIDNIGHT.plus(HOUR);
        let mut sent = Vec::new();
        for _ in 0..2 + rng.below(6) {
            let mut batches = Vec::new();
            for _ in 0..=rng.below(3) {
                let which = rng.below(2) as usize;
                let at = &mut times[which];
                let next = at.midnight().plus(DAY);
                *at = match rng.below(6) {
                    0 => *at,
                    1 => at.plus(rng.below(8) as i64 * HOUR),
                    2 => next.plus(-MS).max(*at),
                    3 | 4 => next,
                    _ => next.plus(rng.below(2) as i64 * DAY),
                };
                // Nobody lags by more than a while.
                let behind = times[1 - which].plus(-DAY);
                times[which] = times[which].max(behind);
                let at = times[which];
                service.now = service.now.max(at);
                let batch = service.hub.batch(["FR", "NL"][which], "DE", 1 + rng.below(4) as usize, at);
                sent.extend(efgs::decode_joined(batch.keys.clone()).unwrap().into_iter().map(|k| k.key_data));
                batches.push(batch);
            }
            if rng.below(2) == 0 {
                service.publish_joined(&batches);
            } else {
                batches.iter().for_each(|batch| service.publish_one(batch));
            }
            let router = service.router("DE");
            if rng.below(2) == 0 {
                follow(&service, &router, day(0), &mut follows);
            }
            if rng.below(2) == 0 {
                compute(&service, &router, day(0), &mut computes);
            }
        }
        let router = service.router("DE");
        for (walked, how) in [(follows, "by nextBatchTag"), (Walked::default(), "by nextBatchTag, late")] {
            let mut walked = walked;
            follow(&service, &router, day(0), &mut walked);
            assert!(walked.keys == sent, "seed {seed}, {how}: {} of {}", walked.keys.len(), sent.len());
        }
        for (walked, how) in [(computes, "by N + 1"), (Walked::default(), "by N + 1, late")] {
            let mut walked = walked;
            compute(&service, &router, day(0), &mut walked);
            assert!(walked.keys == sent, "seed {seed}, {how}: {} of {}", walked.keys.len(), sent.len());
        }
    }
}
