//! Single keys: what each field may be, by the policy `reject-upload` (DE) and by `reject-key` (IT).

use bytes::Bytes;
use keyferry_schemas::{
    efgs::DiagnosisKey,
    time::{INTERVALS_PER_DAY, Interval, UPLOAD_WINDOW_DAYS},
};

use crate::{
    row::Row,
    scene::{Scene, settled_now},
};

type Change = Box<dyn Fn(&mut DiagnosisKey)>;

fn data(bytes: usize) -> Change {
    Box::new(move |k| k.key_data = Bytes::from(k.key_data.repeat(4)).slice(..bytes))
}

fn start(interval: u32) -> Change {
    Box::new(move |k| k.rolling_start_interval_number = interval)
}

fn period(n: u32) -> Change {
    Box::new(move |k| k.rolling_period = n)
}

fn risk(level: i32) -> Change {
    Box::new(move |k| k.transmission_risk_level = level)
}

fn report(kind: i32) -> Change {
    Box::new(move |k| k.report_type = kind)
}

fn visited(codes: &'static [&'static str]) -> Change {
    Box::new(move |k| k.visited_countries = codes.iter().copied().collect())
}

fn onset(days: i32) -> Change {
    Box::new(move |k| k.days_since_onset_of_symptoms = days)
}

/// For the minute after it was made.
pub fn fields(s: &Scene) -> Vec<Row> {
    let now = settled_now();
    let oldest = Interval::at(now.midnight()).0 - UPLOAD_WINDOW_DAYS * INTERVALS_PER_DAY;
    let next = Interval::at(now).0 + 1;
    // The code of a bad one, or nothing.
    let table: Vec<(&str, Change, &'static str)> = vec![
        ("data of 0 bytes", data(0), "key-data-length"),
        ("data of 15 bytes", data(15), "key-data-length"),
        ("data of 17 bytes", data(17), "key-data-length"),
        ("data of 32 bytes", data(32), "key-data-length"),
        ("from midnight fifteen days ago", start(oldest), ""),
        ("older by an interval", start(oldest - 1), "key-too-old"),
        ("from 1970", start(0), "key-too-old"),
        ("from the next interval", start(next), ""),
        ("later by an interval", start(next + 1), "key-in-future"),
        ("from the end of time", start(u32::MAX), "key-in-future"),
        ("period 0", period(0), "rolling-period"),
        ("period 1", period(1), ""),
        ("period 144", period(144), ""),
        ("period 145", period(145), "rolling-period"),
        ("period without end", period(u32::MAX), "rolling-period"),
        ("risk -1", risk(-1), "risk-level"),
        ("risk 0", risk(0), ""),
        ("risk 8", risk(8), ""),
        ("risk 9", risk(9), "risk-level"),
        ("risk not set", risk(0x7fff_ffff), ""),
        ("risk one below that", risk(0x7fff_fffe), "risk-level"),
        ("report type 0", report(0), ""),
        ("report type 5", report(5), ""),
        ("report type 6", report(6), "report-type"),
        ("report type -1", report(-1), "report-type"),
        ("two countries", visited(&["FR", "NL"]), ""),
        ("its own country", visited(&["DE"]), ""),
        ("a country of no member", visited(&["FR", "ZZ"]), ""),
        ("two countries in one", visited(&["FR,NL"]), "country-malformed"),
        ("a country in small letters", visited(&["FR", "nl"]), "country-malformed"),
        ("a country of three letters", visited(&["FRA"]), "country-malformed"),
        ("a country of one letter", visited(&["F"]), "country-malformed"),
        ("an empty country", visited(&[""]), "country-malformed"),
        ("a country of digits", visited(&["11"]), "country-malformed"),
        ("onset out of range, which is counted", onset(22), ""),
        ("onset far out of range, which is counted", onset(i32::MIN), ""),
    ];
    let mut rows: Vec<_> =
        table.iter().flat_map(|(name, change, code)| both(s, name, change, code)).collect();
    rows.extend(spanish(s));
    rows
}

/// A key between two good ones, in both encodings and under both policies.
fn both(s: &Scene, name: &str, change: &Change, code: &'static str) -> Vec<Row> {
    let three = |origin: &str| {
        let mut keys = [s.key_of(origin), s.key_of(origin), s.key_of(origin)];
        change(&mut keys[1]);
        keys
    };
    let german = s.de(name, three("DE"));
    let alone = s.de(&format!("{name}, alone, in JSON"), [three("DE")[1].clone()]).json();
    let italian = s.upload("IT", &format!("{name}, of IT"), three("IT"));
    if code.is_empty() {
        return vec![german.created(), alone.created(), italian.created()];
    }
    vec![german.invalid(&[(1, code)]), alone.invalid(&[(0, code)]), italian.subset(&[0, 2], &[1])]
}

/// Days since onset where they are checked.
fn spanish(s: &Scene) -> Vec<Row> {
    let days = |n: i32, good: bool| {
        let mut key = s.key_of("ES");
        onset(n)(&mut key);
        let row = s.upload("ES", &format!("onset {n}"), [key]);
        if good { row.created() } else { row.invalid(&[(0, "onset-out-of-range")]) }
    };
    let good = [-14, 0, 21, 86, 121, 1921, 1986, 2014, 2986, 3014, 3986, 4014];
    let bad = [-15, 22, 85, 122, 1922, 1985, 2015, 2985, 3015, 3985, 4015];
    good.map(|n| days(n, true)).into_iter().chain(bad.map(|n| days(n, false))).collect()
}

/// Each of several is named; and what a key is refused for once does not keep it from coming again. In this order.
pub fn again(s: &Scene) -> Vec<Row> {
    let bad = |key: &DiagnosisKey, change: Change| {
        let mut key = key.clone();
        change(&mut key);
        key
    };
    let [a, b, c] = s.keys::<3>();
    let [d, e, f] = [s.key_of("IT"), s.key_of("IT"), s.key_of("IT")];
    vec![
        s.de("several", [bad(&a, period(0)), b.clone(), bad(&c, risk(9)), bad(&c, data(3))]).invalid(&[
            (0, "rolling-period"),
            (2, "risk-level"),
            (3, "key-data-length"),
        ]),
        s.de("the same mended", [a, b, c]).created(),
        s.upload("IT", "several of IT", [bad(&d, period(0)), e.clone(), bad(&f, risk(9)), e.clone()])
            .subset(&[1], &[0, 2, 3]),
        s.upload("IT", "nothing but bad ones", [bad(&d, period(0)), bad(&f, risk(9))])
            .partial_again(&[], &[0, 1]),
        s.upload("IT", "the same mended of IT", [d, e, f]).partial(&[0, 2], &[1]),
    ]
}
