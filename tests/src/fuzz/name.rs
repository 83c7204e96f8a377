//! Distinguished names by the letter: RFC 4514, and what its section 4 of RFC 2253 asks readers to take besides (spaces,
//! semicolons, quotes). Slow, and apart from the reader of the HTTPS listener, which is held against it.

/// Everything that the name calls a country, in its order; `None` if it is no such name. With `encoded`, each type and
/// value is URL-encoded by itself.
pub(super) fn countries(name: &str, encoded: bool) -> Option<Vec<String>> {
    let mut rest = name.trim();
    let mut found = Vec::new();
    loop {
        let (kind, after) = rest.split_once('=')?;
        let kind = if encoded { decoded(kind) } else { kind.to_owned() };
        let kind = kind.trim();
        if !is_type(kind) {
            return None;
        }
        let (value, after) = value(after.trim_start())?;
        if ["c", "countryname", "2.5.4.6", "oid.2.5.4.6"].contains(&kind.to_ascii_lowercase().as_str()) {
            let value = if encoded { decoded(&value) } else { value };
            found.push(value.trim().to_owned());
        }
        match after.chars().next() {
            None => return Some(found),
            Some(',' | ';' | '+') => rest = &after[1..],
            Some(_) => return None,
        }
    }
}

fn is_type(kind: &str) -> bool {
    let bare = kind.get(..4).filter(|p| p.eq_ignore_ascii_case("oid.")).map_or(kind, |p| &kind[p.len()..]);
    let numbers = |text: &str| {
        text.contains('.') && text.split('.').all(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    let word = kind.starts_with(|c: char| c.is_ascii_alphabetic())
        && kind.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    word || numbers(bare)
}

/// A value without its escapes, and what follows it.
fn value(text: &str) -> Option<(String, &str)> {
    if let Some(inside) = text.strip_prefix('"') {
        let (value, end) = string(inside, |c| c == '"')?;
        return Some((value, inside[end..].strip_prefix('"')?.trim_start()));
    }
    if let Some(digits) = text.strip_prefix('#') {
        // DER in hexadecimal: no two letters, whatever it says.
        let end = digits.find([',', ';', '+']).unwrap_or(digits.len());
        let whole = digits[..end].trim_end();
        let hex = !whole.is_empty() && whole.len() % 2 == 0 && whole.bytes().all(|b| b.is_ascii_hexdigit());
        return hex.then(|| (format!("#{whole}"), &digits[end..]));
    }
    let (value, end) = string(text, |c| [',', ';', '+'].contains(&c))?;
    let plain = !text[..end].replace("\\\"", "").contains(['"', '<', '>', '\0']);
    plain.then_some((value, &text[end..]))
}

/// Up to the first character, not escaped, that ends it.
fn string(text: &str, ends: impl Fn(char) -> bool) -> Option<(String, usize)> {
    let mut value = Vec::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        if ends(c) {
            return Some((String::from_utf8(value).ok()?, at));
        }
        if c != '\\' {
            value.extend(c.encode_utf8(&mut [0; 4]).bytes());
            continue;
        }
        let (_, escaped) = chars.next()?;
        if escaped.is_ascii_hexdigit() {
            let (_, second) = chars.next().filter(|(_, c)| c.is_ascii_hexdigit())?;
            value.push((escaped.to_digit(16)? * 16 + second.to_digit(16)?) as u8);
        } else if "\"+,;<>\\ #=".contains(escaped) {
            value.push(escaped as u8);
        } else {
            return None;
        }
    }
    Some((String::from_utf8(value).ok()?, text.len()))
}

/// URL-encoding undone; what is none stays.
pub(super) fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let pair = bytes.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        let byte = pair.filter(|p| p.iter().all(u8::is_ascii_hexdigit));
        match byte.and_then(|p| u8::from_str_radix(std::str::from_utf8(p).ok()?, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_by_the_letter() {
        let de = Some(vec!["DE".to_owned()]);
        for name in
            ["C=DE,O=x", r"CN=a\,b, C=\44\45", r#"O="C=FR, Inc.";c = DE"#, "O=a+2.5.4.6=DE", "OID.2.5.4.6=DE"]
        {
            assert_eq!(countries(name, false), de, "{name}");
        }
        assert_eq!(countries("CN=a%2CC=FR", true), Some(vec![]));
        assert_eq!(countries("CN=a,%20C=DE", true), de);
        assert_eq!(countries("C=DE,C=#1302", false), Some(vec!["DE".into(), "#1302".into()]));
        for none in ["", "C", "C=DE,", r"C=D\E", r#"C="DE"#, "C=D\"E", "C=<DE>", "/C=DE", "C=#1"] {
            assert_eq!(countries(none, false), None, "{none}");
        }
    }
}
