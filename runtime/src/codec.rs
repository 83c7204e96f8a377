//! Framing of Avro records: with a schema registry its five bytes before the value, without one the single-object
//! encoding of the Avro specification. A reader accepts both.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, Instant},
};

use apache_avro::{
    Schema, rabin::Rabin, reader::datum::GenericDatumReader, writer::datum::GenericDatumWriter,
};
use bytes::{Buf, Bytes};

use keyferry_schemas::{
    avro::{AvroError, Record},
    batch::{Checkpoint, Manifest, SignedBatch},
    callbacks::{Callback, CallbackProgress},
    records::{Head, LedgerEntry, NetworkRecord, Upload},
};

const SINGLE_OBJECT: [u8; 2] = [0xc3, 0x01];
const REGISTRY: u8 = 0;
/// A registry that did not answer is not asked again for this long.
const SILENCE: Duration = Duration::from_secs(10);

/// Every schema that stands on a topic, by name.
pub const SCHEMAS: [(&str, &str); 9] = [
    (Upload::NAME, Upload::SCHEMA),
    (LedgerEntry::NAME, LedgerEntry::SCHEMA),
    (Head::NAME, Head::SCHEMA),
    (NetworkRecord::NAME, NetworkRecord::SCHEMA),
    (Manifest::NAME, Manifest::SCHEMA),
    (SignedBatch::NAME, SignedBatch::SCHEMA),
    (Checkpoint::NAME, Checkpoint::SCHEMA),
    (Callback::NAME, Callback::SCHEMA),
    (CallbackProgress::NAME, CallbackProgress::SCHEMA),
];

/// Finds the schema behind an id of the registry.
pub trait SchemaSource: Send + Sync {
    /// The text of the schema with this id; `None` if there is none. May block for a request.
    ///
    /// # Errors
    /// Why the registry can not be asked, in one line.
    fn schema(&self, id: u32) -> Result<Option<String>, String>;
}

/// What a record on `keyferry.keys.<cc>` is.
pub enum KeysRecord {
    /// A batch of keys.
    Batch(SignedBatch),
    /// A statement of how far a chain goes.
    Checkpoint(Checkpoint),
}

/// Writes and reads framed records. Cheap to clone.
#[derive(Clone)]
pub struct Codec {
    inner: Arc<Inner>,
}

struct Inner {
    /// By name: our schema, and what stands before each record that we write.
    own: HashMap<&'static str, (Schema, Vec<u8>)>,
    /// Both fingerprints of each: they take a while to make, and strangers choose how often they are looked up.
    fingerprints: HashMap<[u8; 8], &'static str>,
    /// By id of the registry: the writer's schema.
    foreign: RwLock<HashMap<u32, Arc<Schema>>>,
    source: Option<Box<dyn SchemaSource>>,
    /// When the registry did not answer.
    silent: Mutex<Option<Instant>>,
}

impl Codec {
    /// Without a registry.
    ///
    /// # Errors
    /// A schema of this build does not parse, which its tests exclude.
    pub fn single_object() -> Result<Self, AvroError> {
        Self::new(None, |_, schema| [&SINGLE_OBJECT[..], &fingerprint(schema)].concat())
    }

    /// With a registry that knows each of [`SCHEMAS`] by the id in `ids`; others are asked of `source` as they come.
    ///
    /// # Errors
    /// An id is missing.
    pub fn with_registry(
        ids: &HashMap<String, u32>,
        source: Box<dyn SchemaSource>,
    ) -> Result<Self, AvroError> {
        if let Some((missing, _)) = SCHEMAS.iter().find(|(name, _)| !ids.contains_key(*name)) {
            return Err(AvroError::Schema((*missing).to_owned()));
        }
        Self::new(Some(source), |name, _| {
            let id = ids.get(name).copied().unwrap_or_default();
            [&[REGISTRY][..], &id.to_be_bytes()].concat()
        })
    }

    fn new(
        source: Option<Box<dyn SchemaSource>>,
        header: impl Fn(&str, &Schema) -> Vec<u8>,
    ) -> Result<Self, AvroError> {
        let (mut own, mut fingerprints) = (HashMap::new(), HashMap::new());
        for (name, text) in SCHEMAS {
            let schema = Schema::parse_str(text).map_err(|e| AvroError::Schema(e.to_string()))?;
            let header = header(name, &schema);
            fingerprints.insert(fingerprint(&schema), name);
            // Writers in Rust may use the library's.
            if let Ok(of_library) = schema.fingerprint::<Rabin>().bytes.try_into() {
                fingerprints.insert(of_library, name);
            }
            own.insert(name, (schema, header));
        }
        let (foreign, silent) = (RwLock::default(), Mutex::default());
        Ok(Self { inner: Arc::new(Inner { own, fingerprints, foreign, source, silent }) })
    }

    /// The record, framed.
    #[must_use]
    pub fn encode<R: Record>(&self, record: &R) -> Vec<u8> {
        let header = self.header::<R>();
        let mut out = Vec::with_capacity(header.len() + record.room());
        out.extend_from_slice(header);
        record.write(&mut out);
        out
    }

    /// The Avro binary of a record, framed.
    #[must_use]
    pub fn frame<R: Record>(&self, binary: &[u8]) -> Vec<u8> {
        [self.header::<R>(), binary].concat()
    }

    /// What stands before each record of this schema that we write.
    fn header<R: Record>(&self) -> &[u8] {
        self.inner.own.get(R::NAME).map(|(_, header)| header.as_slice()).unwrap_or_default()
    }

    /// Reads a framed record. Blocks only for a registry id that was not seen before.
    ///
    /// # Errors
    /// [`AvroError`] if it is no such record.
    pub fn decode<R: Record>(&self, framed: Bytes) -> Result<R, AvroError> {
        self.read(self.open(framed)?)
    }

    /// The same for readers that must not pass over a record because the registry is away: waits for its schema, for as
    /// long as `go_on` says.
    ///
    /// # Errors
    /// As [`Codec::decode`]; [`AvroError::Unavailable`] only if `go_on` ended the wait.
    pub fn await_record<R: Record>(&self, framed: Bytes, go_on: impl Fn() -> bool) -> Result<R, AvroError> {
        self.read(self.await_open(framed, go_on)?)
    }

    /// The wait alone, for who must not wait while it decodes.
    pub fn await_schema(&self, framed: &Bytes, go_on: impl Fn() -> bool) {
        // What is wrong with it shows when it is decoded.
        let _ = self.await_open(framed.clone(), go_on);
    }

    /// Reads a record of `keyferry.keys.<cc>`.
    ///
    /// # Errors
    /// [`AvroError`] if it is neither of the two.
    pub fn decode_keys(&self, framed: Bytes) -> Result<KeysRecord, AvroError> {
        self.read_keys(self.open(framed)?)
    }

    /// The same as patiently as [`Codec::await_record`].
    ///
    /// # Errors
    /// As [`Codec::decode_keys`]; [`AvroError::Unavailable`] only if `go_on` ended the wait.
    pub fn await_keys(&self, framed: Bytes, go_on: impl Fn() -> bool) -> Result<KeysRecord, AvroError> {
        self.read_keys(self.await_open(framed, go_on)?)
    }

    fn read<R: Record>(&self, (writer, binary): (Writer, Bytes)) -> Result<R, AvroError> {
        match writer {
            Writer::Own(name) if name == R::NAME => R::from_avro(binary),
            Writer::Own(name) => Err(AvroError::Schema(format!("{name} instead of {}", R::NAME))),
            Writer::Other(schema) => self.resolve(&schema, &binary),
        }
    }

    fn read_keys(&self, opened: (Writer, Bytes)) -> Result<KeysRecord, AvroError> {
        let checkpoint = match &opened.0 {
            Writer::Own(name) => *name == Checkpoint::NAME,
            Writer::Other(schema) => schema.name().is_some_and(|n| n.name() == Checkpoint::NAME),
        };
        if checkpoint {
            self.read(opened).map(KeysRecord::Checkpoint)
        } else {
            self.read(opened).map(KeysRecord::Batch)
        }
    }

    fn await_open(&self, framed: Bytes, go_on: impl Fn() -> bool) -> Result<(Writer, Bytes), AvroError> {
        loop {
            match self.open(framed.clone()) {
                Err(AvroError::Unavailable(_)) if go_on() => std::thread::sleep(Duration::from_millis(500)),
                opened => return opened,
            }
        }
    }

    fn open(&self, mut framed: Bytes) -> Result<(Writer, Bytes), AvroError> {
        for (name, (_, header)) in &self.inner.own {
            if framed.starts_with(header) {
                framed.advance(header.len());
                return Ok((Writer::Own(name), framed));
            }
        }
        if framed.starts_with(&SINGLE_OBJECT) && framed.len() >= 10 {
            // A registry may be in use here and not at the writer: the fingerprint still tells.
            framed.advance(2);
            let fingerprint = framed.split_to(8);
            return match self.inner.fingerprints.get(&fingerprint[..]) {
                Some(name) => Ok((Writer::Own(name), framed)),
                None => Err(AvroError::Schema(format!("fingerprint {fingerprint:x}"))),
            };
        }
        if framed.len() >= 5 && framed[0] == REGISTRY {
            let id = u32::from_be_bytes([framed[1], framed[2], framed[3], framed[4]]);
            framed.advance(5);
            return Ok((Writer::Other(self.foreign(id)?), framed));
        }
        Err(AvroError::Schema("no framing".into()))
    }

    fn foreign(&self, id: u32) -> Result<Arc<Schema>, AvroError> {
        if let Some(schema) = self.inner.foreign.read().ok().and_then(|known| known.get(&id).cloned()) {
            return Ok(schema);
        }
        let source = self.inner.source.as_ref();
        let source =
            source.ok_or_else(|| AvroError::Schema(format!("id {id}, and no registry is configured")))?;
        let text = self.ask(|| source.schema(id))?.ok_or_else(|| AvroError::Schema(format!("id {id}")))?;
        let schema = Arc::new(Schema::parse_str(&text).map_err(|e| AvroError::Schema(e.to_string()))?);
        if let Ok(mut known) = self.inner.foreign.write() {
            known.insert(id, Arc::clone(&schema));
        }
        Ok(schema)
    }

    /// Asks the registry, and not again for a while if it does not answer: whoever decodes waits meanwhile.
    fn ask<T>(&self, question: impl FnOnce() -> Result<T, String>) -> Result<T, AvroError> {
        let silent = || self.inner.silent.lock().unwrap_or_else(PoisonError::into_inner);
        if silent().is_some_and(|since| since.elapsed() < SILENCE) {
            return Err(AvroError::Unavailable("the schema registry did not answer lately".into()));
        }
        let answer = question();
        *silent() = answer.is_err().then(Instant::now);
        answer.map_err(AvroError::Unavailable)
    }

    fn resolve<R: Record>(&self, writer: &Schema, binary: &[u8]) -> Result<R, AvroError> {
        let (reader, _) = self.inner.own.get(R::NAME).ok_or_else(|| AvroError::Schema(R::NAME.into()))?;
        // A registry is shared, and whoever writes chooses the id. One that nests for ever overflows the library's stack.
        if writer.name() != reader.name() {
            let name = writer.name().map_or_else(|| "no record".into(), ToString::to_string);
            return Err(AvroError::Schema(format!("{name} instead of {}", R::NAME)));
        }
        // What the library says quotes the value, which may be a key.
        let resolve = |_| AvroError::Resolve("its writer's schema does not fit".into());
        let resolver = GenericDatumReader::builder(writer).reader_schema(reader).build().map_err(resolve)?;
        let mut binary = Whole { rest: binary, short: false };
        let value = resolver.read_value(&mut binary).map_err(resolve)?;
        match binary {
            Whole { short: true, .. } => return Err(AvroError::Short),
            Whole { rest: [], .. } => (),
            Whole { rest, .. } => return Err(AvroError::Trailing(rest.len())),
        }
        let ours = GenericDatumWriter::builder(reader).build().map_err(resolve)?;
        R::from_avro(ours.write_value_to_vec(value).map_err(resolve)?.into())
    }
}

/// The fingerprint of a schema by the Avro specification: CRC-64-AVRO of its canonical form, lowest byte first.
fn fingerprint(schema: &Schema) -> [u8; 8] {
    const EMPTY: u64 = 0xc15d_213a_a4d7_a795;
    // The library leaves `{"type":"long"}` where a logical type stood; the specification says `"long"`.
    let canonical = schema.canonical_form().replace(r#"{"type":"long"}"#, r#""long""#);
    let crc = canonical.bytes().fold(EMPTY, |crc, byte| {
        (0..8).fold(crc ^ u64::from(byte), |crc, _| (crc >> 1) ^ (EMPTY & (crc & 1).wrapping_neg()))
    });
    crc.to_le_bytes()
}

/// Remembers that more was wanted than there is: where a record is cut short before a union or a text, the library reads
/// a null.
struct Whole<'a> {
    rest: &'a [u8],
    short: bool,
}

impl io::Read for Whole<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.short |= into.len() > self.rest.len();
        io::Read::read(&mut self.rest, into)
    }
}

enum Writer {
    Own(&'static str),
    Other(Arc<Schema>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_those_of_the_specification() {
        // Without a logical type the library agrees with the specification.
        let plain = Schema::parse_str(SignedBatch::SCHEMA).unwrap();
        assert_eq!(fingerprint(&plain).as_slice(), plain.fingerprint::<Rabin>().bytes);
        // Computed by another implementation (examples/python/wire.py).
        let logical = Schema::parse_str(Checkpoint::SCHEMA).unwrap();
        assert_eq!(fingerprint(&logical), 0x0ef6_846b_7cab_3949u64.to_be_bytes());
    }

    struct Answers(Result<Option<String>, String>);

    impl SchemaSource for Answers {
        fn schema(&self, _: u32) -> Result<Option<String>, String> {
            self.0.clone()
        }
    }

    #[test]
    fn a_schema_is_awaited_while_the_registry_is_silent_and_no_longer() {
        let ids: HashMap<_, _> =
            SCHEMAS.iter().zip(1..).map(|((name, _), id)| ((*name).to_owned(), id)).collect();
        let asked = |answer, framed: &'static [u8]| {
            let codec = Codec::with_registry(&ids, Box::new(Answers(answer))).unwrap();
            let turns = std::cell::Cell::new(0);
            let read = codec.await_keys(Bytes::from_static(framed), || {
                turns.set(turns.get() + 1);
                turns.get() < 3
            });
            (turns.get(), matches!(read, Err(AvroError::Unavailable(_))))
        };
        let unseen = b"\0\0\0\0\x63record";
        assert_eq!(asked(Err("away".into()), unseen), (3, true));
        assert_eq!(asked(Ok(None), unseen), (0, false));
        assert_eq!(asked(Err("away".into()), b"\0\0\0\0\x01record"), (0, false), "one of our own");
        assert_eq!(asked(Err("away".into()), b"garbage"), (0, false));
    }
}
