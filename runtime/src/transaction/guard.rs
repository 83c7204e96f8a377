//! Switches by which a test takes a guard out, to see that what it guards against does happen then.

/// Whether the guard with this name stands. Always, except in tests that were built with fail points.
pub(super) fn stands(name: &str) -> bool {
    fail::fail_point!(name, |_| false);
    // The name is used by fail points only.
    let _ = name;
    true
}

/// A named place at which tests stop, kill or delay an instance.
pub(super) fn pass(name: &str, instance: &str) {
    fail::fail_point!(&format!("{name}@{instance}"));
    let _ = (name, instance);
}
