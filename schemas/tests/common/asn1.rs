//! DER in its elements, and the same as BER.

/// One DER element.
pub fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let n = content.len();
    let length = match n {
        0..0x80 => vec![n as u8],
        0x80..0x100 => vec![0x81, n as u8],
        0x100..0x1_0000 => vec![0x82, (n >> 8) as u8, n as u8],
        _ => vec![0x83, (n >> 16) as u8, (n >> 8) as u8, n as u8],
    };
    [&[tag][..], &length, content].concat()
}

/// Where the content of the DER element at the start of `der` begins, and how long it is.
fn header(der: &[u8]) -> (usize, usize) {
    let digits = if der[1] < 0x80 { 0 } else { usize::from(der[1] & 0x7f) };
    let long = der[2..2 + digits].iter().fold(0, |n, d| n << 8 | usize::from(*d));
    (2 + digits, if digits == 0 { usize::from(der[1]) } else { long })
}

/// The content of the DER element `der`.
pub fn value(der: &[u8]) -> &[u8] {
    &der[header(der).0..]
}

/// The elements within the DER element `der`, each with its header.
pub fn parts(der: &[u8]) -> Vec<&[u8]> {
    let mut rest = value(der);
    let mut parts = Vec::new();
    while !rest.is_empty() {
        let (start, length) = header(rest);
        let (part, after) = rest.split_at(start + length);
        parts.push(part);
        rest = after;
    }
    parts
}

/// The same CMS with indefinite lengths, down to the parts of the `SignedData`, as Java libraries write it.
pub fn ber(der: &[u8]) -> Vec<u8> {
    fn elements(mut der: &[u8], depth: u8, out: &mut Vec<u8>) {
        while !der.is_empty() {
            let (start, length) = header(der);
            let (tag, end) = (der[0], start + length);
            if tag & 0x20 != 0 && depth < 4 {
                out.extend([tag, 0x80]);
                elements(&der[start..end], depth + 1, out);
                out.extend([0, 0]);
            } else {
                out.extend(&der[..end]);
            }
            der = &der[end..];
        }
    }
    let mut out = Vec::new();
    elements(der, 0, &mut out);
    out
}

/// The same CMS as BER may say it, wherever it need not be DER: indefinite lengths, octet strings in pieces.
pub fn in_pieces(cms: &[u8]) -> Vec<u8> {
    let open = |tag: u8, content: &[u8]| [&[tag, 0x80], content, &[0, 0]].concat();
    let pieces = |tag: u8, octets: &[u8]| {
        let pieces: Vec<_> = octets.chunks(7).map(|piece| element(0x04, piece)).collect();
        open(tag, &pieces.concat())
    };
    let inside = |der: &[u8]| parts(der).concat();
    let [id, content] = parts(cms)[..] else { panic!() };
    let data = parts(parts(content)[0]);
    let (signers, rest) = data.split_last().unwrap();
    let signer = parts(parts(signers)[0]).into_iter().map(|part| match part[0] {
        // The signature.
        0x04 => pieces(0x24, value(part)),
        // The signer by its key identifier.
        0x80 => pieces(0xa0, value(part)),
        _ => part.to_vec(),
    });
    let signer = open(0x30, &signer.collect::<Vec<_>>().concat());
    let rest =
        rest.iter().map(|part| if part[0] == 0xa0 { open(0xa0, &inside(part)) } else { part.to_vec() });
    let data = [rest.collect::<Vec<_>>().concat(), open(0x31, &signer)].concat();
    open(0x30, &[id, &open(0xa0, &open(0x30, &data))].concat())
}
