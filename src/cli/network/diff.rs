//! `network diff`: field by field, each list by what identifies its items, so that their order does not matter.

use std::{collections::BTreeMap, path::Path};

use keyferry_runtime::exit::Fatal;
use keyferry_schemas::{certificate::Certificate, network::Document};
use serde_json::Value;

use super::history;
use crate::cli::{Connection, files, out};

pub(super) fn run(file: &Path, connection: &Connection) -> Result<(), Fatal> {
    let (_, document) = files::document(file)?;
    let published = history::read(connection)?;
    let newest = published.last().map(|p| flat(p.network.document())).transpose()?.unwrap_or_default();
    let lines = compare(&newest, &flat(&document)?);
    if lines.is_empty() { out("no difference") } else { out(lines.join("\n")) }
}

fn compare(old: &BTreeMap<String, String>, new: &BTreeMap<String, String>) -> Vec<String> {
    let mut lines: Vec<_> = old
        .iter()
        .filter_map(|(path, before)| match new.get(path) {
            Some(after) if after == before => None,
            Some(after) => Some(format!("~ {path}: {before} -> {after}")),
            None => Some(format!("- {path}: {before}")),
        })
        .collect();
    lines.extend(
        new.iter()
            .filter(|(path, _)| !old.contains_key(*path))
            .map(|(path, after)| format!("+ {path}: {after}")),
    );
    // By path, whatever the sign.
    lines.sort_by(|a, b| a[2..].cmp(&b[2..]));
    lines
}

/// Every field by its path.
fn flat(document: &Document) -> Result<BTreeMap<String, String>, Fatal> {
    let value = serde_json::to_value(document)
        .map_err(|e| Fatal::failure(format_args!("the document can not be compared: {e}")))?;
    let mut fields = BTreeMap::new();
    walk(&value, String::new(), &mut fields);
    Ok(fields)
}

fn walk(value: &Value, path: String, fields: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(entries) => {
            for (name, value) in entries {
                // The certificate stands in the path, and the anchor's signature follows from it.
                if !matches!(name.as_str(), "pem" | "anchor_signature") {
                    let dot = if path.is_empty() { "" } else { "." };
                    walk(value, format!("{path}{dot}{name}"), fields);
                }
            }
        }
        // None at all is as good as not being there.
        Value::Array(items) if items.is_empty() => (),
        Value::Array(items) if items.iter().any(Value::is_object) => {
            items.iter().for_each(|item| walk(item, format!("{path}[{}]", identity(item)), fields));
        }
        Value::Array(items) => {
            fields.insert(path, items.iter().map(plain).collect::<Vec<_>>().join(" "));
        }
        _ => {
            fields.insert(path, plain(value));
        }
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// What an item of a list is known by: a country, a number, a certificate; for a state, its beginning.
fn identity(item: &Value) -> String {
    if let Some(pem) = item.get("pem").and_then(Value::as_str) {
        let usage = item.get("use").map(plain).unwrap_or_default();
        let sha256 = Certificate::from_pem(pem).map(|c| hex::encode(&c.sha256()[..8]));
        return format!("{usage} {}", sha256.unwrap_or_else(|_| "unusable".into()));
    }
    ["country", "id", "from"].iter().find_map(|field| item.get(field)).map(plain).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(value: &Value) -> BTreeMap<String, String> {
        let mut fields = BTreeMap::new();
        walk(value, String::new(), &mut fields);
        fields
    }

    #[test]
    fn order_is_no_difference_and_a_change_is_one_line() {
        let old = json!({ "version": 1, "members": [{ "country": "DE", "routing": "visited" }, { "country": "FR" }] });
        let same = json!({ "members": [{ "country": "FR" }, { "country": "DE", "routing": "visited" }], "version": 1 });
        assert_eq!(compare(&fields(&old), &fields(&same)), Vec::<String>::new());
        let new = json!({ "version": 2, "members": [
            { "country": "DE", "routing": "one-world" }, { "country": "LU", "certificates": [] }
        ] });
        assert_eq!(
            compare(&fields(&old), &fields(&new)),
            [
                "~ members[DE].routing: visited -> one-world",
                "- members[FR].country: FR",
                "+ members[LU].country: LU",
                "~ version: 1 -> 2",
            ]
        );
    }
}
