//! Requests to a broker without a library: what no library would send.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use anyhow::{Result, ensure};

/// How long a broker may take for an answer. One that was cut off gives none.
const PATIENCE: Duration = Duration::from_secs(10);

/// Writes one record with one header to partition 0 of a topic, the header's name as it is given.
///
/// # Errors
/// The broker does not take it.
pub fn produce(bootstrap: &str, topic: &str, value: &[u8], header_name: &[u8]) -> Result<()> {
    let batch = batch(&record(value, header_name));
    let mut request = Vec::new();
    // Produce, version 3; the number of this request; no client id, no transaction; acks of all, 10 s.
    for number in [0i16, 3] {
        request.extend(number.to_be_bytes());
    }
    request.extend(7i32.to_be_bytes());
    for number in [-1i16, -1, -1] {
        request.extend(number.to_be_bytes());
    }
    request.extend(10_000i32.to_be_bytes());
    request.extend(1i32.to_be_bytes());
    request.extend(i16::try_from(topic.len())?.to_be_bytes());
    request.extend(topic.as_bytes());
    request.extend(1i32.to_be_bytes());
    request.extend(0i32.to_be_bytes());
    request.extend(i32::try_from(batch.len())?.to_be_bytes());
    request.extend(batch);
    let answer = ask(bootstrap, &request)?;
    // The number of the request, one topic, its name, one partition, its number: then the error code.
    let at = 4 + 4 + 2 + topic.len() + 4 + 4;
    ensure!(answer.get(at..at + 2) == Some(&[0, 0]), "the broker answers {answer:?}");
    Ok(())
}

/// Takes a member out of its consumer group behind its back, as if it had said so itself.
///
/// # Errors
/// The broker does not know the member.
pub fn leave_group(bootstrap: &str, group: &str, member: &str) -> Result<()> {
    let mut request = Vec::new();
    // Leave the group, version 0; the number of this request; no client id.
    for number in [13i16, 0] {
        request.extend(number.to_be_bytes());
    }
    request.extend(7i32.to_be_bytes());
    request.extend((-1i16).to_be_bytes());
    for text in [group, member] {
        request.extend(i16::try_from(text.len())?.to_be_bytes());
        request.extend(text.as_bytes());
    }
    let answer = ask(bootstrap, &request)?;
    ensure!(answer.get(4..) == Some(&[0, 0]), "the broker answers {answer:?}");
    Ok(())
}

/// The node that leads the controllers of a cluster, as one of its brokers knows it; -1 if it knows of none.
///
/// # Errors
/// The broker does not answer.
pub fn controller(broker: &str) -> Result<i32> {
    let topic = b"__cluster_metadata";
    // Describe the quorum, version 0; the number of this request; no client id; nothing tagged.
    let mut request = vec![0, 55, 0, 0, 0, 0, 0, 7, 255, 255, 0];
    // One topic (lengths count from one), its name, one partition of it, its number; nothing tagged, three times.
    request.extend([2, u8::try_from(topic.len() + 1)?]);
    request.extend(topic);
    request.extend([2, 0, 0, 0, 0, 0, 0, 0]);
    let answer = ask(broker, &request)?;
    // The number, nothing tagged, no error, one topic, its name, one partition, its number, no error: then the leader.
    let at = 4 + 1 + 2 + 1 + 1 + topic.len() + 1 + 4 + 2;
    ensure!(answer.get(5..7) == Some(&[0, 0]), "the broker answers {answer:?}");
    let leader = answer.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    leader.map(i32::from_be_bytes).ok_or_else(|| anyhow::anyhow!("the broker answers {answer:?}"))
}

/// Sends a request and returns the answer, both without their length.
fn ask(bootstrap: &str, request: &[u8]) -> Result<Vec<u8>> {
    let mut broker = TcpStream::connect_timeout(&bootstrap.parse()?, PATIENCE)?;
    broker.set_read_timeout(Some(PATIENCE))?;
    broker.write_all(&i32::try_from(request.len())?.to_be_bytes())?;
    broker.write_all(request)?;
    let mut length = [0; 4];
    broker.read_exact(&mut length)?;
    let mut answer = vec![0; usize::try_from(i32::from_be_bytes(length))?];
    broker.read_exact(&mut answer)?;
    Ok(answer)
}

fn record(value: &[u8], header_name: &[u8]) -> Vec<u8> {
    let mut body = vec![0];
    // No later than the first, the first, no key.
    for number in [0, 0, -1] {
        varint(number, &mut body);
    }
    varint(value.len() as i64, &mut body);
    body.extend(value);
    varint(1, &mut body);
    varint(header_name.len() as i64, &mut body);
    body.extend(header_name);
    varint(-1, &mut body);
    let mut record = Vec::new();
    varint(body.len() as i64, &mut record);
    record.extend(body);
    record
}

fn batch(record: &[u8]) -> Vec<u8> {
    let mut checked = Vec::new();
    checked.extend(0i16.to_be_bytes());
    checked.extend(0i32.to_be_bytes());
    // The broker's time counts; no producer id, epoch or sequence; one record.
    for number in [0i64, 0, -1] {
        checked.extend(number.to_be_bytes());
    }
    checked.extend((-1i16).to_be_bytes());
    checked.extend((-1i32).to_be_bytes());
    checked.extend(1i32.to_be_bytes());
    checked.extend(record);
    let mut batch = 0i64.to_be_bytes().to_vec();
    batch.extend((checked.len() as i32 + 9).to_be_bytes());
    batch.extend((-1i32).to_be_bytes());
    batch.push(2);
    batch.extend(crc32c(&checked).to_be_bytes());
    batch.extend(checked);
    batch
}

fn varint(number: i64, out: &mut Vec<u8>) {
    let mut n = ((number << 1) ^ (number >> 63)) as u64;
    while n > 0x7f {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
    };
    !bytes.iter().fold(u32::MAX, step)
}
