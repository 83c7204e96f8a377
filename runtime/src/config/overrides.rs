//! Environment variables laid over the tree of a configuration.

use super::{
    Fault,
    tree::{Content, Entry, Node, Place},
};

const PREFIX: &str = "KEYFERRY_";

/// Variables that carry the prefix and are not configuration.
const OTHERS: [&str; 2] = ["KEYFERRY_LOG", "KEYFERRY_KAFKA_JARS"];
const TESTS: &str = "KEYFERRY_TEST_";

/// Applies every variable of ours, in order of their names.
pub(super) fn apply(
    root: &mut Node,
    variables: impl IntoIterator<Item = (String, String)>,
    faults: &mut Vec<Fault>,
) {
    let mut ours: Vec<_> = variables.into_iter().filter(|(name, value)| is_override(name, value)).collect();
    ours.sort();
    for (name, value) in ours {
        let place = Place::Variable(name.clone());
        let path: Vec<_> = name[PREFIX.len()..].split("__").collect();
        if path.iter().any(|level| level.is_empty()) {
            faults.push(Fault::new(&name, "names no field: `__` stands between two levels", None));
        } else if let Err(what) = set(root, &path, &value, &place) {
            faults.push(Fault::new(&name, what, None));
        }
    }
}

fn is_override(name: &str, value: &str) -> bool {
    // An empty variable is how compose files and charts say "not set".
    name.starts_with(PREFIX)
        && !value.is_empty()
        && !OTHERS.contains(&name)
        && !name.starts_with(TESTS)
        && !is_service_link(name, value)
}

/// Kubernetes tells every pod of a namespace about every service in it, and ours are called `keyferry-...`:
/// `KEYFERRY_GATEWAY_SERVICE_HOST`, `KEYFERRY_GATEWAY_PORT_443_TCP_ADDR` and so on.
fn is_service_link(name: &str, value: &str) -> bool {
    let port = |(_, rest): (&str, &str)| {
        let mut parts = rest.split('_');
        parts.next().is_some_and(|n| n.parse::<u16>().is_ok())
            && matches!(parts.next(), Some("TCP" | "UDP" | "SCTP"))
    };
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || (name.ends_with("_PORT") && value.contains("://"))
        || name.split_once("_PORT_").is_some_and(port)
}

fn set(node: &mut Node, path: &[&str], value: &str, place: &Place) -> Result<(), String> {
    let Some((level, rest)) = path.split_first() else {
        *node = Node { place: place.clone(), content: Content::Scalar { text: value.into(), plain: true } };
        return Ok(());
    };
    if node.is_null() {
        node.content = Content::Mapping(Vec::new());
    }
    match &mut node.content {
        Content::Mapping(entries) => {
            let name = level.to_lowercase();
            let known = entries.iter().position(|e| folded(&e.name) == name);
            let entry = if let Some(i) = known {
                &mut entries[i]
            } else {
                // Nothing yet: the place of the section is then that of the first variable in it.
                let value = Node { place: place.clone(), content: Content::Mapping(Vec::new()) };
                entries.push(Entry { name, place: place.clone(), value });
                let last = entries.len() - 1;
                &mut entries[last]
            };
            set(&mut entry.value, rest, value, place)
        }
        Content::Sequence(items) => {
            let item = level.parse::<usize>().ok().and_then(|i| items.get_mut(i));
            set(item.ok_or_else(|| format!("the list has no item `{level}`"))?, rest, value, place)
        }
        Content::Scalar { .. } => {
            Err(format!("has nothing above `{level}` to be part of: that is a plain value"))
        }
    }
}

/// As a name stands in a variable, which can hold neither dots nor hyphens (`sasl.password`).
pub(super) fn folded(name: &str) -> String {
    name.to_lowercase().replace(['.', '-'], "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kubernetes_adds_is_no_override() {
        for (name, value) in [
            ("KEYFERRY_PORT", "tcp://10.0.0.1:443"),
            ("KEYFERRY_GATEWAY_SERVICE_HOST", "10.0.0.1"),
            ("KEYFERRY_GATEWAY_SERVICE_PORT_HTTPS", "443"),
            ("KEYFERRY_GATEWAY_PORT_443_TCP", "tcp://10.0.0.1:443"),
            ("KEYFERRY_GATEWAY_PORT_443_TCP_ADDR", "10.0.0.1"),
            ("KEYFERRY_LOG", "debug"),
            ("KEYFERRY_TEST_BOOTSTRAP", "localhost:9092"),
            ("KEYFERRY_ADMIN__LISTEN", ""),
            ("PATH", "/bin"),
        ] {
            assert!(!is_override(name, value), "{name}");
        }
        assert!(is_override("KEYFERRY_ADMIN__LISTEN", "127.0.0.1:0"));
        assert!(is_override("KEYFERRY_PORT", "443"));
    }

    #[test]
    fn variables_reach_lists_and_names_with_dots() {
        let mut root =
            Node::parse("list: [{a: 1}]\noptions: {sasl.password: no}\nplain: 1\nempty:\n").unwrap();
        let mut faults = Vec::new();
        let variables = [
            ("KEYFERRY_LIST__0__A", "2"),
            ("KEYFERRY_LIST__1__A", "2"),
            ("KEYFERRY_OPTIONS__SASL_PASSWORD", "secret"),
            ("KEYFERRY_PLAIN__A", "2"),
            ("KEYFERRY_EMPTY__A", "2"),
            ("KEYFERRY_A____B", "2"),
        ];
        apply(&mut root, variables.map(|(n, v)| (n.into(), v.into())), &mut faults);
        let names: Vec<_> = faults.iter().map(|f| f.path.as_str()).collect();
        assert_eq!(names, ["KEYFERRY_A____B", "KEYFERRY_LIST__1__A", "KEYFERRY_PLAIN__A"]);
        let Content::Mapping(entries) = root.content else { panic!() };
        let Content::Mapping(options) = &entries[1].value.content else { panic!() };
        assert_eq!(options.len(), 1);
        assert!(matches!(&options[0].value.content, Content::Scalar { text, .. } if text == "secret"));
    }
}
