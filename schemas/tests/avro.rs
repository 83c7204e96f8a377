//! Our hand-written Avro against the `apache-avro` crate, which reads the `.avsc` files: the same bytes both ways.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use apache_avro::{
    Schema,
    reader::datum::GenericDatumReader,
    schema::{FixedSchema, RecordSchema},
    types::Value,
    writer::datum::GenericDatumWriter,
};
use bytes::Bytes;
use keyferry_schemas::{
    avro::{AvroError, Record},
    batch::{Checkpoint, DataClass, Level, Manifest, SignedBatch},
    callbacks::{Callback, CallbackProgress},
    country::Country,
    records::{
        ChainHead, Delivery, Head, Kind, LedgerEntry, NetworkRecord, Outcome, Upload, Verdict, Withheld,
    },
    time::Millis,
    world::Rng,
};
use proptest::prelude::*;

/// A field's type as this test knows it: how to make one up, and what `apache-avro` calls it.
trait Sample {
    fn sample(rng: &mut Rng) -> Self;
    fn value(&self) -> Value;
}

macro_rules! numbers {
    ($($type:ty as $wide:ty => $value:expr, $max:expr, $min:expr;)*) => {$(
        impl Sample for $type {
            fn sample(rng: &mut Rng) -> Self {
                // Every length of its binary form is as likely as any other.
                let n = (rng.number() as i64 >> rng.below(64)) as $wide;
                ([n, 0, -1, $min, $max][rng.below(12).saturating_sub(7) as usize]).into()
            }
            fn value(&self) -> Value {
                $value(self)
            }
        }
    )*};
}

numbers! {
    i32 as i32 => |n: &i32| Value::Int(*n), i32::MAX, i32::MIN;
    i64 as i64 => |n: &i64| Value::Long(*n), i64::MAX, i64::MIN;
}

impl Sample for Millis {
    fn sample(rng: &mut Rng) -> Self {
        Self(i64::sample(rng))
    }
    fn value(&self) -> Value {
        Value::TimestampMillis(self.0)
    }
}

impl Sample for Country {
    fn sample(rng: &mut Rng) -> Self {
        [(); 2].map(|()| char::from(b'A' + rng.below(26) as u8)).iter().collect::<String>().parse().unwrap()
    }
    fn value(&self) -> Value {
        Value::String(self.to_string())
    }
}

impl Sample for String {
    fn sample(rng: &mut Rng) -> Self {
        let n = [0, 1, 20, 63, 64, 200][rng.below(6) as usize];
        (0..n).map(|_| ['a', '7', '\0', 'ß', '鍵', '🔑'][rng.below(6) as usize]).collect()
    }
    fn value(&self) -> Value {
        Value::String(self.clone())
    }
}

impl Sample for Bytes {
    fn sample(rng: &mut Rng) -> Self {
        let n = [0, 1, 63, 64, 8191, 8192][rng.below(6) as usize];
        (0..n).map(|_| rng.number() as u8).collect()
    }
    fn value(&self) -> Value {
        Value::Bytes(self.to_vec())
    }
}

impl<const N: usize> Sample for [u8; N] {
    fn sample(rng: &mut Rng) -> Self {
        rng.bytes()
    }
    fn value(&self) -> Value {
        Value::Fixed(N, self.to_vec())
    }
}

impl<T: Sample> Sample for Option<T> {
    fn sample(rng: &mut Rng) -> Self {
        (rng.below(2) == 1).then(|| T::sample(rng))
    }
    fn value(&self) -> Value {
        match self {
            None => Value::Union(0, Box::new(Value::Null)),
            Some(some) => Value::Union(1, Box::new(some.value())),
        }
    }
}

impl<T: Sample> Sample for Vec<T> {
    fn sample(rng: &mut Rng) -> Self {
        (0..[0, 1, 3, 70][rng.below(4) as usize]).map(|_| T::sample(rng)).collect()
    }
    fn value(&self) -> Value {
        Value::Array(self.iter().map(T::value).collect())
    }
}

macro_rules! enums {
    ($($name:ident)*) => {$(
        impl Sample for $name {
            fn sample(rng: &mut Rng) -> Self {
                $name::ALL[rng.below($name::ALL.len() as u64) as usize]
            }
            fn value(&self) -> Value {
                let index = $name::ALL.iter().position(|v| v == self).unwrap();
                Value::Enum(index as u32, self.symbol().into())
            }
        }
    )*};
}

enums! { Kind Outcome Level DataClass }

/// Lists the fields of each record by name; the compiler sees to it that none is missing.
macro_rules! records {
    ($($name:ident { $($field:ident)* })*) => {$(
        impl Sample for $name {
            fn sample(rng: &mut Rng) -> Self {
                $name { $($field: Sample::sample(rng),)* }
            }
            fn value(&self) -> Value {
                let $name { $($field),* } = self;
                Value::Record(vec![$((stringify!($field).to_owned(), $field.value()),)*])
            }
        }
    )*};
}

records! {
    Upload { upload_id kind origin batch_tag content_type payload batch_signature client_certificate received_at }
    Verdict { index position code }
    Delivery { destination sequence manifest new_keys }
    Withheld { destination reason keys }
    LedgerEntry {
        sequence previous origin source_offset now writer network_version signing_key upload_id batch_tag outcome
        code detail first_offset content accepted_content keys keys_accepted keys_revised verdicts odd_onsets
        unknown_countries deliveries withheld fingerprint_key fingerprints
    }
    ChainHead { destination sequence manifest }
    Head { origin sequence entry source_offset now checkpoint_at network_version chains }
    NetworkRecord { network version document signature }
    Manifest {
        schema_version network network_version batch_id origin destination sequence previous upload_id batch_tag kind
        keys level canonical content bitmap origin_signature client_certificate signing_certificate agreement
        data_class created_at signing_key
    }
    SignedBatch { manifest signature keys new origin_signature }
    Checkpoint { network network_version origin destination sequence manifest now at signing_key signature }
    Callback { url created_at after_number after_tag }
    CallbackProgress { number tag }
}

/// Runs a check for every type that stands on a topic.
macro_rules! each {
    ($check:ident($($argument:expr),*)) => {
        $check::<Upload>($($argument),*);
        $check::<LedgerEntry>($($argument),*);
        $check::<Head>($($argument),*);
        $check::<NetworkRecord>($($argument),*);
        $check::<Manifest>($($argument),*);
        $check::<SignedBatch>($($argument),*);
        $check::<Checkpoint>($($argument),*);
        $check::<Callback>($($argument),*);
        $check::<CallbackProgress>($($argument),*);
    };
}

fn schema<R: Record>() -> Schema {
    Schema::parse_str(R::SCHEMA).unwrap_or_else(|e| panic!("{}: {e}", R::NAME))
}

fn written(schema: &Schema, value: Value) -> Vec<u8> {
    GenericDatumWriter::builder(schema).build().unwrap().write_value_to_vec(value).unwrap()
}

fn read(schema: &Schema, mut bytes: &[u8]) -> Value {
    let value = GenericDatumReader::builder(schema).build().unwrap().read_value(&mut bytes).unwrap();
    assert!(bytes.is_empty());
    value
}

fn same_bytes<R: Record + Sample + PartialEq>(seed: u64) {
    let (schema, record) = (schema::<R>(), R::sample(&mut Rng::new(seed)));
    let ours = record.to_avro();
    assert!(ours == written(&schema, record.value()), "{} of seed {seed}", R::NAME);
    assert!(read(&schema, &ours) == record.value(), "{} of seed {seed}", R::NAME);
    let room = record.room();
    assert!((ours.len()..ours.len() * 12 + 64).contains(&room), "{} of seed {seed}: {room}", R::NAME);
    assert!(R::from_avro(ours.into()).is_ok_and(|back| back == record), "{} of seed {seed}", R::NAME);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn our_bytes_are_those_of_apache_avro(seed: u64) {
        each!(same_bytes(seed));
    }

    #[test]
    fn bytes_lost_or_changed_anywhere_never_panic(seed: u64, at: proptest::sample::Index, byte: u8) {
        each!(survives(seed, at, byte));
    }
}

fn survives<R: Record + Sample>(seed: u64, at: proptest::sample::Index, byte: u8) {
    let mut bytes = R::sample(&mut Rng::new(seed)).to_avro();
    let at = at.index(bytes.len());
    bytes[at] = byte;
    let _ = R::from_avro(bytes.clone().into());
    bytes.remove(at);
    let _ = R::from_avro(bytes.into());
}

#[test]
fn a_record_cut_short_or_continued_is_refused() {
    for seed in 0..8 {
        each!(cut(seed));
    }
}

fn cut<R: Record + Sample>(seed: u64) {
    let whole = Bytes::from(R::sample(&mut Rng::new(seed)).to_avro());
    // The long byte fields make most of a record; their inside is all the same to a reader.
    for end in (0..whole.len()).filter(|end| *end < 2_000 || *end > whole.len() - 2_000) {
        let read = R::from_avro(whole.slice(..end)).err();
        assert_eq!(read, Some(AvroError::Short), "{} of seed {seed}, {end} of {}", R::NAME, whole.len());
    }
    for byte in 0..=255 {
        let read = R::from_avro([&whole[..], &[byte]].concat().into()).err();
        assert_eq!(read, Some(AvroError::Trailing(1)), "{} of seed {seed}", R::NAME);
    }
}

#[test]
fn arrays_in_blocks_with_sizes_are_read_too() {
    // Other writers announce the size of a block, by a negative count, and may use several.
    let head = Head { chains: Vec::new(), ..Head::sample(&mut Rng::new(1)) };
    let chain = ChainHead { destination: "DE".parse().unwrap(), sequence: 1, manifest: [7; 32] };
    let one = Head { chains: vec![chain.clone()], ..head.clone() }.to_avro();
    let mut bytes = head.to_avro();
    assert_eq!(bytes.pop(), Some(0));
    let item = &one[bytes.len() + 1..one.len() - 1];
    // Count -1 and the size in bytes, count 1, end.
    bytes.extend([&[0x01, 2 * item.len() as u8], item, &[0x02], item, &[0x00]].concat());
    let ours = Head::from_avro(bytes.clone().into()).unwrap();
    assert_eq!(ours.chains, [chain.clone(), chain]);
    assert_eq!(read(&schema::<Head>(), &bytes), ours.value());
}

#[test]
fn every_schema_is_documented_and_names_the_fields_of_its_struct() {
    each!(described());
}

fn described<R: Record + Sample>() {
    let Schema::Record(record) = schema::<R>() else { panic!("{} is no record", R::NAME) };
    assert_eq!(record.name.name(), R::NAME);
    assert_eq!(record.name.namespace(), Some("keyferry.v1"));
    // An empty list would hide the records in it.
    let full = (0..1_000).map(|seed| R::sample(&mut Rng::new(seed)).value()).find(no_list_is_empty).unwrap();
    fields(&record, &full);
}

fn no_list_is_empty(value: &Value) -> bool {
    match value {
        Value::Record(fields) => fields.iter().all(|(_, value)| no_list_is_empty(value)),
        Value::Array(items) => items.first().is_some_and(no_list_is_empty),
        Value::Union(_, value) => no_list_is_empty(value),
        _ => true,
    }
}

/// Times say their unit and their beginning, and other numbers what they count.
fn check_number(name: &str, schema: &Schema, doc: &str) {
    const COUNTED: [&str; 6] = ["number of", "sequence of", "from 0", "from 1", "offset of", "version of"];
    match schema {
        Schema::Union(union) => union.variants().iter().for_each(|branch| check_number(name, branch, doc)),
        Schema::TimestampMillis => assert!(doc.contains("milliseconds since 1970"), "{name}: {doc}"),
        Schema::Int | Schema::Long => {
            let doc = doc.to_lowercase();
            assert!(COUNTED.iter().any(|c| doc.contains(c)), "{name}: {doc}");
        }
        Schema::Float | Schema::Double | Schema::Date | Schema::TimestampMicros => {
            panic!("{name}: a type that does not occur yet; say here what its doc has to name")
        }
        _ => (),
    }
}

fn fields(record: &RecordSchema, value: &Value) {
    let Value::Record(ours) = value else { panic!("{value:?}") };
    assert!(record.doc.as_ref().is_some_and(|d| !d.is_empty()), "{} has no doc", record.name);
    let names = |list: &[String]| list.join(" ");
    let theirs: Vec<_> = record.fields.iter().map(|f| f.name.clone()).collect();
    assert_eq!(names(&theirs), names(&ours.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>()));
    for (field, (_, value)) in record.fields.iter().zip(ours) {
        let doc = field.doc.as_deref().unwrap_or_default();
        assert!(doc.ends_with('.'), "{}.{} has no doc: {doc:?}", record.name, field.name);
        check_number(&format!("{}.{}", record.name, field.name), &field.schema, doc);
        match &field.schema {
            Schema::Enum(e) => assert!(e.doc.is_some(), "{} has no doc", e.name),
            Schema::Fixed(FixedSchema { size, .. }) => {
                assert!(matches!(value, Value::Fixed(n, _) if n == size))
            }
            Schema::Array(array) => {
                let (Schema::Record(item), Value::Array(values)) = (array.items.as_ref(), value) else {
                    panic!("{}.{}: a list of something that is no record", record.name, field.name)
                };
                fields(item, values.first().unwrap());
            }
            _ => (),
        }
    }
}

#[test]
fn enums_have_the_symbols_of_their_schemas() {
    let symbols = |schema: Schema, field: &str| {
        let Schema::Record(record) = schema else { panic!() };
        let Schema::Enum(e) = record.fields.into_iter().find(|f| f.name == field).unwrap().schema else {
            panic!()
        };
        e.symbols
    };
    let ours = |all: &[&'static str]| all.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    let of = |record: Schema, field, all: &[&'static str]| {
        assert_eq!(symbols(record, field), ours(all), "{field}")
    };
    of(schema::<Upload>(), "kind", &Kind::ALL.iter().map(|v| v.symbol()).collect::<Vec<_>>());
    of(schema::<Manifest>(), "kind", &Kind::ALL.iter().map(|v| v.symbol()).collect::<Vec<_>>());
    of(schema::<Manifest>(), "level", &Level::ALL.iter().map(|v| v.symbol()).collect::<Vec<_>>());
    of(schema::<Manifest>(), "data_class", &DataClass::ALL.iter().map(|v| v.symbol()).collect::<Vec<_>>());
    of(schema::<LedgerEntry>(), "outcome", &Outcome::ALL.iter().map(|v| v.symbol()).collect::<Vec<_>>());
}
