//! What each client does with an answer: its own few lines.

use std::collections::HashMap;

use bytes::Bytes;
use keyferry_schemas::{batch::sha256, canonical::Canonical, efgs::DiagnosisKey};
use keyferry_tests::front::Answer;

/// In one upload; 4,000 or 5,000 in truth.
pub const MOST: usize = 5;
/// How often the Finnish client queues a key that is refused. Without an end it would send known keys for as long as they
/// may be sent: there is no answer by which it would learn that they have arrived.
const FINNISH_TRIES: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Germany: an empty 2xx is final; after 207 what stands under 201 and 500 goes into a new upload. What stands under
    /// 409 is dropped, its own bad keys with it.
    Cwa,
    /// Finland: after 207 what stands under 201 goes again under the same tag, the rest is queued.
    Finland,
    /// Netherlands: the tag is a hash of the content, so a retry has the same. 207 is final but for what stands under 500.
    Netherlands,
    /// Italy: everything counts as sent after 207, and after 400: bad keys are lost, and with a signature that does not
    /// hold good ones as well.
    Italy,
    /// Switzerland and others: 201 is stored, only what stands under 500 goes again. Bad keys are dropped.
    Dp3t,
}

pub const CLIENTS: [(Kind, &str); 5] = [
    (Kind::Cwa, "DE"),
    (Kind::Finland, "FI"),
    (Kind::Netherlands, "NL"),
    (Kind::Italy, "IT"),
    (Kind::Dp3t, "CH"),
];

pub struct Batch {
    pub tag: String,
    pub keys: Vec<DiagnosisKey>,
}

pub struct Client {
    pub kind: Kind,
    pub country: &'static str,
    pub queue: Vec<DiagnosisKey>,
    /// What goes again as it is, before anything else.
    open: Option<Batch>,
    uploads: usize,
    refused: HashMap<Bytes, usize>,
    /// Counted as sent after an answer that took nothing.
    pub lost: Vec<DiagnosisKey>,
}

impl Client {
    pub fn new(kind: Kind, country: &'static str) -> Self {
        let (queue, lost, refused) = (Vec::new(), Vec::new(), HashMap::new());
        Self { kind, country, queue, open: None, uploads: 0, refused, lost }
    }

    pub fn at_rest(&self) -> bool {
        self.queue.is_empty() && self.open.is_none()
    }

    pub fn next(&mut self) -> Batch {
        if let Some(open) = self.open.take() {
            return open;
        }
        let keys: Vec<_> = self.queue.drain(..self.queue.len().min(MOST)).collect();
        self.uploads += 1;
        let tag = match self.kind {
            Kind::Netherlands => hex::encode(sha256(Canonical::of(&keys).bytes())),
            _ => format!("{:?}/{}", self.kind, self.uploads),
        };
        Batch { tag, keys }
    }

    pub fn hear(&mut self, batch: Batch, answer: Option<&Answer>) {
        let listed = |status: &str| {
            let indexes = answer.map(|a| a.listed(status)).unwrap_or_default();
            indexes.into_iter().map(|i| batch.keys[i as usize].clone()).collect::<Vec<_>>()
        };
        match (self.kind, answer.map(|a| a.status)) {
            (_, Some(201)) => (),
            (Kind::Cwa, Some(207)) => self.queue.extend([listed("201"), listed("500")].concat()),
            (Kind::Finland, Some(207)) => {
                let (taken, queued) = (listed("201"), [listed("409"), listed("500")].concat());
                self.open = (!taken.is_empty()).then_some(Batch { tag: batch.tag, keys: taken });
                for key in queued {
                    let tries = self.refused.entry(key.key_data.clone()).or_default();
                    *tries += 1;
                    if *tries < FINNISH_TRIES {
                        self.queue.push(key);
                    }
                }
            }
            (Kind::Netherlands | Kind::Dp3t, Some(207)) => self.queue.extend(listed("500")),
            (Kind::Italy, Some(207)) => (),
            (Kind::Italy, Some(400)) => self.lost.extend(batch.keys),
            // The same upload: the same content has the same tag.
            (Kind::Netherlands, _) => self.open = Some(batch),
            // No answer, 403, 503, and 400: nothing is known to be sent, and all of it goes into the next upload.
            _ => self.queue.splice(..0, batch.keys).for_each(drop),
        }
    }
}
