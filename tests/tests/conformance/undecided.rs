//! Uploads that get no answer in time, and how they get one later.

use std::time::{Duration, Instant};

use keyferry_schemas::world::Identity;
use keyferry_tests::{
    exchange::{Call, Exchange, Reply},
    front::Door,
};
use reqwest::Method;

use crate::{row::Row, scene::Scene};

/// How long for what must come at last.
const PATIENCE: Duration = Duration::from_secs(120);

/// What one door is asked.
pub struct Undecided {
    door: Door,
    /// Taken and not decided.
    waiting: Row,
    /// The same of a client that asks for a receipt.
    asynchronous: Row,
    /// Sent while there is no broker.
    pub unreachable: Row,
    owner: Identity,
    other: Identity,
    /// Where its receipt is.
    place: Option<String>,
}

impl Undecided {
    pub fn new(s: &Scene) -> Self {
        Self {
            door: s.door,
            waiting: s.de("not decided yet", s.keys::<2>()).created(),
            asynchronous: s.de("a receipt", s.keys::<2>()).header("prefer", "respond-async").created(),
            unreachable: s.de("no broker", s.keys::<2>()).created(),
            owner: s.people["DE"].clone(),
            other: s.people["FR"].clone(),
            place: None,
        }
    }

    pub fn rows(&self) -> [&Row; 3] {
        [&self.waiting, &self.asynchronous, &self.unreachable]
    }

    /// While nobody decides.
    pub fn ask(&self, exchange: &Exchange) -> Result<(), String> {
        is(&self.waiting.send(self.door, exchange)?, 503, "not-yet-decided")
    }

    /// Asks for a receipt while nobody decides, and what it says so far.
    pub fn ask_for_receipt(&mut self, exchange: &Exchange) -> Result<(), String> {
        let reply = self.asynchronous.send(self.door, exchange)?;
        is(&reply, 202, "")?;
        let place = reply.header("location");
        if reply.header("preference-applied") != "respond-async"
            || !place.starts_with("/diagnosiskeys/receipts/")
        {
            return Err(format!("{:?}: 202 with {:?}", self.door, reply.headers));
        }
        self.place = Some(place.to_owned());
        is(&self.receipt(Some(&self.owner), exchange), 202, "")?;
        is(&self.receipt(Some(&self.other), exchange), 404, "receipt-unknown")?;
        is(&self.receipt(None, exchange), 403, "client-certificate-missing")
    }

    /// Once somebody decides.
    pub fn learn(&self, exchange: &Exchange) -> Result<(), String> {
        self.insist(&self.waiting, exchange)?;
        self.insist(&self.asynchronous, exchange)?;
        let reply = self.receipt(Some(&self.owner), exchange);
        is(&reply, 201, "")?;
        match reply.header("batchTag").is_empty() {
            false => Ok(()),
            true => Err(format!("{:?}: a receipt without a tag", self.door)),
        }
    }

    /// While there is no broker: at first it is not known whether an upload was taken, and soon that it was not.
    pub fn miss_broker(&self, exchange: &Exchange) -> Result<(), String> {
        let give_up = Instant::now() + PATIENCE;
        loop {
            let reply = self.unreachable.send(self.door, exchange)?;
            match reply.code().as_str() {
                "not-confirmed" if Instant::now() < give_up => is(&reply, 503, "not-confirmed")?,
                _ => return is(&reply, 503, "broker-unreachable"),
            }
        }
    }

    /// Sends it until it is taken, and then the answer has to be what the row expects.
    pub fn insist(&self, row: &Row, exchange: &Exchange) -> Result<(), String> {
        let give_up = Instant::now() + PATIENCE;
        while row.send(self.door, exchange)?.status != 201 && Instant::now() < give_up {
            std::thread::sleep(Duration::from_millis(100));
        }
        row.run(self.door, exchange).map(drop)
    }

    fn receipt(&self, who: Option<&Identity>, exchange: &Exchange) -> Reply {
        let get = Call::new(Method::GET, self.place.as_deref().unwrap_or_default());
        exchange.call(self.door, who, &get).unwrap()
    }
}

fn is(reply: &Reply, status: u16, code: &str) -> Result<(), String> {
    let got = (reply.status, reply.code());
    if (got.0, got.1.as_str()) != (status, code) {
        return Err(format!("{got:?} instead of {status} {code}"));
    }
    // Whoever has to come again is told when.
    let later = reply.header("retry-after").parse::<u32>().is_ok_and(|s| s > 0);
    if matches!(status, 202 | 503) && !later { Err(format!("{status} without Retry-After")) } else { Ok(()) }
}
