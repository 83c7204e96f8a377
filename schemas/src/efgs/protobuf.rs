//! The protobuf form of a batch, read and written by hand: a tenth of the cost of generated code, because what a key
//! carries is borrowed or so small that it needs no memory of its own.
//!
//! Every body is read or refused, and every key written, as `prost` would: a test compares them.

use bytes::Bytes;

use super::{BadBody, Code, DiagnosisKey};

/// Field of a batch that holds a key.
const KEYS: u32 = 1;
/// Groups nest no deeper than this; what nests deeper is refused.
const MAX_DEPTH: u32 = 100;

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Fault {
    #[error("a number does not end, or is out of range")]
    Number,
    #[error("a field has no such number or form")]
    Field,
    #[error("field {0} has the form of another type")]
    Form(u32),
    #[error("a field is longer than what is left")]
    Short,
    #[error("a group ends that did not begin, or groups nest too deep")]
    Group,
    #[error("field {0} is not UTF-8")]
    Text(u32),
}

/// How a field is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Varint,
    Eight,
    Delimited,
    Start,
    End,
    Four,
}

/// What is left of a message.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Result<u64, Fault> {
        let mut value = 0;
        for (i, byte) in self.0.iter().enumerate() {
            // The tenth byte holds the last bit only.
            if i == 9 && *byte > 1 {
                return Err(Fault::Number);
            }
            value |= u64::from(byte & 0x7f) << (7 * i);
            if byte & 0x80 == 0 {
                self.0 = &self.0[i + 1..];
                return Ok(value);
            }
        }
        Err(Fault::Number)
    }

    fn field(&mut self) -> Result<(u32, Form), Fault> {
        let tag = u32::try_from(self.varint()?).map_err(|_| Fault::Field)?;
        let form = match tag & 7 {
            0 => Form::Varint,
            1 => Form::Eight,
            2 => Form::Delimited,
            3 => Form::Start,
            4 => Form::End,
            5 => Form::Four,
            _ => return Err(Fault::Field),
        };
        if tag >> 3 == 0 { Err(Fault::Field) } else { Ok((tag >> 3, form)) }
    }

    fn take(&mut self, n: u64) -> Result<&'a [u8], Fault> {
        let n = usize::try_from(n).map_err(|_| Fault::Short)?;
        let (taken, rest) = self.0.split_at_checked(n).ok_or(Fault::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    fn delimited(&mut self) -> Result<&'a [u8], Fault> {
        let n = self.varint()?;
        self.take(n)
    }

    fn number(&mut self, field: u32, form: Form) -> Result<u64, Fault> {
        if form == Form::Varint { self.varint() } else { Err(Fault::Form(field)) }
    }

    fn bytes(&mut self, field: u32, form: Form) -> Result<&'a [u8], Fault> {
        if form == Form::Delimited { self.delimited() } else { Err(Fault::Form(field)) }
    }

    fn code(&mut self, field: u32, form: Form) -> Result<Code, Fault> {
        let text = std::str::from_utf8(self.bytes(field, form)?).map_err(|_| Fault::Text(field))?;
        Ok(text.into())
    }

    fn skip(&mut self, field: u32, form: Form, depth: u32) -> Result<(), Fault> {
        if depth == MAX_DEPTH {
            return Err(Fault::Group);
        }
        match form {
            Form::Varint => self.varint().map(drop),
            Form::Eight => self.take(8).map(drop),
            Form::Four => self.take(4).map(drop),
            Form::Delimited => self.delimited().map(drop),
            Form::End => Err(Fault::Group),
            Form::Start => loop {
                match self.field()? {
                    (end, Form::End) => return if end == field { Ok(()) } else { Err(Fault::Group) },
                    (inner, form) => self.skip(inner, form, depth + 1)?,
                }
            },
        }
    }
}

/// Number of keys up to the first byte that can not be read, which [`decode`] will name.
pub(super) fn count(body: &[u8]) -> usize {
    let mut reader = Reader(body);
    let mut keys = 0;
    while let Ok((field, form)) = reader.field() {
        if reader.skip(field, form, 0).is_err() {
            break;
        }
        keys += usize::from(field == KEYS && form == Form::Delimited);
    }
    keys
}

/// Reads a batch of about `keys` keys. Key data borrows `body`.
pub(super) fn decode(body: &Bytes, keys: usize) -> Result<Vec<DiagnosisKey>, BadBody> {
    let mut all = Vec::with_capacity(keys);
    let mut reader = Reader(body);
    while !reader.0.is_empty() {
        if let Err(fault) = merge(&mut reader, body, &mut all) {
            return Err(BadBody::Protobuf(format!("{fault}, after {} keys", all.len())));
        }
    }
    Ok(all)
}

fn merge(reader: &mut Reader<'_>, body: &Bytes, keys: &mut Vec<DiagnosisKey>) -> Result<(), Fault> {
    match reader.field()? {
        (KEYS, form) => {
            let mut key = DiagnosisKey::default();
            read_key(reader.bytes(KEYS, form)?, body, &mut key)?;
            keys.push(key);
            Ok(())
        }
        (field, form) => reader.skip(field, form, 0),
    }
}

/// A number that is longer than its field loses its upper bits; of a field that comes twice, the last counts.
fn read_key(message: &[u8], body: &Bytes, key: &mut DiagnosisKey) -> Result<(), Fault> {
    let mut reader = Reader(message);
    while !reader.0.is_empty() {
        match reader.field()? {
            (1, form) => key.key_data = body.slice_ref(reader.bytes(1, form)?),
            (2, form) => key.rolling_start_interval_number = reader.number(2, form)? as u32,
            (3, form) => key.rolling_period = reader.number(3, form)? as u32,
            (4, form) => key.transmission_risk_level = reader.number(4, form)? as i32,
            (5, form) => key.visited_countries.push(reader.code(5, form)?),
            (6, form) => key.origin = reader.code(6, form)?,
            (7, form) => key.report_type = reader.number(7, form)? as i32,
            (8, form) => {
                let zigzag = reader.number(8, form)? as u32;
                key.days_since_onset_of_symptoms = (zigzag >> 1) as i32 ^ -((zigzag & 1) as i32);
            }
            (field, form) => reader.skip(field, form, 1)?,
        }
    }
    Ok(())
}

/// Writes keys as one batch. Fields that are zero or empty are left out.
pub(super) fn encode<'a>(keys: impl IntoIterator<Item = &'a DiagnosisKey, IntoIter: Clone>) -> Vec<u8> {
    let keys = keys.into_iter();
    let mut out = Vec::with_capacity(keys.clone().map(|key| delimited_len(key_len(key))).sum());
    for key in keys {
        out.push(0x0a);
        write_varint(key_len(key) as u64, &mut out);
        write_key(key, &mut out);
    }
    out
}

fn write_key(key: &DiagnosisKey, out: &mut Vec<u8>) {
    let [start, period, risk, report_type, onset] = numbers(key);
    if !key.key_data.is_empty() {
        write_bytes(0x0a, &key.key_data, out);
    }
    write_number(0x10, start, out);
    write_number(0x18, period, out);
    write_number(0x20, risk, out);
    key.visited_countries.iter().for_each(|code| write_bytes(0x2a, code.as_bytes(), out));
    if !key.origin.is_empty() {
        write_bytes(0x32, key.origin.as_bytes(), out);
    }
    write_number(0x38, report_type, out);
    write_number(0x40, onset, out);
}

fn key_len(key: &DiagnosisKey) -> usize {
    let text = |bytes: &[u8]| if bytes.is_empty() { 0 } else { delimited_len(bytes.len()) };
    let visited = key.visited_countries.iter().map(|code| delimited_len(code.len()));
    let numbers = numbers(key).into_iter().map(|n| if n == 0 { 0 } else { 1 + varint_len(n) });
    text(&key.key_data) + text(key.origin.as_bytes()) + visited.sum::<usize>() + numbers.sum::<usize>()
}

/// The numbers of a key in the order of their fields, as they stand in varints.
fn numbers(key: &DiagnosisKey) -> [u64; 5] {
    let onset = key.days_since_onset_of_symptoms;
    [
        key.rolling_start_interval_number.into(),
        key.rolling_period.into(),
        i64::from(key.transmission_risk_level) as u64,
        i64::from(key.report_type) as u64,
        u64::from(((onset << 1) ^ (onset >> 31)) as u32),
    ]
}

fn write_number(tag: u8, number: u64, out: &mut Vec<u8>) {
    if number != 0 {
        out.push(tag);
        write_varint(number, out);
    }
}

fn write_bytes(tag: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(tag);
    write_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn write_varint(mut n: u64, out: &mut Vec<u8>) {
    while n > 0x7f {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn varint_len(n: u64) -> usize {
    (64 - (n | 1).leading_zeros() as usize).div_ceil(7)
}

fn delimited_len(n: usize) -> usize {
    1 + varint_len(n as u64) + n
}
